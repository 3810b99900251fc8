"""Quantizes the layers of a model one after another, on their actual inputs.

The order is that of the model's own computation. Each stage is a pass over the
calibration data that collects the inputs of some weights while all earlier layers are
already quantized; then it chooses these weights and replaces them. The result of a
stage is first written to a file, so that an interrupted run can resume.
"""

import contextlib
import hashlib
import json
import re
import time
import weakref
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
)

import torch
from torch import nn

from espnet_gq.calibration.codebooks import fit_codebook, nearest, weights
from espnet_gq.calibration.hooks import Stop, before_calls, without_fused_attention
from espnet_gq.calibration.inputs import (
    computes_as_known,
    groups_and_columns,
    inputs_of,
    is_multiplied,
    is_own,
    stages_of,
)
from espnet_gq.calibration.norms import Moments, MomentSums, is_norm, moved
from espnet_gq.calibration.plan import Plan, Weight
from espnet_gq.calibration.second_order import Method, Statistics, choose
from espnet_gq.files import write_json
from espnet_gq.nn.finite import check_finite
from espnet_gq.packing import StoredQuantizer, load_object, save

PASSES = ("layer", "block")
IDENTITY = "calibration.json"
BLOCK_NAME = re.compile(r"(.*?\.\d+)\.")

Forward = Callable[[Any], Any]
"""Computes with the model on one item of the data."""


@dataclass(frozen=True)
class Chosen:
    """How a weight was quantized."""

    stored: StoredQuantizer
    indices: torch.Tensor
    how: str
    error: Optional[float] = None
    nearest_error: Optional[float] = None


@dataclass
class _Stage:
    """Weights and batch norms that one pass serves."""

    block: str
    modules: List[nn.Module]
    weights: List[str] = field(default_factory=list)
    norms: List[str] = field(default_factory=list)
    stop_before: Optional[nn.Module] = None


@dataclass
class _Calls:
    """Where in the first item's computation a module is called."""

    first: int
    last: int
    shares: bool
    """Whether its input is that of the module called before it."""


class Calibration:
    """A run on one model.

    Args:
        model: Float model in evaluation mode; its weights are replaced, in place.
        targets: What can be quantized.
        plan: What each of them gets.
        forward: Computes with the model on an item.
        data: The items, in memory.
        folder: Where the state of the run is kept.
        identity: What must be equal for a run to resume: model, data, options.
        method: How weights are chosen.
        passes: "layer" (a pass for each set of weights with the same inputs) or "block"
            (one for each numbered block of the model, whose layers then see what the
            float layers of the same block make).
        norms: Whether batch-norm statistics are moved.
        progress: Called with a line per stage.

    Raises:
        ValueError: If the folder holds the state of another run.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Sequence[Weight],
        plan: Plan,
        forward: Forward,
        data: Sequence[Any],
        folder: Path,
        identity: Mapping[str, Any],
        method: Method = Method(),
        passes: str = "layer",
        norms: bool = True,
        progress: Callable[[str], None] = lambda line: None,
    ):
        self.model, self.plan, self.method = model, plan, method
        self.targets = {t.name: t for t in targets if t.name in plan.options}
        self.forward, self.data, self.folder = forward, data, folder
        self.passes, self.norms, self.progress = passes, norms, progress
        self.modules = dict(model.named_modules())
        self._identify(identity)
        self._places = self._find_places()

    def _identify(self, identity: Mapping[str, Any]) -> None:
        own = {
            "method": asdict(self.method),
            "passes": self.passes,
            "norms": self.norms,
            "plan": {k: [o["bits"], o["method"]] for k, o in self.plan.options.items()},
            **identity,
        }
        digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
        path = self.folder / IDENTITY
        if path.exists():
            if json.loads(path.read_text(encoding="utf-8")).get("digest") != digest:
                raise ValueError(
                    f"{self.folder} holds a calibration of another model, other data "
                    "or options; allowed: the same ones, to go on, or to remove it"
                )
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, {"digest": digest, "run": own})

    def _find_places(self) -> Dict[str, List[nn.Module]]:
        """Return name -> layers that multiply with a weight, under whatever name."""
        users: Dict[int, List[nn.Module]] = {}
        for module in self.modules.values():
            for attribute, parameter in module._parameters.items():
                if is_multiplied(module, attribute):
                    users.setdefault(id(parameter), []).append(module)
        found = {}
        for name, target in self.targets.items():
            parameter = self.model.get_parameter(name)
            places = list(dict.fromkeys(users.get(id(parameter), [])))
            sizes = [
                groups_and_columns(m, target.shape, self._attribute(m, name))
                for m in places
            ]
            found[name] = [m for m, n in zip(places, sizes) if n == sizes[0]]
        return found

    def _attribute(self, module: nn.Module, name: str) -> str:
        parameter = self.model.get_parameter(name)
        return next(k for k, p in module._parameters.items() if p is parameter)

    # --- the order --------------------------------------------------------------------

    def _survey(self) -> Dict[nn.Module, _Calls]:
        """Return where each layer and batch norm is called, by the first item."""
        watched = {m for places in self._places.values() for m in places}
        watched |= {m for m in self.modules.values() if self.norms and is_norm(m)}
        calls: Dict[nn.Module, _Calls] = {}
        clock = 0
        before: Callable[[], Optional[torch.Tensor]] = lambda: None

        def hook(module, args, kwargs):
            nonlocal clock, before
            x = args[0] if args else kwargs.get("input")
            same = torch.is_tensor(x) and before() is x
            before = weakref.ref(x) if torch.is_tensor(x) else lambda: None
            if module in calls:
                calls[module].last = clock
            else:
                calls[module] = _Calls(clock, clock, same)
            clock += 1

        with before_calls(watched, hook), self._others_left_out(watched):
            self.forward(self.data[0])
        return calls

    @contextlib.contextmanager
    def _others_left_out(self, watched: Collection[nn.Module]) -> Iterator[None]:
        """Afterwards, classes that computed something else with their weights in the
        block are no places of a weight: their inputs are not known."""
        seen: Dict[nn.Module, bool] = {}

        def hook(module, args, kwargs, output):
            if module not in seen:
                seen[module] = computes_as_known(module, args, kwargs, output)

        own = {m for m in watched if not is_norm(m) and is_own(m)}
        handles = [m.register_forward_hook(hook, with_kwargs=True) for m in own]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        for name, places in self._places.items():
            self._places[name] = [m for m in places if m not in own or seen.get(m)]

    def _stages(self, calls: Mapping[nn.Module, _Calls]) -> List[_Stage]:
        """Return the passes to make, in order."""
        at: Dict[nn.Module, List[str]] = {}
        for name, places in self._places.items():
            called = [m for m in places if m in calls]
            if called:  # when the last layer that uses it is called
                at.setdefault(max(called, key=lambda m: calls[m].first), []).append(
                    name
                )
        order = sorted(calls, key=lambda m: calls[m].first)
        names = {module: name for name, module in self.modules.items()}
        stages: List[_Stage] = []
        for module in order:
            name = names[module]
            found = BLOCK_NAME.match(name)
            block = found[1] if found else name
            if is_norm(module):
                parts = [_Stage(block, [module], norms=[name])]
            else:
                parts = self._parts(module, at.get(module, []), block, calls)
            for number, part in enumerate(parts):
                joined = calls[module].shares and number == 0
                stage = self._joinable(stages, part, joined)
                if stage is None:
                    stages.append(part)
                else:
                    stage.weights += part.weights
                    stage.norms += part.norms
                    stage.modules += part.modules
        for stage in stages:
            last = max(calls[m].last for m in stage.modules)
            stage.stop_before = next((m for m in order if calls[m].first > last), None)
        return stages

    def _parts(
        self,
        module: nn.Module,
        weights: Sequence[str],
        block: str,
        calls: Mapping[nn.Module, _Calls],
    ) -> List[_Stage]:
        """Return the stages of the weights that a layer is the last to use."""
        own = {self._attribute(module, name): name for name in weights}
        found = []
        for attributes in stages_of(module, list(own)) if own else ():
            part = [own[attribute] for attribute in attributes]
            users = [m for name in part for m in self._places[name] if m in calls]
            found.append(_Stage(block, users, weights=part))
        return found

    def _joinable(
        self, stages: List[_Stage], part: _Stage, shares: bool
    ) -> Optional[_Stage]:
        """Return the stage that a part joins, None if it is one of its own."""
        if self.passes == "layer":
            last = stages[-1] if stages else None
            alike = last is not None and not last.norms and not part.norms
            return last if alike and shares else None
        for stage in stages[-2:]:  # weights of a block, then its batch norms
            if stage.block == part.block and bool(stage.norms) == bool(part.norms):
                return stage
        return None

    # --- the run ----------------------------------------------------------------------

    @torch.no_grad()
    def run(self) -> Dict[str, Chosen]:
        """Quantize all targets; returns how, by name.

        Raises:
            ValueError: If weights or activations are NaN or infinite.
        """
        with without_fused_attention():
            return self._run()

    def _run(self) -> Dict[str, Chosen]:
        calls = self._survey()
        stages = self._stages(calls)
        before = self._norm_moments()
        chosen: Dict[str, Chosen] = {}
        start, done = time.monotonic(), 0
        for number, stage in enumerate(stages):
            path = self.folder / f"stage-{number:04}.pth"
            if path.exists():
                state = load_object(path)
            else:
                state = self._stage(stage, before)
                save(state, path)
                done += 1
                spent = time.monotonic() - start
                left = spent / done * (len(stages) - number - 1)
                label = f"[{number + 1}/{len(stages)}, {left / 60:.1f} min left]"
                self.progress(f"{label} {_line(state)}")
            chosen.update(self._apply(state))
        for name, target in self.targets.items():
            if name not in chosen:
                chosen.update(self._apply({"weights": {name: self._nearest(target)}}))
        return chosen

    def _norm_moments(self) -> Dict[str, Moments]:
        """Return the moments of the batch norms' inputs in the float model."""
        path = self.folder / "norms.pth"
        if path.exists():
            return load_object(path)
        norms = {n: m for n, m in self.modules.items() if self.norms and is_norm(m)}
        found = {}
        if norms:
            self.progress(f"statistics of {len(norms)} batch norms in float")
            found = self._moments(norms, None)
        save(found, path)
        return found

    def _moments(
        self, norms: Mapping[str, nn.Module], stop: Optional[nn.Module]
    ) -> Dict[str, Moments]:
        sums = {
            m: MomentSums(len(m.get_buffer("running_mean"))) for m in norms.values()
        }

        def hook(module, args, kwargs):
            sums[module].add(args[0] if args else kwargs["input"])

        with before_calls(norms.values(), hook):
            self._pass(stop)
        return {name: sums[module].moments() for name, module in norms.items()}

    def _pass(self, stop: Optional[nn.Module]) -> None:
        """Compute on all data; each item up to the first call of a module."""

        def hook(module, args, kwargs):
            raise Stop

        with before_calls([] if stop is None else [stop], hook):
            for item in self.data:
                try:
                    self.forward(item)
                except Stop:
                    pass

    def _stage(self, stage: _Stage, before: Mapping[str, Moments]) -> Dict[str, Any]:
        if stage.norms:
            norms = {name: self.modules[name] for name in stage.norms}
            after = self._moments(norms, stage.stop_before)
            return {
                "weights": {},
                "norms": {n: moved(m, before[n], after[n]) for n, m in norms.items()},
            }
        statistics = self._collect(stage)
        found: Dict[str, Any] = {}
        for name in stage.weights:
            found[name] = self._choose(name, statistics[name])
        return {"weights": found, "norms": {}}

    def _collect(self, stage: _Stage) -> Dict[str, Statistics]:
        statistics: Dict[str, Statistics] = {}
        wanted: Dict[nn.Module, Dict[str, str]] = {}
        for name in stage.weights:
            module = self._places[name][0]
            attribute = self._attribute(module, name)
            size = groups_and_columns(module, self.targets[name].shape, attribute)
            statistics[name] = Statistics(*size)
            for place in self._places[name]:
                wanted.setdefault(place, {})[self._attribute(place, name)] = name

        def hook(module, args, kwargs):
            found = inputs_of(module, args, kwargs)
            for attribute, name in wanted[module].items():
                statistics[name].add(found[attribute])

        with before_calls(wanted, hook):
            self._pass(stage.stop_before)
        return statistics

    def _fitted(self, name: str):
        w = self.model.get_parameter(name).detach()
        check_finite([(name, w)])
        return w, fit_codebook(w, self.plan.options[name], self.targets[name].gates)

    def _nearest(self, target: Weight) -> Dict[str, Any]:
        w, stored = self._fitted(target.name)
        return _as_state(stored, nearest(w, stored), None, "nearest", None, None)

    def _choose(self, name: str, statistics: Statistics) -> Dict[str, Any]:
        if not statistics.count:
            return self._nearest(self.targets[name])
        w, stored = self._fitted(name)
        bias = self._bias(name)
        try:
            found = choose(w, stored, statistics, self.method, bias is not None)
        except ValueError as e:
            raise ValueError(f"{name}: {e}") from None
        how = "second order"
        if found.error > found.nearest_error:  # by the damping, on next to no data
            return _as_state(
                *(stored, nearest(w, stored), None, "nearest"),
                *(found.nearest_error, found.nearest_error),
            )
        return _as_state(
            *(found.stored, found.indices, found.bias, how),
            *(found.error, found.nearest_error),
        )

    def _bias(self, name: str) -> Optional[nn.Parameter]:
        """Return the bias that only this weight's layer adds to its product."""
        places = self._places[name]
        if len(places) != 1 or self._attribute(places[0], name) != "weight":
            return None
        return places[0]._parameters.get("bias")

    def _apply(self, state: Mapping[str, Any]) -> Dict[str, Chosen]:
        """Put what a stage found into the model."""
        chosen = {}
        for name, entry in state.get("weights", {}).items():
            stored = StoredQuantizer(
                entry["bits"], entry["log_scale"], entry["log_mu"], entry["centroids"]
            )
            parameter = self.model.get_parameter(name)
            parameter.copy_(weights(entry["indices"], stored))
            if entry["bias"] is not None:
                bias = self._bias(name)
                assert bias is not None
                bias.add_(entry["bias"])
            chosen[name] = Chosen(
                stored,
                entry["indices"],
                entry["how"],
                entry["error"],
                entry["nearest_error"],
            )
        for name, (mean, var) in state.get("norms", {}).items():
            self.modules[name].get_buffer("running_mean").copy_(mean)
            self.modules[name].get_buffer("running_var").copy_(var)
        return chosen


def _as_state(stored, indices, bias, how, error, nearest_error) -> Dict[str, Any]:
    return {
        "bits": stored.bits,
        "log_scale": stored.log_scale,
        "log_mu": stored.log_mu,
        "centroids": stored.centroids,
        "indices": indices,
        "bias": bias,
        "how": how,
        "error": error,
        "nearest_error": nearest_error,
    }


def _line(state: Mapping[str, Any]) -> str:
    parts = [
        (
            f"{name}: {entry['bits']} bits, output error {entry['error']:.4f} (nearest "
            f"{entry['nearest_error']:.4f})"
            if entry["error"] is not None
            else f"{name}: {entry['bits']} bits, nearest"
        )
        for name, entry in state["weights"].items()
    ]
    return "; ".join(parts + [f"{name}: statistics" for name in state["norms"]])
