"""Bit widths of all tensors, chosen together from what each alone costs.

The costs of the tensors are taken to add up. Choosing one width a tensor for the least
sum under a budget is then a multiple-choice knapsack (Sinha and Zoltners, Operations
Research 27, 1979), which `minimise` solves to within 0.1% of the optimum.
"""

import glob
from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from espnet_gq.analysis.sensitivity import Sensitivity, TensorCosts
from espnet_gq.nn import GQConfig

TOLERANCE = 1e-3
KINDS = ("second_order", "loss")
PREFIX = "gq_"


@dataclass(frozen=True)
class Allocation:
    """A choice of bit widths.

    Attributes:
        bits: Name of the tensor -> bit width.
        costs: Name of the tensor -> cost at that width.
        effective_bits: Mean bits of a quantized weight.
        file_bytes: Size of the packed file, to within some hundred bytes.
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
    """Return the costs of a tensor by width, made to rise as bits fall.

    A cost is the largest magnitude at this width or a wider one, of those with as many
    scales (a codebook of fewer bits with a scale for each channel can be the better
    one). A loss that falls when one tensor is quantized shows how far the model has
    moved, as one that rises does: which way is a matter of the utterances, and such
    gains do not add up.

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

    One of the three budgets is given. The cost, or the size of the tensors where
    max_loss is given, is at most 0.1% above the optimum (see `minimise`).

    Args:
        sensitivity: Measured costs of every tensor.
        by: The cost that counts, one of KINDS.
        effective_bits: Most bits a quantized weight has, in the mean.
        max_size: Most bytes of the whole packed file.
        max_loss: Largest summed cost; the size is what becomes least.

    Raises:
        ValueError: If tensors are missing, or no choice keeps to the budget.
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
        sizes = [tensor.costs[b].bytes for b in costs]
        if key == "max_loss":
            table = list(zip(costs.values(), sizes))
        elif key == "max_size":
            table = list(zip(sizes, costs.values()))
        else:
            table = [(b * tensor.numel, cost) for b, cost in costs.items()]
        tables.append(np.array(table, dtype=float))
    share = weights if key == "effective_bits" else 1.0
    fixed = rest if key == "max_size" else 0.0
    least = sum(table[:, 0].min() for table in tables)
    if budget * share - fixed < least:
        least = (least + fixed) / share
        raise ValueError(
            f"{key} is {budget:g}, which the measured widths cannot keep to; allowed: "
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
            "a finished file (espnet_gq.bin.sensitivity goes on where it was)"
        )
    for tensor in sensitivity.tensors:
        if not tensor.costs:
            raise ValueError(
                f"{tensor.name} has no bit width with a finite loss; allowed: a file "
                "in which every tensor has one"
            )


def minimise(
    tables: Sequence[np.ndarray], budget: float, tolerance: float = TOLERANCE
) -> List[int]:
    """Choose a row of each table: least summed value, summed weight within the budget.

    Each table goes through three steps. Its lower convex hull gives the linear
    relaxation, solved by taking steps from row to row in the order of their value per
    weight: a lower bound, and a choice to begin with. Dynamic programming then runs
    over the tables, keeping of all partial choices those that no lighter one beats. Of
    these it drops

    - any whose lower bound is not below the best choice known by tolerance / 2 times
      the lower bound B of the whole, and
    - of those whose values lie in one interval of width tolerance / 2 * B / n, all but
      the lightest, n being the number of tables.

    The second rule moves a partial choice of the optimum by at most one interval a
    table, so the result is at most B * tolerance, hence at most tolerance times the
    optimum, above the optimum. It also bounds the number of partial choices kept by
    about 2 n / tolerance times the ratio of the first choice to B.

    Args:
        tables: Arrays (rows, 2) of weight and value, both finite; values at least 0.
        budget: Largest sum of weights.
        tolerance: Largest excess over the optimum, relative to it.

    Returns:
        Index of the row of each table.

    Raises:
        ValueError: If the lightest rows together exceed the budget.
    """
    fronts = [_front(table) for table in tables]
    tables = [table[front] for table, front in zip(tables, fronts)]
    budget += 1e-9 * abs(budget)
    steps = _steps(tables)
    bound = _Bound(tables, steps, budget)
    if sum(table[0, 0] for table in tables) > budget:
        raise ValueError(f"no choice keeps to a budget of {budget:g}")
    rows = _greedy(tables, steps, budget)
    best = sum(table[row, 1] for table, row in zip(tables, rows))
    slack = tolerance / 2 * float(bound(0, np.zeros(1))[0])
    weights = values = np.zeros(1)
    history = []
    for i, table in enumerate(tables):
        weights = (weights[:, None] + table[:, 0]).ravel()
        values = (values[:, None] + table[:, 1]).ravel()
        keep = np.flatnonzero(values + bound(i + 1, weights) < best - slack)
        keep = keep[np.lexsort((values[keep], weights[keep]))]
        keep = keep[_first_below(values[keep])]
        if slack:
            interval = np.floor(values[keep] / (slack / len(tables)))
            keep = keep[np.diff(interval, prepend=np.nan) != 0]
        if not keep.size:
            return [int(front[row]) for front, row in zip(fronts, rows)]
        weights, values = weights[keep], values[keep]
        history.append((keep // len(table), keep % len(table)))
    at, rows = int(values.argmin()), []
    for parents, chosen in reversed(history):
        rows.append(int(chosen[at]))
        at = int(parents[at])
    return [int(front[row]) for front, row in zip(fronts, reversed(rows))]


def _first_below(values: np.ndarray) -> np.ndarray:
    """Return where a value is smaller than all before it."""
    before = np.minimum.accumulate(values)[:-1]
    return np.concatenate([np.ones(min(1, len(values)), bool), values[1:] < before])


def _front(table: np.ndarray) -> np.ndarray:
    """Return the rows that no other beats, from light to heavy."""
    order = np.lexsort((table[:, 1], table[:, 0]))
    return order[_first_below(table[order, 1])]


def _steps(tables: Sequence[np.ndarray]) -> np.ndarray:
    """Return the steps along the lower hulls, the best value per weight first.

    Columns: table, row reached, weight added, value saved.
    """
    steps = []
    for index, table in enumerate(tables):
        hull: List[int] = []
        for row in range(len(table)):
            while len(hull) > 1:
                (w0, v0), (w1, v1), (w2, v2) = table[[*hull[-2:], row]]
                if (v1 - v0) * (w2 - w1) < (v2 - v1) * (w1 - w0):
                    break
                hull.pop()
            hull.append(row)
        for a, b in zip(hull, hull[1:]):
            weight, value = table[b] - table[a]
            steps.append((index, b, weight, -value))
    columns = np.array(steps, dtype=float).reshape(-1, 4)
    return columns[np.argsort(-columns[:, 3] / columns[:, 2], kind="stable")]


class _Bound:
    """Lower bound of what the tables from the i-th on add, by linear relaxation."""

    def __init__(self, tables: Sequence[np.ndarray], steps: np.ndarray, budget: float):
        self.budget = budget
        self.lightest = [
            np.sum([table[0] for table in tables[i:]] or np.zeros((1, 2)), axis=0)
            for i in range(len(tables) + 1)
        ]
        self.sums = [
            np.pad(steps[steps[:, 0] >= i, 2:].cumsum(axis=0), ((1, 0), (0, 0)))
            for i in range(len(tables) + 1)
        ]

    def __call__(self, i: int, weights: np.ndarray) -> np.ndarray:
        """Return it for the weights that the tables before have; inf: no room."""
        weight, value = self.lightest[i]
        room = self.budget - weights - weight
        saved = np.interp(room, self.sums[i][:, 0], self.sums[i][:, 1])
        return np.where(room < 0, np.inf, value - saved)


def _greedy(
    tables: Sequence[np.ndarray], steps: np.ndarray, budget: float
) -> List[int]:
    """Return the rows that the steps which still fit lead to."""
    rows = [0] * len(tables)
    left = budget - sum(table[0, 0] for table in tables)
    blocked = set()
    for index, row, weight, _ in steps:
        if index in blocked or weight > left:
            blocked.add(index)
            continue
        rows[int(index)] = int(row)
        left -= weight
    return rows


def split_name(name: str) -> Tuple[str, str]:
    """Return where a parameter's gq_conf is and what the parameter is called there.

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
