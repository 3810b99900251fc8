"""The tests that need a GPU: those with "cuda" in their name or parameters."""

import os
import re
import subprocess
import sys
from typing import Iterator

from benchmarks import ROOT
from benchmarks.gpu.rows import FIGURE, Result, Settings, attempt, holds

FOLDERS = ("tests/quantizer", "tests/nn", "tests/runtime", "tests/espnet")


def _tests(settings: Settings) -> Iterator[Result]:
    import pytest  # noqa: F401  skips the row where it is missing

    files = [
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("test_*.py"))
        if "cuda" in path.read_text()
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-k", "cuda", "-p", "no:cacheprovider"]
        + ["--continue-on-collection-errors", "-rf", *files],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    print(done.stdout, done.stderr)
    counts = {
        word: int(number)
        for number, word in re.findall(
            r"(\d+) (passed|failed|skipped|error)", done.stdout
        )
    }
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    note = ", ".join(f"{n} {word}" for word, n in counts.items())
    if settings.device == "cuda":
        good = counts.get("passed", 0) > 0 and not failed
        yield holds("tests that need a GPU", good, "; ".join([note, *failed[:5]]))
    else:
        yield Result("tests that need a GPU", FIGURE, note=note or done.stdout[-100:])


def run(settings: Settings) -> Iterator[Result]:
    """Yield the results of this row."""
    yield from attempt("tests", lambda: _tests(settings))
