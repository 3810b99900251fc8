"""The cells of the grid as declared in grid.yaml, and their training configs."""

import copy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import yaml

from benchmarks import ROOT
from benchmarks.espnet_models import PARTS, Config, quantized

DECLARATION = Path(__file__).with_name("grid.yaml")
DECODING = ("ctc", "transducer")
SECTIONS = (
    *("data", "test_sets", "architectures", "training", "cell_training"),
    *("starts", "methods", "channel_scales_below", "ablations", "cells"),
)
CELL_KEYS = ("architecture", "start", "methods", "ablations", "bits", "seeds")

GQConfs = Dict[str, Config]
"""The gq_conf of the "encoder", the "decoder" and the "model"."""


class GridError(ValueError):
    """An invalid declaration or an unusable folder."""


@dataclass(frozen=True, order=True)
class Cell:
    """One model of the grid.

    Args:
        architecture: Key of `architectures`.
        start: Key of `starts`: the float model from which training starts.
        method: Key of `methods`.
        bits: Bit width, None for float.
        ablation: Key of `ablations`, or None.
        seed: Seed of the training, None if the cell is not trained.
    """

    architecture: str
    start: str
    method: str
    bits: Optional[int] = None
    ablation: Optional[str] = None
    seed: Optional[int] = None

    @property
    def name(self) -> str:
        """Name of the cell and of its files."""
        words = [self.architecture, self.start, self.method]
        words += [] if self.bits is None else [f"{self.bits}b"]
        words += [] if self.ablation is None else [self.ablation]
        words += [] if self.seed is None else [f"s{self.seed}"]
        return "-".join(words)


@dataclass(frozen=True)
class Architecture:
    """A model of the grid.

    Args:
        config: Name of a training config in conf/.
        decoding: Greedy decoding with "ctc" or "transducer".
        epochs: Epochs of the "float" model and of a "cell".
        changes: Keys that override those of the config.
    """

    config: str
    decoding: str
    epochs: Mapping[str, int]
    changes: Mapping[str, Any]


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Config:
    """Return base updated recursively with changes; None deletes a key."""
    result = dict(copy.deepcopy(base))
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            below = result.get(key)
            result[key] = merged(below if isinstance(below, Mapping) else {}, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


class Grid:
    """The declaration of the grid.

    Args:
        path: The YAML file.

    Raises:
        GridError: If it is invalid; names the file and the place.
    """

    def __init__(self, path: Path = DECLARATION):
        self.path = path
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as e:
            reason = " ".join(str(e).split())
            raise GridError(f"{path}: cannot be read ({reason})") from None
        if not isinstance(found, dict) or set(found) != set(SECTIONS):
            raise GridError(f"{path}: its sections must be {', '.join(SECTIONS)}")
        self.data: Dict[str, str] = found["data"]
        self.test_sets: List[str] = found["test_sets"]
        self.training: Config = found["training"]
        self.cell_training: Config = found["cell_training"]
        self.starts: Dict[str, Config] = found["starts"]
        self.methods: Dict[str, Config] = found["methods"]
        self.channel_scales_below: int = found["channel_scales_below"]
        self.ablations: Dict[str, Config] = found["ablations"]
        try:
            self.architectures = {
                name: Architecture(**given)
                for name, given in found["architectures"].items()
            }
        except TypeError as e:
            raise GridError(f"{path}: architectures: {e}") from None
        for name, given in self.architectures.items():
            if given.decoding not in DECODING:
                raise GridError(
                    f"{path}: architectures: decoding of {name} is "
                    f"{given.decoding!r}; allowed: {', '.join(DECODING)}"
                )
        cells = (cell for line in found["cells"] for cell in self._cells(line))
        self.cells: List[Cell] = list(dict.fromkeys(cells))

    def _cells(self, line: Mapping[str, Any]) -> Iterator[Cell]:
        unknown = sorted(set(line) - set(CELL_KEYS))
        if unknown:
            raise GridError(
                f"{self.path}: cells: unknown key '{unknown[0]}'; allowed: "
                f"{', '.join(CELL_KEYS)}"
            )
        architecture, start = line.get("architecture", ""), line.get("start", "")
        self._known("architecture", architecture, self.architectures)
        self._known("start", start, self.starts)
        for method in line.get("methods", ["gq"]):
            self._known("method", method, self.methods)
            trained = self.methods[method].get("train", True)
            widths = line.get("bits", [])
            if "gq_conf" not in self.methods[method]:
                widths = [None]
            for seed in line.get("seeds", [1]) if trained else [None]:
                for ablation in line.get("ablations", [None]):
                    if ablation is not None:
                        self._known("ablation", ablation, self.ablations)
                    for bits in widths:
                        names = (architecture, start, method)
                        yield Cell(*names, bits, ablation, seed)

    def _known(self, kind: str, name: Any, allowed: Mapping[str, Any]) -> None:
        if name not in allowed:
            raise GridError(
                f"{self.path}: cells: {kind} is {name!r}; allowed: "
                f"{', '.join(allowed)}"
            )

    def matching(self, patterns: Sequence[str]) -> List[Cell]:
        """Return the cells whose names match any of the shell patterns, in order.

        Raises:
            GridError: If no name matches.
        """
        found = [c for c in self.cells if any(fnmatchcase(c.name, p) for p in patterns)]
        if not found:
            raise GridError(
                f"no cell matches {' '.join(patterns)}; cells have names like "
                f"{self.cells[0].name} (`python -m experiments.grid list` prints them)"
            )
        return found

    def trains(self, cell: Cell) -> bool:
        """Return whether a cell is trained."""
        return not self.recalibrates(cell) and self.methods[cell.method].get(
            "train", True
        )

    def recalibrates(self, cell: Cell) -> bool:
        """Return whether a cell recalibrates the batch norms of another cell."""
        return self.ablation(cell).get("recalibrate", False)

    def ablation(self, cell: Cell) -> Config:
        """Return the declaration of a cell's ablation; empty if it has none."""
        return self.ablations[cell.ablation] if cell.ablation else {}

    def titles(self) -> Tuple[Dict[str, str], Dict[str, str]]:
        """Return the titles of the methods and of the ablations for reports."""
        return (
            {name: given["title"] for name, given in self.methods.items()},
            {name: given["title"] for name, given in self.ablations.items()},
        )

    # --- configs ---------------------------------------------------------------------

    def float_config(self, architecture: str) -> Config:
        """Return the training config of the float model.

        Raises:
            GridError: If its base config cannot be read.
        """
        given = self.architectures[architecture]
        path = ROOT / "conf" / given.config
        try:
            base = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as e:
            raise GridError(f"{path}: {e.strerror}") from None
        config = merged(merged(base, self.training), given.changes)
        config["max_epoch"] = given.epochs["float"]
        return config

    def gq_confs(self, cell: Cell) -> Optional[GQConfs]:
        """Return the gq_conf of each part of the model; None for a float cell."""
        conf = self.methods[cell.method].get("gq_conf")
        if conf is None or cell.bits is None:
            return None
        change = self.ablation(cell)
        scales = "channel" if cell.bits < self.channel_scales_below else "tensor"
        conf = {"bits": cell.bits, "granularity": scales, **conf}
        conf = merged(conf, change.get("gq_conf", {}))
        return {part: merged(conf, change.get(part, {})) for part in PARTS}

    def cell_config(self, cell: Cell, gq_confs: Optional[GQConfs] = None) -> Config:
        """Return the training config of a cell that is trained.

        Args:
            cell: The cell.
            gq_confs: Used instead of `gq_confs(cell)`, if given.
        """
        config = merged(self.float_config(cell.architecture), self.cell_training)
        epochs = self.architectures[cell.architecture].epochs["cell"]
        config["max_epoch"], config["seed"] = epochs, cell.seed
        conf = config.get("scheduler_conf", {})
        config["scheduler_conf"] = {
            key: epochs if value == "epochs" else value for key, value in conf.items()
        }
        gq_confs = gq_confs or self.gq_confs(cell)
        return config if gq_confs is None else quantized(config, gq_confs)
