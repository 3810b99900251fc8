"""What a quantizer knows of its training, in one buffer of its state dict.

Four numbers: bit width, whether scale and codebook are fitted, optimizer steps taken,
optimizer steps in all. They are float32, because ESPnet's checkpoint averaging sums
integers.
"""

import math
from typing import Any, NamedTuple, Optional

import torch
from torch import nn

FITTED = 0.999
"""A mean of states counts as fitted from this value on: where one of the averaged
quantizers was not, its scale and codebook were part of the average."""


class StateError(ValueError):
    """A saved state that is malformed, or that belongs to another quantizer."""


class State(NamedTuple):
    """The contents of a `saved_state`."""

    bits: int
    fitted: bool
    step: int
    total_steps: int


def read_state(saved: torch.Tensor) -> State:
    """Return the contents of a `saved_state`.

    The mean of several states, which averaging checkpoints makes, is one as well.

    Raises:
        StateError: If it is malformed.
    """
    values = saved.tolist()  # read often: no operations of torch
    known = saved.shape == (4,) and saved.is_floating_point()
    if not known or not all(map(math.isfinite, values)):
        raise StateError(
            f"its saved_state is {saved.flatten().tolist()[:8]}; allowed: four finite "
            "numbers"
        )
    bits, fitted, step, total_steps = values
    return State(round(bits), fitted >= FITTED, round(step), round(total_steps))


class SavedState(nn.Module):
    """A module with a `saved_state`, kept in float32 where the module is cast to half.

    Args:
        bits: Bit width, 1 to 8.
        total_steps: Optimizer steps of the training, 0 where they are not known yet.
    """

    saved_state: torch.Tensor

    def __init__(self, bits: int, total_steps: int = 0):
        super().__init__()
        self.bits = bits
        self._first_values = [bits, 0, 0, total_steps]
        self.register_buffer("saved_state", self._first_state())
        self._known: Optional[tuple] = None

    def _first_state(self) -> torch.Tensor:
        return torch.tensor(self._first_values, dtype=torch.float32, device="cpu")

    def _state(self) -> State:
        """Return the state; waits for a GPU only after other code wrote to it."""
        saved = self.saved_state
        if saved.is_meta:
            return read_state(self._first_state())
        if saved.is_cpu or saved.is_inference():
            return read_state(saved)
        known = self._known
        if known is None or known[0] is not saved or known[1] != saved._version:
            self._known = known = (saved, saved._version, read_state(saved))
        return known[2]

    @torch.no_grad()
    def _set_state(self, **values: Any) -> None:
        saved, state = self.saved_state, None
        if not (saved.is_cpu or saved.is_inference()):
            state = self._state()._replace(**values)
        for index, name in enumerate(State._fields):
            if name in values:
                saved[index] = float(values[name])
        if state is not None:
            self._known = (saved, saved._version, state)

    @property
    def fitted(self) -> bool:
        """Whether scale and codebook have been fitted, for good, to the weights."""
        return self._state().fitted

    @fitted.setter
    def fitted(self, value: bool) -> None:
        self._set_state(fitted=bool(value))

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self._state().step

    @step.setter
    def step(self, value: int) -> None:
        self._set_state(step=value)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the training, 0 where they are not known."""
        return self._state().total_steps

    @total_steps.setter
    def total_steps(self, value: int) -> None:
        self._set_state(total_steps=value)

    def _apply(self, fn, *args, **kwargs):
        # 16 bits hold neither ln s to a small part of a gap nor the number of a step.
        def convert(t: torch.Tensor) -> torch.Tensor:
            new = fn(t)
            half = new.is_floating_point() and new.element_size() < 4
            return t.to(new.device) if half else new

        without_values = self.saved_state.is_meta
        result = super()._apply(convert, *args, **kwargs)
        if without_values and not self.saved_state.is_meta:  # `to_empty`
            with torch.no_grad():
                self.saved_state.copy_(self._first_state())
        return result

    def _load_from_state_dict(
        self, state_dict, prefix, metadata, strict, missing, unexpected, errors
    ):
        saved = state_dict.get(prefix + "saved_state")
        if saved is not None and not saved.is_meta:
            try:
                bits = read_state(saved).bits
            except StateError as e:
                raise StateError(f"{prefix[:-1]}: {e}") from None
            if bits != self.bits:
                # Raised, not added to torch's list of errors: one sentence is enough.
                raise StateError(
                    f"{prefix[:-1]} has {bits} bits in the checkpoint and {self.bits} "
                    "in the configuration; use the same gq_conf, or start from the "
                    "float form of the checkpoint (espnet-gq pack --format float)"
                )
        super()._load_from_state_dict(
            state_dict, prefix, metadata, strict, missing, unexpected, errors
        )
        if metadata.get("assign_to_params_buffers", False):
            # Of two layers that share this quantizer the second one would take what the
            # first was given for the module's own state (`QuantizedLayer`).
            self.saved_state = self.saved_state.clone()
