"""LSTM and GRU layers and cells whose matrices stay packed.

The input matrix of a layer is applied to all steps at once; the steps then run inside
the compiled kernels. Matrices that a configuration left float take PyTorch operations.
"""

from typing import List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from espnet_gq.runtime.layers import PackedLayer
from espnet_gq.runtime.library import CELLS, check, library
from espnet_gq.runtime.weight import PackedWeight


class PackedRNNBase(PackedLayer):
    """What the packed LSTM and GRU share."""

    def flatten_parameters(self) -> None:
        """Do nothing: there is no flat weight."""

    def _update_flat_weights(self) -> None:
        """Do nothing: there is no flat weight."""

    @classmethod
    def from_float(cls, layer, weights):
        new = super().from_float(layer, weights)
        new._flat_weights, new._biases = [], {}
        return new

    def forward(self, input, hx=None):
        """As of the float layer: tensors, batched or not, and PackedSequence."""
        lstm = self.mode == "LSTM"
        if isinstance(input, PackedSequence):
            data, batch_sizes, order, back = input
            active = batch_sizes.tolist()
            batched = True
        else:
            batched = input.dim() == 3
            if not batched:
                input = input.unsqueeze(0 if self.batch_first else 1)
                if hx is not None:
                    hx = tuple(h.unsqueeze(1) for h in hx) if lstm else hx.unsqueeze(1)
            time_first = input.transpose(0, 1) if self.batch_first else input
            steps, batch, _ = time_first.shape
            data, active, order, back = (
                *(time_first.reshape(steps * batch, -1), [batch] * steps),
                *(None, None),
            )
        batch = active[0] if active else input.shape[0 if self.batch_first else 1]
        states = self._initial(hx, batch, data, order)
        for layer in range(self.num_layers):
            data = self._layer(data, active, layer, states)
        h, c = states
        if back is not None:
            h = h.index_select(1, back)
            c = c if c is None else c.index_select(1, back)
        if isinstance(input, PackedSequence):
            out = PackedSequence(data, batch_sizes, order, back)
        else:
            out = data.view(steps, batch, data.shape[-1])
            out = out.transpose(0, 1) if self.batch_first else out
            if not batched:
                out = out.squeeze(0 if self.batch_first else 1)
                h, c = h.squeeze(1), c if c is None else c.squeeze(1)
        return out, ((h, c) if lstm else h)

    def _initial(self, hx, batch: int, data: torch.Tensor, order):
        """Return states that may be written to: h, and c of an LSTM or None."""
        stacked = self.num_layers * (2 if self.bidirectional else 1)
        sizes = [self.proj_size or self.hidden_size]
        if self.mode == "LSTM":
            sizes.append(self.hidden_size)
        if hx is None:
            given = [data.new_zeros(stacked, batch, size) for size in sizes]
        else:
            given = [hx] if self.mode != "LSTM" else list(hx)
            for state, size in zip(given, sizes):
                if state.shape != (stacked, batch, size):
                    raise RuntimeError(
                        f"a state of shape {tuple(state.shape)}; allowed: "
                        f"{(stacked, batch, size)}"
                    )
            if order is not None:
                given = [state.index_select(1, order) for state in given]
            given = [
                state.clone(memory_format=torch.contiguous_format) for state in given
            ]
        return given[0], given[1] if len(given) > 1 else None

    def _layer(self, data, active: List[int], layer: int, states) -> torch.Tensor:
        directions = 2 if self.bidirectional else 1
        size = self.proj_size or self.hidden_size
        out = data.new_empty(data.shape[0], directions * size)
        for direction in range(directions):
            at = layer * directions + direction
            h, c = (None if state is None else state[at] for state in states)
            target = out[:, direction * size : (direction + 1) * size]
            self._direction(data, active, layer, direction == 1, h, c, target)
        return out

    def _direction(self, data, active, layer, reverse, h, c, out) -> None:
        """Run one direction of one layer; h, c and out are written to."""
        suffix = f"_l{layer}" + ("_reverse" if reverse else "")
        w_ih, w_hh = (getattr(self, f"weight_{n}{suffix}") for n in ("ih", "hh"))
        w_hr = getattr(self, f"weight_hr{suffix}") if self.proj_size else None
        b_ih = b_hh = None
        if self.bias:
            b_ih, b_hh = (getattr(self, f"bias_{n}{suffix}") for n in ("ih", "hh"))
            if self.mode == "LSTM":
                b_ih, b_hh = self._sum_of_biases(suffix, b_ih, b_hh), None
        gates = _linear(data, w_ih, b_ih)
        native = all(
            w is None or (isinstance(w, PackedWeight) and w.runs_native(gates))
            for w in (w_hh, w_hr)
        ) and (b_hh is None or b_hh.dtype == torch.float32)
        run = self._native_steps if native else self._torch_steps
        run(gates, active, w_hh, w_hr, b_hh, reverse, h, c, out)

    def _sum_of_biases(self, suffix: str, b_ih, b_hh) -> torch.Tensor:
        """Return the bias of an LSTM's gates, the same tensor at every call."""
        if suffix not in self._biases:
            self._biases[suffix] = (b_ih + b_hh).detach()
        return self._biases[suffix]

    def _apply(self, fn, *args, **kwargs):
        self._biases.clear()
        return super()._apply(fn, *args, **kwargs)

    def _native_steps(self, gates, active, w_hh, w_hr, b_hh, reverse, h, c, out):
        sizes = torch.tensor(active, dtype=torch.int64)
        check(
            library().gq_recurrence(
                CELLS[self.mode],
                w_hh.handle(b_hh),
                None if w_hr is None else w_hr.handle(),
                self.hidden_size,
                gates.data_ptr(),
                sizes.data_ptr(),
                len(active),
                reverse,
                h.data_ptr(),
                None if c is None else c.data_ptr(),
                out.data_ptr(),
                out.stride(0),
                w_hh.mode_number,
                torch.get_num_threads(),
                0,
            )
        )

    def _torch_steps(self, gates, active, w_hh, w_hr, b_hh, reverse, h, c, out):
        w_hh, w_hr = _usable(w_hh, gates), _usable(w_hr, gates)
        begins = [0]
        for n in active:
            begins.append(begins[-1] + n)
        for t in reversed(range(len(active))) if reverse else range(len(active)):
            rows, n = slice(begins[t], begins[t + 1]), active[t]
            hidden = _linear(h[:n], w_hh, b_hh)
            if c is None:
                h[:n] = _gru(gates[rows], hidden, h[:n])
            else:
                new, c[:n] = _lstm(gates[rows] + hidden, c[:n])
                h[:n] = new if w_hr is None else _linear(new, w_hr, None)
            out[rows] = h[:n]


def _linear(x, weight, bias):
    if isinstance(weight, PackedWeight):
        return weight.linear(x, bias)
    return F.linear(x, weight, bias)


def _usable(weight, x):
    """Return a weight that many steps can use: unpacked where no kernel takes it."""
    if not isinstance(weight, PackedWeight) or weight.runs_native(x):
        return weight
    return weight if weight.mode == "int8" else weight.dense().to(x.dtype)


def _lstm(gates: torch.Tensor, c: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    i, f, g, o = gates.chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru(gates, hidden, h: torch.Tensor) -> torch.Tensor:
    (ir, iz, i_n), (hr, hz, hn) = gates.chunk(3, -1), hidden.chunk(3, -1)
    z = torch.sigmoid(iz + hz)
    n = torch.tanh(i_n + torch.sigmoid(ir + hr) * hn)
    return n + z * (h - n)


class PackedLSTM(PackedRNNBase, nn.LSTM):
    """LSTM: bidirectional, projected and multi-layer as nn.LSTM."""

    float_class = nn.LSTM


class PackedGRU(PackedRNNBase, nn.GRU):
    """GRU: bidirectional and multi-layer as nn.GRU."""

    float_class = nn.GRU


class PackedLSTMCell(PackedLayer, nn.LSTMCell):
    """LSTM cell, weight_ih (4 hidden, input) and weight_hh (4 hidden, hidden)."""

    float_class = nn.LSTMCell

    def forward(self, input, hx: Optional[Tuple[torch.Tensor, torch.Tensor]] = None):
        if hx is None:
            zeros = input.new_zeros(*input.shape[:-1], self.hidden_size)
            hx = (zeros, zeros)
        gates = _linear(input, self.weight_ih, self.bias_ih)
        return _lstm(gates + _linear(hx[0], self.weight_hh, self.bias_hh), hx[1])


class PackedGRUCell(PackedLayer, nn.GRUCell):
    """GRU cell, weight_ih (3 hidden, input) and weight_hh (3 hidden, hidden)."""

    float_class = nn.GRUCell

    def forward(self, input, hx: Optional[torch.Tensor] = None):
        if hx is None:
            hx = input.new_zeros(*input.shape[:-1], self.hidden_size)
        gates = _linear(input, self.weight_ih, self.bias_ih)
        return _gru(gates, _linear(hx, self.weight_hh, self.bias_hh), hx)
