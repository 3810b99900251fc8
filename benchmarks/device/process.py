"""A process that recognizes WAV files, and what the system says of it.

The first and the last of its files are named pipes: the process has loaded its model
when it opens the first, and waits at the last, all others done, while its memory is
read. It takes both for broken WAV files.
"""

import contextlib
import errno
import json
import os
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, Sequence

from benchmarks import ROOT

TIMING = re.compile(
    r"^gq-asr: (?P<file>.*): [\d.]+ s of speech in (?P<spent>[\d.]+) s \(.*\), "
    r"result (?P<late>-?[\d.]+) ms after its end$"
)
OPENED_EVERY, DONE_EVERY = 0.0002, 0.01
"""Seconds between two looks at the pipes."""


@dataclass(frozen=True)
class Utterance:
    """What a process did with a file.

    Attributes:
        latency: Seconds from the end of speech to the result.
        spent: Seconds of processing.
        tokens: Tokens of the result.
    """

    latency: float
    spent: float
    tokens: int


@dataclass(frozen=True)
class Run:
    """What a process took.

    Attributes:
        start_seconds: From its start to the first file.
        cpu_seconds: User and system time of all threads, from the first file on.
        peak_bytes: Peak of the resident memory (VmHWM).
        anonymous_bytes: Resident memory at the end that is of no file.
        file_bytes: The rest of it: mapped files.
        proportional_bytes: PSS at the end.
        utterances: By file.
    """

    start_seconds: float
    cpu_seconds: float
    peak_bytes: int
    anonymous_bytes: int
    file_bytes: int
    proportional_bytes: int
    utterances: Dict[str, Utterance]


def _fields(path: Path) -> Dict[str, int]:
    """Return the fields of a file in /proc in bytes."""
    pairs = (line.split(":") for line in path.read_text().splitlines() if ":" in line)
    words = ((key, value.split()) for key, value in pairs)
    return {k: 1024 * int(v[0]) for k, v in words if len(v) == 2 and v[1] == "kB"}


def _cpu_seconds(pid: int) -> float:
    """Return what a process has taken, in steps of 10 ms."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _reader(pipe: Path, process: Any, every: float) -> Iterator[None]:
    """Wait until the process opens the pipe; it then waits until the block ends.

    Raises:
        ChildProcessError: If the process ends before.
    """
    while True:
        try:
            handle = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError as e:
            if e.errno != errno.ENXIO:  # nobody has it open
                raise
        if process.poll() is not None:
            raise ChildProcessError
        time.sleep(every)
    try:
        yield
    finally:
        os.close(handle)


def run(command: Sequence[str], paths: Sequence[Path], threads: int) -> Run:
    """Run a command on WAV files, which are added to it.

    Raises:
        RuntimeError: If it fails, with the end of what it printed.
    """
    env = dict(os.environ, OMP_NUM_THREADS=str(threads))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first, last = folder / "first.wav", folder / "last.wav"
        log = folder / "log"
        os.mkfifo(first)
        os.mkfifo(last)
        words = [*map(str, command), *map(str, (first, *paths, last))]
        with open(log, "w") as output:
            begun = time.perf_counter()
            process = subprocess.Popen(
                words, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                with _reader(first, process, OPENED_EVERY):
                    start = time.perf_counter() - begun
                    cpu = -_cpu_seconds(process.pid)
                with _reader(last, process, DONE_EVERY):
                    cpu += _cpu_seconds(process.pid)
                    status = _fields(Path(f"/proc/{process.pid}/status"))
                    rollup = _fields(Path(f"/proc/{process.pid}/smaps_rollup"))
                process.wait()
            except ChildProcessError:
                reason = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{' '.join(words[:4])} ... failed:\n{reason}")
            finally:
                process.kill()
                process.wait()
        utterances = _parsed(log.read_text(errors="replace"))
    lost = [path.name for path in paths if str(path) not in utterances]
    if lost:
        raise RuntimeError(f"{' '.join(words[:4])} ... did not recognize {lost[0]}")
    return Run(
        start_seconds=start,
        cpu_seconds=cpu,
        peak_bytes=status["VmHWM"],
        anonymous_bytes=status["RssAnon"],
        file_bytes=status["RssFile"],
        proportional_bytes=rollup["Pss"],
        utterances=utterances,
    )


def _parsed(log: str) -> Dict[str, Utterance]:
    """Return the figures in the output of gq-asr, or of `live.recognize`."""
    found: Dict[str, Utterance] = {}
    tokens: Dict[str, int] = {}
    for line in log.splitlines():
        timing = TIMING.match(line)
        if timing:
            file, spent, late = timing["file"], timing["spent"], timing["late"]
            found[file] = Utterance(float(late) / 1e3, float(spent), tokens[file])
        elif line.startswith('{"file": '):
            row = json.loads(line)
            file = row["file"]
            if "token_int" in row:  # gq-asr --format json
                tokens[file] = len(row["token_int"])
            else:
                found[file] = Utterance(row["late"], row["spent"], row["tokens"])
    return found
