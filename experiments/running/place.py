"""The folder of a run of the grid: commands, data and float starts."""

import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Set, Tuple

import yaml

from benchmarks import ROOT
from benchmarks.espnet_models import Config
from espnet_gq.files import write_text
from experiments.cells import Grid, GridError

RECIPE = ROOT / "egs2/fsdd_gq/asr1"
LINKS = ("asr.sh", "path.sh", "cmd.sh", "run.sh", "conf", "local")
ERROR = re.compile(r"^\W*((\w+\.)*\w*(Error|Exception)\b:?.*|espnet_gq: error.*)$")
FLOAT_CHECKPOINT = "valid.loss.ave.pth"


class StepFailed(Exception):
    """A command of a cell failed."""


class Stopped(Exception):
    """The run was interrupted."""


def reason_of(log: Path) -> str:
    """Return the line of a log that explains the failure of a command best."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if ERROR.match(line)]
    return (errors or lines or ["it printed nothing"])[-1][:500]


class Workplace:
    """The folder of a run: recipe, configs, starts, logs and result files.

    Args:
        root: The folder; created if missing.
        grid: The declaration.
        fsdd: Folder of the recordings; None for those that the recipe finds.
        jobs: Number of cells that run in parallel.

    Raises:
        GridError: If another run uses the folder.
    """

    def __init__(self, root: Path, grid: Grid, fsdd: Optional[Path], jobs: int):
        self.root, self.grid, self.fsdd, self.jobs = root.resolve(), grid, fsdd, jobs
        self.recipe = self.root / "recipe"
        self.conf = self.root / "conf"
        self.starts = self.root / "starts"
        self.results = self.root / "results"
        self.logs = self.root / "logs"
        for folder in (self.recipe, self.conf, self.starts, self.results, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock_file = open(self.root / ".lock", "w")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise GridError(f"{root} is in use by another run") from None
        for name in LINKS:
            link = self.recipe / name
            link.unlink(missing_ok=True)
            link.symlink_to(RECIPE / name)
        self._running: Set[subprocess.Popen] = set()
        self._guard = threading.Lock()
        self._start_guard = threading.Lock()
        self.measuring = threading.Lock()
        self._start_failures: Dict[Tuple[str, str], str] = {}
        self.stopping = False

    # --- commands ---------------------------------------------------------------------

    def call(self, command: Sequence[str], log: Path) -> None:
        """Run a command in the recipe's folder on one thread.

        Raises:
            StepFailed: If it fails.
            Stopped: If the run was interrupted.
        """
        env = {
            name: value
            for name, value in os.environ.items()
            if name not in ("ESPNET_ROOT", "DATA", "FSDD")
        }
        env["OMP_NUM_THREADS"] = "1"
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
        env["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT), *filter(None, [env.get("PYTHONPATH")])]
        )
        if self.fsdd is not None:
            env["FSDD"] = str(self.fsdd.resolve())
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "w") as output:
            with self._guard:
                if self.stopping:
                    raise Stopped
                process = subprocess.Popen(
                    command,
                    cwd=self.recipe,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                self._running.add(process)
            status = process.wait()
        with self._guard:
            self._running.discard(process)
        if self.stopping:
            raise Stopped
        if status:
            raise StepFailed(f"{reason_of(log)} (see {log})")

    def stop(self) -> None:
        """Terminate the running commands."""
        with self._guard:
            self.stopping = True
            for process in self._running:
                try:
                    os.killpg(process.pid, signal.SIGTERM)
                except ProcessLookupError:
                    pass

    def run_sh(self, *options: str) -> List[str]:
        """Return a command line of the recipe."""
        return ["./run.sh", "--nj", str(self.jobs), *options]

    def script(self, name: str, *options: str) -> List[str]:
        """Return a command line of a module of this package."""
        return [sys.executable, "-m", f"experiments.running.{name}", *options]

    def tool(self, name: str, *options: str) -> List[str]:
        """Return a command line of `espnet_gq.bin`."""
        return [sys.executable, "-m", f"espnet_gq.bin.{name}", *options]

    # --- data and float starts --------------------------------------------------------

    def _once(self, name: str, command: Sequence[str]) -> None:
        done = self.recipe / "done" / name
        if not done.exists():
            self.call(command, self.logs / f"{name}.log")
            write_text(done, shlex.join(command) + "\n")

    def prepare_data(self) -> None:
        """Make the training, development and test sets.

        Raises:
            StepFailed: If that fails.
        """
        given = self.grid.data
        stages = ("--stage", "1", "--stop_stage", "5")
        recipe = ("--local_data_opts", given["recipe"])
        self._once("data", self.run_sh(*stages, *recipe))
        if "test_far" in self.grid.test_sets:
            folders = ("data/test_clean", "data/test_far")
            options = given["far_field"].split()
            far = self.script("far_field", *folders, *options)
            self._once("far_field", far)
            if not (self.recipe / "data/test_far/text").exists():
                (self.recipe / "done/far_field").unlink()  # try again in the next run
                print((self.logs / "far_field.log").read_text().strip(), flush=True)

    def write_config(self, name: str, config: Config) -> bool:
        """Write conf/NAME.yaml; return whether it existed with the same contents."""
        path, text = self.conf / f"{name}.yaml", yaml.safe_dump(config, sort_keys=False)
        same = path.exists() and path.read_text(encoding="utf-8") == text
        if not same:
            write_text(path, text)
        return same

    def training(self, name: str, architecture: str, *options: str) -> List[str]:
        """Return the command that trains conf/NAME.yaml."""
        return self.run_sh(
            *("--stage", "11", "--stop_stage", "11"),
            *("--asr_config", f"../conf/{name}.yaml"),
            *("--asr_stats_dir", f"exp/stats_{architecture}"),
            *("--asr_exp", f"exp/{name}"),
            *options,
        )

    def start(self, architecture: str, start: str) -> Path:
        """Return the checkpoint of a float start, training it on the first call.

        Raises:
            StepFailed: If that fails.
        """
        path = self.starts / f"{architecture}-{start}.pth"
        if path.with_suffix(".json").exists():  # without the lock
            return path
        with self._start_guard:
            if path.with_suffix(".json").exists():
                return path
            failed = self._start_failures.get((architecture, start))
            if failed:
                raise StepFailed(failed)
            try:
                self._make_start(architecture, start, path)
            except StepFailed as e:
                self._start_failures[architecture, start] = f"float start failed: {e}"
                raise StepFailed(f"float start failed: {e}") from None
        return path

    def _make_start(self, architecture: str, start: str, path: Path) -> None:
        name = f"{architecture}-start"
        if not self.write_config(name, self.grid.float_config(architecture)):
            shutil.rmtree(self.recipe / "exp" / name, ignore_errors=True)
            for done in (name, f"stats_{architecture}"):
                (self.recipe / "done" / done).unlink(missing_ok=True)
        options = ("--asr_config", f"../conf/{name}.yaml")
        stats = ("--asr_stats_dir", f"exp/stats_{architecture}")
        stage = ("--stage", "10", "--stop_stage", "10")
        self._once(f"stats_{architecture}", self.run_sh(*stage, *options, *stats))
        print(f"float start {architecture}-{start} ...", flush=True)
        self._once(name, self.training(name, architecture))
        given = self.grid.starts[start]
        self.call(
            self.script(
                "heavy",
                *("--config", f"exp/{name}/config.yaml"),
                *("--checkpoint", f"exp/{name}/{FLOAT_CHECKPOINT}"),
                *("--octaves", str(given.get("octaves", 0.0))),
                *("--seed", str(given.get("seed", 0))),
                *("--data", "data/dev", "--output", str(path)),
            ),
            self.logs / f"{architecture}-{start}.log",
        )
