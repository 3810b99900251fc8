"""The annealing of the inverse temperature, as data.

A schedule depends on the step count alone: a resumed training continues where it was as
soon as its step count is restored.
"""

import math
from dataclasses import dataclass
from typing import Optional

CURVES = ("exponential", "linear")


@dataclass(frozen=True)
class Annealing:
    """Inverse temperature alpha as a function of the optimizer step.

    Args:
        start: alpha at step 0, above 0. None: by method and bit width.
        end: alpha at the last step, at least `start`, at most 80. None: likewise.
        curve: "exponential" (equal ratios per step) or "linear".
        steps: Optimizer steps from start to end. None: the whole training, which the
            trainer counts from the epochs.
        warmup_steps: Optimizer steps at the beginning that leave the weights float.

    Raises:
        ValueError: If a value is outside its range.
    """

    start: Optional[float] = None
    end: Optional[float] = None
    curve: str = "exponential"
    steps: Optional[int] = None
    warmup_steps: int = 0

    def __post_init__(self):
        for name in ("start", "end"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 80:
                raise ValueError(f"annealing.{name} is {value}; allowed: 0 < x <= 80")
        if self.start is not None and self.end is not None and self.end < self.start:
            raise ValueError(
                f"annealing.end is {self.end}, below annealing.start {self.start}; "
                "allowed: end >= start"
            )
        if self.curve not in CURVES:
            raise ValueError(
                f"annealing.curve is {self.curve!r}; allowed: {', '.join(CURVES)}"
            )
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"annealing.steps is {self.steps}; allowed: 1 or more")
        if self.warmup_steps < 0:
            raise ValueError(
                f"annealing.warmup_steps is {self.warmup_steps}; allowed: 0 or more"
            )

    def resolve(self, start: float, end: float) -> "Annealing":
        """Return a copy in which missing ends are taken from the arguments."""
        start = self.start if self.start is not None else start
        end = self.end if self.end is not None else max(end, start)
        return Annealing(start, end, self.curve, self.steps, self.warmup_steps)

    def alpha(self, step: int, total_steps: int) -> float:
        """Return alpha after `step` of `total_steps` optimizer steps (start to end).

        Raises:
            ValueError: If start or end is None, which `resolve` replaces.
        """
        start, end = self.start, self.end
        if start is None or end is None:
            raise ValueError(
                f"annealing.start is {start}, annealing.end {end}; allowed: numbers"
            )
        span = max(total_steps - self.warmup_steps, 1)
        progress = min(max(step - self.warmup_steps, 0) / span, 1.0)
        if self.curve == "linear":
            return start + progress * (end - start)
        return start * math.exp(progress * math.log(end / start))
