"""The C interface: plain C, an engine that never ends the process, headers alone."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_gq.device import Model
from espnet_gq.device.engine import find_library

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from random_model import speech, transducer  # noqa: E402

ROOM = HERE.parents[1] / "espnet_gq" / "device" / "csrc"
KERNELS = HERE.parents[1] / "espnet_gq" / "native" / "csrc"
HEADERS = sorted(ROOM.rglob("*.h"))
ENGINE = [path for path in sorted(ROOM.rglob("*.*")) if path.suffix in (".h", ".cpp")]
ENGINE = [path for path in ENGINE if path.parent.name != "program"]
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic"]

needs_c = pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc")
needs_cpp = pytest.mark.skipif(not shutil.which("g++"), reason="no g++")


def call(*command):
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


@needs_cpp
@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)
def test_headers_compile_by_themselves(header):
    include = [f"-I{ROOM}", f"-I{KERNELS}"]
    call("g++", "-std=c++17", *include, "-fsyntax-only", "-x", "c++", header)


def test_includes_stay_in_the_rooms():
    """Of the kernels, the engine uses the interface, the layout of planes, and what
    loops of its own per instruction set are made of."""
    loops = {"target.h", "vector.h", "kernels/avx2.h", "kernels/avx512.h"}
    allowed = {"api.h", "packed/layout.h", *loops}
    for path in ENGINE:
        for name in re.findall(r'#include "([^"]+)"', path.read_text()):
            assert name in allowed or (ROOM / name).exists(), (path, name)


def test_the_engine_never_ends_the_process_or_prints():
    calls = r"\b(?:abort|exit|_exit|assert|printf|fprintf|puts|fputs|perror)\s*\("
    others = r"std::(?:cout|cerr|terminate)|\bthrow\b"
    for path in ENGINE:
        code = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        assert not re.findall(f"{calls}|{others}", code), path


PROGRAM = """
#include <stdio.h>
#include "gq_asr.h"

int main(int argc, char **argv) {
    gq_asr_error error;
    gq_asr_model *model;
    gq_asr_stream *stream;
    gq_asr_result best;
    float samples[100];
    size_t n;
    FILE *file = fopen(argv[argc - 1], "rb");
    if (gq_asr_model_open(argv[1], &model, &error) != GQ_ASR_OK) return 1;
    if (gq_asr_stream_open(model, NULL, &stream, &error) != GQ_ASR_OK) return 1;
    gq_asr_model_close(model);
    while ((n = fread(samples, sizeof *samples, 100, file)) > 0)
        if (gq_asr_stream_feed(stream, samples, (int64_t)n, &error)) return 1;
    if (gq_asr_stream_finish(stream, &error) != GQ_ASR_OK) return 1;
    if (gq_asr_stream_result(stream, 0, &best, &error) != GQ_ASR_OK) return 1;
    puts(best.text);
    if (gq_asr_stream_result(stream, 1, &best, &error) != GQ_ASR_BAD_ARGUMENT) return 1;
    puts(error.message);
    if (gq_asr_stream_feed(NULL, samples, 1, &error) != GQ_ASR_BAD_ARGUMENT) return 1;
    puts(error.message);
    if (gq_asr_stream_feed(stream, samples, -1, NULL) != GQ_ASR_BAD_ARGUMENT) return 1;
    gq_asr_stream_close(stream);
    gq_asr_stream_close(NULL);
    gq_asr_model_close(NULL);
    return gq_asr_version() != 256 * GQ_ASR_VERSION_MAJOR + GQ_ASR_VERSION_MINOR;
}
"""


@needs_c
@pytest.mark.skipif(find_library() is None, reason="no device engine")
def test_a_program_in_plain_c(tmp_path):
    transducer().write(tmp_path / "model.gguf")
    (tmp_path / "samples").write_bytes(speech().tobytes())
    (tmp_path / "main.c").write_text(PROGRAM)
    library = shutil.copy(find_library(), tmp_path / "libgq_asr.so")
    call(
        *("gcc", "-std=c99", *STRICT, f"-I{ROOM}", tmp_path / "main.c", library),
        *(f"-Wl,-rpath,{tmp_path}", "-o", tmp_path / "main"),
    )
    printed = call(tmp_path / "main", tmp_path / "model.gguf", tmp_path / "samples")
    (best,) = Model(tmp_path / "model.gguf").transcribe(speech())
    assert best.text and printed.splitlines() == [
        best.text,
        "there is no result 1; allowed: 0 to 0",
        "stream is NULL",
    ]
