"""Time and peak memory of a command, and what it was doing at the peak."""

import resource
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping

EVERY = 0.01
"""Seconds between two readings of the process's memory."""
FIELDS = ("VmHWM", "RssAnon", "RssFile")


@dataclass(frozen=True)
class Usage:
    """What a process took.

    Attributes:
        wall_seconds: From its start to its end.
        cpu_seconds: User and system time, all threads.
        resident_bytes: Peak of the resident memory (VmHWM), mapped file pages included;
            the system may drop those when it needs the memory.
        anonymous_bytes: Peak of RssAnon, sampled: what only the process can free.
        file_bytes: Peak of RssFile, sampled: mapped libraries and checkpoints.
        at_peak: When the resident peak was reached, and what the process had last
            printed to stderr.
        anonymous_at_peak: The same of the anonymous peak.
    """

    wall_seconds: float
    cpu_seconds: float
    resident_bytes: int
    anonymous_bytes: int
    file_bytes: int
    at_peak: str
    anonymous_at_peak: str


def memory(pid: int) -> Dict[str, int]:
    """Return the FIELDS of a process in bytes; empty if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    values = (line.split() for line in lines)
    return {
        words[0][:-1]: 1024 * int(words[1])
        for words in values
        if words[0][:-1] in FIELDS
    }


def measure(command: List[str], env: Mapping[str, str]) -> Usage:
    """Run a command and return what it took.

    Raises:
        RuntimeError: If it fails, with the end of what it printed.
    """
    peaks, at = dict.fromkeys(FIELDS, 0), dict.fromkeys(FIELDS, "")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        with open(log, "w") as output:
            process = subprocess.Popen(
                command, env=dict(env), stdout=subprocess.DEVNULL, stderr=output
            )
        while process.poll() is None:
            for field, value in memory(process.pid).items():
                if value > peaks[field]:
                    seconds = time.perf_counter() - started
                    peaks[field] = value
                    at[field] = f"{seconds:.0f} s, {_last_line(log) or 'start'}"
            time.sleep(EVERY)
        wall = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if process.returncode:
            reason = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(command)} failed:\n{reason}")
    return Usage(
        wall_seconds=wall,
        cpu_seconds=sum(
            getattr(after, field) - getattr(before, field)
            for field in ("ru_utime", "ru_stime")
        ),
        resident_bytes=peaks["VmHWM"],
        anonymous_bytes=peaks["RssAnon"],
        file_bytes=peaks["RssFile"],
        at_peak=at["VmHWM"],
        anonymous_at_peak=at["RssAnon"],
    )


def _last_line(log: Path) -> str:
    """Return the last line of a log, without reading all of it."""
    with open(log, "rb") as f:
        f.seek(max(0, log.stat().st_size - 400))
        lines = f.read().decode(errors="replace").splitlines()
    return lines[-1].strip() if lines else ""
