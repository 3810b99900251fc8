"""Run a command repeatedly with a fault at its n-th change of a file."""

import contextlib
import ctypes
import hashlib
import json
import mmap
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

from benchmarks.options import program

HERE = Path(__file__).resolve().parent
MODES = {"off": 0, "trace": 1, "kill": 2, "torn": 3, "full": 4, "error": 5}
FAULTS = ("kill", "torn", "full", "error", "disk")
PATH_MAX = 4096
Digests = Dict[str, str]


class Damaged(Exception):
    """A file is incomplete or missing."""


@dataclass
class Case:
    """A command and the initial contents of its folder.

    Args:
        name: Name of the case.
        prepare: Fills the folder before the command runs.
        run: The command, given the folder.
        versions: Other commands whose results are valid intermediate states.
        digest: Maps a path to the contents that must be equal in two runs; raises if
            the file is not intact.
        any_version: Names of files of which any intact version is valid.
    """

    name: str
    prepare: Callable[[Path], None]
    run: Callable[[Path], None]
    versions: Sequence[Callable[[Path], None]] = ()
    digest: Optional[Callable[[Path], Any]] = None
    any_version: Sequence[str] = ()


# ---- The library that injects the faults --------------------------------------------
class Injector:
    """The library's control file, shared with the watched processes."""

    def __init__(self, folder: Path):
        self.path = folder / "control"
        self.trace = folder / "control.trace"
        self.path.write_bytes(bytes(24 + PATH_MAX))
        with open(self.path, "r+b") as f:
            self.memory = mmap.mmap(f.fileno(), 0)
        library = ctypes.CDLL(None)
        library.faults_control(str(self.path).encode())
        os.environ["FAULTS_CONTROL"] = str(self.path)

    def arm(self, fault: str, at: int, watched: Path) -> None:
        self.trace.write_bytes(b"")
        folder = (str(watched) + "/").encode()
        self.memory[24 : 24 + len(folder) + 1] = folder + b"\0"
        self.memory[8:24] = struct.pack("qq", at, 0)
        self.memory[:8] = struct.pack("q", MODES[fault])

    def off(self) -> None:
        self.memory[:8] = bytes(8)

    def changes(self) -> List[Tuple[str, str]]:
        """Return (kind, path) of every recorded change."""
        lines = self.trace.read_text().splitlines()
        return [(kind, path) for kind, path in (line.split(" ", 1) for line in lines)]


def compiled(folder: Path) -> Path:
    """Compile the library."""
    library = folder / "faults.so"
    command = [os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC"]
    command += ["-o", str(library), str(HERE / "inject.c"), "-ldl"]
    subprocess.run(command, check=True)
    return library


def restart_with_library() -> Path:
    """Run this program again with the library preloaded; return the working folder."""
    if "FAULTS_WORK" in os.environ:
        return Path(os.environ["FAULTS_WORK"])
    work = Path(tempfile.mkdtemp(prefix="faults."))
    fixed = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONHASHSEED": "0"}
    environment = {**os.environ, **fixed, "FAULTS_WORK": str(work)}
    environment["LD_PRELOAD"] = str(compiled(work))
    done = subprocess.run([sys.executable, *program(), *sys.argv[1:]], env=environment)
    shutil.rmtree(work, ignore_errors=True)
    sys.exit(done.returncode)


# ---- Contents of a folder -----------------------------------------------------------
def hashed(value: Any) -> str:
    """Return a digest of the contents of a file, ignoring times."""
    import torch

    digest = hashlib.sha256()

    def add(v: Any) -> None:
        if torch.is_tensor(v):
            add([str(v.dtype), list(v.shape)])
            digest.update(v.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(v, dict):
            for key in v:
                if "time" not in str(key):
                    add(str(key))
                    add(v[key])
        elif isinstance(v, (list, tuple)):
            digest.update(f"[{len(v)}".encode())
            for item in v:
                add(item)
        else:
            digest.update(repr(v).encode() + b";")

    add(value)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    """Return a digest of a file; raise if it is not intact."""
    from espnet_gq._compat import checkpoint_types
    from espnet_gq.packing import is_packed, unpack_state_dict

    if path.is_symlink():
        target = os.readlink(path)
        if not path.exists():
            raise Damaged(f"{path.name} points to {target}, which does not exist")
        return f"-> {target}"
    if path.suffix == ".pth":
        import torch

        with torch.serialization.safe_globals(checkpoint_types()):
            value = torch.load(path, weights_only=True)
        if is_packed(value):
            unpack_state_dict(value)
        return hashed(value)
    if path.suffix == ".json":
        return hashed(json.loads(path.read_text()))
    if path.suffix == ".png":
        content = path.read_bytes()
        if content[:4] != b"\x89PNG" or content[-8:-4] != b"IEND":
            raise Damaged(f"{path.name} is not a complete image")
        return "image"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(folder: Path, case: Case) -> Tuple[Digests, List[str]]:
    """Return digests of all files by name, and the leftovers of killed writers.

    Raises:
        Damaged: If a file is not intact.
    """
    from espnet_gq.files import SUFFIX

    found: Digests = {}
    leftovers: List[str] = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        name = "/".join(parts)
        # A temporary file or folder, or a file in such a folder.
        if any(part.startswith(".") and part.endswith(SUFFIX) for part in parts):
            leftovers.append(name)
            continue
        if path.is_dir() and not path.is_symlink():
            continue
        try:
            found[name] = (case.digest or digest_of)(path)
        except Exception as e:
            reason = (str(e).splitlines() or [type(e).__name__])[0]
            raise Damaged(f"{name}: {reason}") from None
    return found, leftovers


# ---- Running ------------------------------------------------------------------------
def in_child(function: Callable[[], None], log: Path, arm=None) -> int:
    """Run a function in a forked process; return its status, -signal if killed."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(out, 1)
            os.dup2(out, 2)
            if arm is not None:
                arm()
            function()
            status = 0
        except SystemExit as e:
            if isinstance(e.code, str):
                print(e.code, file=sys.stderr)
            status = e.code if isinstance(e.code, int) else int(e.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@dataclass
class Outcome:
    """Results of the points of one kind of fault."""

    points: int = 0
    survived: int = 0
    data_lost: int = 0
    by_change: Counter = field(default_factory=Counter)
    ended: Counter = field(default_factory=Counter)
    """Exit of the command with the fault: killed, error or done."""
    leftovers: int = 0
    """Points after which a temporary file was left for the next run to remove."""
    problems: List[str] = field(default_factory=list)


class Runner:
    """Run one case with faults."""

    def __init__(self, case: Case, work: Path, injector: Injector):
        self.case, self.injector = case, injector
        self.folder = work / case.name
        self.folder.mkdir()
        self.start, self.at = self.folder / "start", self.folder / "run"
        self.log = self.folder / "log"
        self.resumed: Dict[str, List[str]] = {}
        self.start.mkdir()
        # All commands run in a folder of the same name, because files may contain it.
        self._command(case.prepare)
        self.start.rmdir()
        self.at.rename(self.start)
        self.allowed: Dict[str, Set[str]] = {}
        before, _ = digests(self.start, case)
        self._allow(before)
        for version in (*case.versions, case.run):
            self._fresh()
            self._command(version)
            self.final, _ = digests(self.at, case)
            self._allow(self.final)
        self.before = before
        self._fresh()
        injector.arm("trace", 0, self.at)
        self._command(case.run, off=False)
        injector.off()
        self.changes = injector.changes()
        again, _ = digests(self.at, case)
        if again != self.final:
            names = [n for n in self.final if again.get(n) != self.final[n]]
            raise SystemExit(f"{case.name}: two runs without faults differ in {names}")

    def _allow(self, found: Digests) -> None:
        for name, digest in found.items():
            self.allowed.setdefault(name, set()).add(digest)

    def _fresh(self) -> None:
        if self.at.exists():
            shutil.rmtree(self.at)
        shutil.copytree(self.start, self.at, symlinks=True)

    def _command(self, function: Callable[[Path], None], off: bool = True) -> None:
        self.at.mkdir(exist_ok=True)
        if in_child(lambda: function(self.at), self.log):
            if off:
                self.injector.off()
            raise SystemExit(f"{self.case.name}: {self.log.read_text()[-3000:]}")

    def points(self, fault: str, most: int, draw: random.Random) -> List[int]:
        """Return at most `most` changes for faults; omit writes first."""
        if fault == "disk":
            return self.sizes(most or 40)
        every = range(len(self.changes))
        if not most or len(every) <= most:
            return list(every)
        rare = [n for n in every if self.changes[n][0] != "write"]
        writes = [n for n in every if self.changes[n][0] == "write"]
        share = max(most * 2 // 3, most - len(writes))
        rare = draw.sample(rare, min(len(rare), share))
        return sorted(rare + draw.sample(writes, most - len(rare)))

    def sizes(self, number: int) -> List[int]:
        """Return sizes of file systems, from too small to large enough."""
        least, needed = (
            sum(p.lstat().st_size // 4096 + 2 for p in folder.rglob("*"))
            for folder in (self.start, self.at)
        )
        step = max((2 * needed - least) // number, 1)
        return [4096 * (least + n * step) for n in range(number)]

    def meet(self, fault: str, at: int, outcome: Outcome) -> None:
        """Run the command once with a fault, check its files, and run it again."""
        if fault == "disk":
            status = self._on_small_disk(at)
            if status is None:
                return
            outcome.by_change["disk"] += 1
        else:
            self._fresh()
            status = in_child(
                lambda: self.case.run(self.at),
                self.log,
                lambda: self.injector.arm(fault, at, self.at),
            )
            self.injector.off()
            outcome.by_change[self.changes[at][0]] += 1
        outcome.points += 1
        outcome.ended["killed" if status < 0 else "error" if status else "done"] += 1
        where = f"{fault} at {at}"
        if fault != "disk":
            where += " ({} {})".format(*self.changes[at])
        problems: List[str] = []
        try:
            found, leftovers = digests(self.at, self.case)
            outcome.leftovers += bool(leftovers)
            problems += self._unknown(found)
            kept = [name for name in self.before if name in self.final]
            problems += [f"{name} is missing" for name in kept if name not in found]
            if status == 0 and any(found.get(n) != d for n, d in self.final.items()):
                problems.append("succeeded with another result")
            if status > 0 and leftovers:
                problems.append(f"ended and left {leftovers[0]}")
            state = hashed([sorted(found.items()), bool(leftovers)])
            if state not in self.resumed:
                self.resumed[state] = self._resume()
            problems += self.resumed[state]
        except Damaged as e:
            problems.append(str(e))
        if problems:
            outcome.data_lost += 1
            outcome.problems += [f"{self.case.name}: {where}: {p}" for p in problems]
        else:
            outcome.survived += 1

    def _unknown(self, found: Digests) -> List[str]:
        return [
            f"{name} has contents that do not occur without faults"
            for name, digest in found.items()
            if name not in self.case.any_version
            and digest not in self.allowed.get(name, ())
        ]

    def _resume(self) -> List[str]:
        """Run the command again; return the problems."""
        if in_child(lambda: self.case.run(self.at), self.log):
            return [f"second run fails: {self.log.read_text()[-500:]}"]
        try:
            found, leftovers = digests(self.at, self.case)
        except Damaged as e:
            return [f"second run: {e}"]
        problems = [f"{name} is left" for name in leftovers]
        problems += self._unknown(found)
        for name, digest in self.final.items():
            if name not in found:
                problems.append(f"second run lacks {name}")
            elif found[name] != digest:
                problems.append(f"second run has another {name}")
        return problems

    def _on_small_disk(self, size: int) -> Optional[int]:
        """Run in a file system of `size` bytes; copy its contents to `at` afterwards.

        Returns the exit status; None if the initial contents do not fit.
        """
        if self.at.exists():
            shutil.rmtree(self.at)
        self.at.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.at)]
        subprocess.run(mount, check=True)
        status = None
        try:
            with contextlib.suppress(OSError, shutil.Error):
                shutil.copytree(self.start, self.at, symlinks=True, dirs_exist_ok=True)
                status = in_child(lambda: self.case.run(self.at), self.log)
            shutil.copytree(self.at, self.folder / "kept", symlinks=True)
        finally:
            subprocess.run(["umount", str(self.at)], check=True)
        self.at.rmdir()
        (self.folder / "kept").rename(self.at)
        return status


def can_mount(work: Path) -> bool:
    """Return whether this process may mount a small file system."""
    folder = work / "mount"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True
