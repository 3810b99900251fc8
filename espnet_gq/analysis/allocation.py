"""Bit widths of all tensors, from the cost of quantizing each alone.

The costs are assumed to add up. Choosing one width per tensor for the
least sum under a budget is then a multiple-choice knapsack (Sinha and Zoltners,
Operations Research 27, 1979), which `minimise` solves exactly.
"""

import contextlib
import ctypes
import glob
import os
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from espnet_gq.analysis.sensitivity import Sensitivity, TensorCosts
from espnet_gq.nn import GQConfig

_SLACK = 1e-12
"""Relative excess over a budget that counts as rounding."""
_RESOLUTION = 1e3
"""The heaviest row, and the cost of the linear relaxation, in the solver's units."""
_ATTEMPTS = 5
KINDS = ("second_order", "loss")
PREFIX = "gq_"


@dataclass(frozen=True)
class Allocation:
    """A choice of bit widths.

    Attributes:
        bits: Name of the tensor -> bit width.
        costs: Name of the tensor -> cost at that width.
        effective_bits: Mean bits per quantized weight.
        file_bytes: Size of the packed file, to within a few hundred bytes.
    """

    bits: Dict[str, int]
    costs: Dict[str, float]
    effective_bits: float
    file_bytes: int

    @property
    def cost(self) -> float:
        """Sum over the tensors."""
        return sum(self.costs.values())


def monotone_costs(tensor: TensorCosts, by: str = KINDS[0]) -> Dict[int, float]:
    """Return the costs of a tensor by width, which rise as bits fall.

    A cost is the largest magnitude at this width or a wider one with as many scales (a
    codebook of fewer bits with one scale per channel can be better than a wider one).
    A loss that falls counts as one that rises: both measure how far the model has
    moved, the sign depends on the utterances, and such gains do not add up.

    Args:
        tensor: Measured costs.
        by: One of KINDS.
    """
    costs: Dict[int, float] = {}
    largest: Dict[int, float] = {}
    for bits, cost in sorted(tensor.costs.items(), reverse=True):
        costs[bits] = max(abs(getattr(cost, by)), largest.get(cost.scales, 0.0))
        largest[cost.scales] = costs[bits]
    return costs


def allocate(
    sensitivity: Sensitivity,
    by: str = KINDS[0],
    effective_bits: Optional[float] = None,
    max_size: Optional[float] = None,
    max_loss: Optional[float] = None,
) -> Allocation:
    """Choose the bit widths of least summed cost, or of least size.

    One of the three budgets is given. The result has the least cost within it, or the
    least size where the budget is max_loss.

    Args:
        sensitivity: Measured costs of every tensor.
        by: The cost that counts, one of KINDS.
        effective_bits: Largest mean of bits per quantized weight.
        max_size: Largest size of the whole packed file, in bytes.
        max_loss: Largest summed cost.

    Raises:
        ValueError: If tensors are missing, or no choice is within the budget.
    """
    budgets = {
        "effective_bits": effective_bits,
        "max_size": max_size,
        "max_loss": max_loss,
    }
    given = {key: value for key, value in budgets.items() if value is not None}
    if len(given) != 1:
        raise ValueError(
            f"{len(given)} budgets are given; allowed: one of {', '.join(budgets)}"
        )
    ((key, budget),) = given.items()
    _check_complete(sensitivity)
    rest = sensitivity.unquantized["bytes"]
    weights = sum(t.numel for t in sensitivity.tensors)
    widths, tables = [], []
    for tensor in sensitivity.tensors:
        costs = monotone_costs(tensor, by)
        widths.append(list(costs))
        cost = np.array(list(costs.values()), dtype=float)
        size = np.array([tensor.costs[b].bytes for b in costs], dtype=float)
        if key == "max_loss":
            columns = cost, size
        elif key == "max_size":
            columns = size, cost
        else:
            columns = np.array(list(costs), dtype=float) * tensor.numel, cost
        tables.append(np.stack(columns, axis=1))
    share = weights if key == "effective_bits" else 1.0
    fixed = rest if key == "max_size" else 0.0
    least = sum(table[:, 0].min() for table in tables)
    if budget * share - fixed < least:
        least = (least + fixed) / share
        raise ValueError(
            f"{key} is {budget:g}, which the measured widths cannot reach; allowed: "
            f"{_rounded_up(least)} or more"
        )
    rows = minimise(tables, budget * share - fixed)
    bits = [w[row] for w, row in zip(widths, rows)]
    return allocation_of(sensitivity, bits, by)


def _rounded_up(value: float) -> str:
    text = f"{value:.6g}"
    return text if float(text) >= value else f"{value * (1 + 1e-5):.6g}"


def allocation_of(
    sensitivity: Sensitivity, bits: Sequence[int], by: str = KINDS[0]
) -> Allocation:
    """Return the allocation of given widths, in the order of the tensors."""
    tensors = sensitivity.tensors
    total = sum(t.numel for t in tensors)
    return Allocation(
        bits={t.name: b for t, b in zip(tensors, bits)},
        costs={t.name: monotone_costs(t, by)[b] for t, b in zip(tensors, bits)},
        effective_bits=sum(t.numel * b for t, b in zip(tensors, bits)) / total,
        file_bytes=sensitivity.unquantized["bytes"]
        + sum(t.costs[b].bytes for t, b in zip(tensors, bits)),
    )


def _check_complete(sensitivity: Sensitivity) -> None:
    if sensitivity.unmeasured or not sensitivity.tensors:
        done = len(sensitivity.tensors)
        raise ValueError(
            f"{done} of {done + sensitivity.unmeasured} tensors are measured; allowed: "
            "a finished file (the same espnet-gq sensitivity continues it)"
        )
    for tensor in sensitivity.tensors:
        if not tensor.costs:
            raise ValueError(
                f"{tensor.name} has no bit width with a finite loss; allowed: a file "
                "in which every tensor has one"
            )


def minimise(tables: Sequence[np.ndarray], budget: float) -> List[int]:
    """Choose a row of each table: least summed value, summed weight within the budget.

    The multiple-choice knapsack as a mixed-integer program: x[i, r] = 1 where row r of
    table i is chosen,

        minimise sum v[i, r] x[i, r]  subject to  sum_r x[i, r] = 1 for every i,
                                                  sum w[i, r] x[i, r] <= budget,

    solved to optimality by HiGHS. Rows that another row of their table beats in both
    columns are left out first.

    Args:
        tables: Arrays (rows, 2) of weight and value, both finite; values at least 0.
        budget: Largest sum of weights.

    Returns:
        Index of the row of each table.

    Raises:
        ValueError: If the lightest rows together exceed the budget.
    """
    fronts = [_front(table) for table in tables]
    kept = [table[front] for table, front in zip(tables, fronts)]
    if sum(table[0, 0] for table in kept) > budget * (1 + _SLACK):
        raise ValueError(f"no choice keeps to a budget of {budget:g}")
    rows = [len(table) - 1 for table in kept]  # the cheapest, whatever they weigh
    if _total(kept, rows)[0] > budget:
        rows = _solve(kept, budget)
    return [int(front[row]) for front, row in zip(fronts, rows)]


def _total(tables: Sequence[np.ndarray], rows: Sequence[int]) -> np.ndarray:
    """Return the summed weight and value of a choice."""
    return np.sum([table[row] for table, row in zip(tables, rows)], axis=0)


def _solve(tables: Sequence[np.ndarray], budget: float) -> List[int]:
    """Return the optimal rows of tables that `_front` has ordered."""
    sizes = [len(table) for table in tables]
    owner = np.repeat(np.arange(len(tables)), sizes)
    weights, values = np.concatenate(tables).T
    # HiGHS stops at an absolute gap of 1e-6, and its tolerances are absolute too: both
    # columns are scaled so that these are small.
    heaviest = float(np.abs(weights).max())
    unit = heaviest / _RESOLUTION if heaviest else 1.0
    excess = values - np.array([table[-1, 1] for table in tables])[owner]
    excess /= float(excess.max()) or 1.0
    each: Any = csr_array((np.ones(len(owner)), (owner, np.arange(len(owner)))))

    def choice(costs: np.ndarray, limit: float, whole: bool) -> np.ndarray:
        within = LinearConstraint(weights[None] / unit, -np.inf, limit / unit)
        return _milp(costs, [LinearConstraint(each, 1, 1), within], whole)

    relaxed = float(excess @ choice(excess, budget, whole=False))
    limit = budget
    for _ in range(_ATTEMPTS):
        costs = excess * _RESOLUTION / (relaxed or 1.0)
        found = np.split(choice(costs, limit, whole=True), np.cumsum(sizes)[:-1])
        rows = [int(np.argmax(part)) for part in found]
        over = float(_total(tables, rows)[0]) - budget
        if over <= _SLACK * abs(budget):
            return rows
        limit -= over  # the excess is within the tolerance of the solver
    raise RuntimeError(f"the choice of bit widths keeps exceeding a budget of {budget}")


def _milp(
    costs: np.ndarray, constraints: List[LinearConstraint], whole: bool
) -> np.ndarray:
    """Return the x in [0, 1] of least summed cost; `whole`: each 0 or 1.

    Raises:
        RuntimeError: If the solver fails.
    """
    with _silent():
        result = milp(
            costs,
            integrality=np.full(len(costs), int(whole)),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},
        )
    if result.x is None:
        raise RuntimeError(f"the choice of bit widths failed: {result.message}")
    return result.x


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Discard what C code prints: SciPy's HiGHS prints to stdout."""
    sys.stdout.flush()
    flush = ctypes.CDLL(None).fflush
    flush(None)
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _front(table: np.ndarray) -> np.ndarray:
    """Return the rows that no other beats, from light and costly to heavy and cheap."""
    order = np.lexsort((table[:, 1], table[:, 0]))
    values = table[order, 1]
    lowest_before = np.minimum.accumulate(np.append(np.inf, values[:-1]))
    return order[values < lowest_before]


def split_name(name: str) -> Tuple[str, str]:
    """Return the section whose gq_conf holds a parameter, and its name there.

    >>> split_name("encoder.encoders.0.feed_forward.w_1.weight")
    ('encoder_conf', 'encoders.0.feed_forward.w_1.weight')
    >>> split_name("ctc.ctc_lo.weight")
    ('model_conf', 'ctc.ctc_lo.weight')
    """
    part, _, inside = name.partition(".")
    if part in ("encoder", "decoder"):
        return f"{part}_conf", inside
    return "model_conf", name


def gq_confs(
    bits: Mapping[str, int], default_bits: Optional[int] = None
) -> Dict[str, Dict[str, Any]]:
    """Return the configuration of given bit widths.

    Args:
        bits: Name of the parameter inside the model -> bit width.
        default_bits: Width without a rule. None: the most common one of each part.

    Returns:
        {"encoder_conf": {"gq_conf": {"bits": ..., "rules": [...]}}, ...}
    """
    parts: Dict[str, Dict[str, int]] = {}
    for name, width in bits.items():
        conf, inside = split_name(name)
        parts.setdefault(conf, {})[inside] = width
    confs = {}
    for conf, widths in parts.items():
        default = default_bits or Counter(widths.values()).most_common(1)[0][0]
        gq_conf: Dict[str, Any] = {"bits": default}
        rules = [
            {"pattern": glob.escape(name), "bits": width}
            for name, width in widths.items()
            if width != default
        ]
        if rules:
            gq_conf["rules"] = rules
        GQConfig.from_dict(gq_conf)
        confs[conf] = {"gq_conf": gq_conf}
    return confs


def merge(
    base: Mapping[str, Any], confs: Mapping[str, Dict[str, Any]], task: str = "asr"
) -> Dict[str, Any]:
    """Return a training configuration with other bit widths.

    In each gq_conf `bits` and `rules` are replaced; all else stays.

    Args:
        base: Training configuration with quantized classes.
        confs: See `gq_confs`.
        task: "asr" or "asr_transducer".

    Raises:
        ValueError: If a class is not a quantized one, so that it takes no gq_conf.
    """
    merged = dict(base)
    for conf, new in confs.items():
        part = conf.removesuffix("_conf")
        # The second transducer task has one encoder and one model, without a name.
        if task == "asr" or part == "decoder":
            name = base.get(part)
            if not isinstance(name, str) or not name.startswith(PREFIX):
                raise ValueError(
                    f"{part} is {name!r}, which takes no gq_conf; allowed: a quantized "
                    f"class such as {_example(part, name)}"
                )
        old = base.get(conf) or {}
        if not isinstance(old, Mapping):
            raise ValueError(f"{conf} is {old!r}; allowed: a mapping")
        GQConfig.from_dict(old.get("gq_conf"))
        gq_conf = {k: v for k, v in (old.get("gq_conf") or {}).items() if k != "rules"}
        gq_conf.update(new["gq_conf"])
        GQConfig.from_dict(gq_conf)
        merged[conf] = {**old, "gq_conf": gq_conf}
    return merged


def _example(part: str, name: Any) -> str:
    if part == "model":
        return "gq_espnet"
    return PREFIX + (name if isinstance(name, str) else "transformer")
