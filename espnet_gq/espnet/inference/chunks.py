"""The parts of a transducer, applied chunk by chunk.

Each keeps its state between chunks, so that the results of all chunks together equal
those of the whole utterance.
"""

import math
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import torch
from espnet2.asr.encoder.contextual_block_conformer_encoder import (
    ContextualBlockConformerEncoder,
)
from espnet2.asr.encoder.contextual_block_transformer_encoder import (
    ContextualBlockTransformerEncoder,
)
from espnet2.asr.encoder.rnn_encoder import RNNEncoder
from espnet2.asr.encoder.vgg_rnn_encoder import VGGRNNEncoder
from espnet2.asr.transducer.beam_search_transducer import (
    BeamSearchTransducer,
    Hypothesis,
)
from torch import Tensor

BLOCK_ENCODERS = (ContextualBlockConformerEncoder, ContextualBlockTransformerEncoder)
RNN_ENCODERS = (RNNEncoder, VGGRNNEncoder)


class Windowed:
    """A function with a bounded receptive field, applied chunk by chunk.

    Output j depends on the inputs j * stride - left to j * stride + right - 1, and on
    how the function pads where these lie outside the whole sequence.

    Args:
        function: Maps (1, N, ...) to (1, M, ...).
        stride: Inputs from one output to the next.
        left: Number of inputs before its own position that an output needs.
        right: Number of inputs from its own position on that an output needs.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], stride: int, left: int, right: int
    ):
        self.function = function
        self.stride = stride
        self.right = right
        # One more than needed: reflection padding reads more inputs than it adds.
        self.context = math.ceil(left / stride) + 1
        self.reset()

    def reset(self) -> None:
        """Forget the sequence."""
        self.window: Optional[Tensor] = None
        self.done = 0

    def __call__(self, x: Tensor, is_final: bool) -> Optional[Tensor]:
        """Return the outputs (1, M, ...) that x (1, N, ...) completes, None if none."""
        if self.window is not None:
            x = torch.cat([self.window, x], 1)
        due = max(0, (x.size(1) - self.right) // self.stride + 1)
        outputs = None
        if x.size(1) and (is_final or due > self.done):
            outputs = self.function(x)
            outputs = outputs[:, self.done : None if is_final else due]
            # The next window begins with the context of the next output.
            self.done = min(due, self.context)
            x = x[:, (due - self.done) * self.stride :]
        self.window = x
        return outputs


class RNNStream:
    """ESPnet's unidirectional RNN encoders, frame by frame.

    `RNNP.forward` applies dropout in evaluation as well; this class never does.

    Args:
        encoder: `rnn` or `vgg_rnn`, with or without projection.
    """

    def __init__(self, encoder: Union[RNNEncoder, VGGRNNEncoder]):
        self.rnn = encoder.enc[-1]
        self.projects = encoder.use_projection
        self.vgg = None
        if isinstance(encoder, VGGRNNEncoder):
            # Two convolutions of 3 and a pooling by 2, twice.
            self.vgg = Windowed(
                lambda x: encoder.enc[0](x, [x.size(1)])[0], stride=4, left=6, right=10
            )
        self.reset()

    def reset(self) -> None:
        """Forget the utterance."""
        self.states: Any = None
        if self.projects:
            self.states = [(None, 0, None)] * self.rnn.elayers
        if self.vgg is not None:
            self.vgg.reset()

    def __call__(self, feats: Tensor, is_final: bool) -> Optional[Tensor]:
        """Return what feats (1, N, D) complete: (1, M, D_enc), None if nothing."""
        x = feats if self.vgg is None else self.vgg(feats, is_final)
        if x is None or not x.size(1):
            return None
        return self._project(x) if self.projects else self._plain(x)

    def _plain(self, x: Tensor) -> Tensor:
        lengths = torch.tensor([x.size(1)])
        x, _, self.states = self.rnn(x, lengths, prev_state=self.states)
        return x

    def _project(self, x: Tensor) -> Optional[Tensor]:
        last = self.rnn.elayers - 1
        for layer, (state, seen, kept) in enumerate(self.states):
            sub = int(self.rnn.subsample[layer + 1])
            x, state = getattr(self.rnn, f"rnn{layer}")(x, state)
            # Of n frames ESPnet takes every sub-th, and of these the first (n + 1) //
            # sub. With sub > 2, some have to wait for later frames.
            total = seen + x.size(1)
            due = (total + 1) // sub - (seen + 1) // sub
            x = x[:, -seen % sub :: sub]
            if kept is not None:
                x = torch.cat([kept, x], 1)
            self.states[layer] = (state, total, x[:, due:])
            if not due:
                return None
            x = getattr(self.rnn, f"bt{layer}")(x[:, :due])
            if layer < last:
                x = torch.tanh(x)
        return x


class BlockStream:
    """ESPnet's contextual-block encoders, which return their state."""

    def __init__(
        self,
        encoder: Union[
            ContextualBlockConformerEncoder, ContextualBlockTransformerEncoder
        ],
    ):
        self.encoder = encoder
        self.reset()

    def reset(self) -> None:
        """Forget the utterance."""
        self.states = None

    def __call__(self, feats: Tensor, is_final: bool) -> Optional[Tensor]:
        """Return what feats (1, N, D) complete: (1, M, D_enc), None if nothing."""
        if not (feats.size(1) or is_final):
            return None
        lengths = torch.tensor([feats.size(1)], device=feats.device)
        encoded, _, self.states = self.encoder(
            feats, lengths, self.states, is_final=is_final, infer_mode=True
        )
        return encoded


class TransducerSearch:
    """ESPnet's greedy and default search, continued from chunk to chunk.

    The default search is the beam search of Graves, arXiv 1211.3711.

    Args:
        search: ESPnet's search with its options.
    """

    cache_size = 1000
    """Prefixes whose decoder output is kept."""
    block = 8
    """Frames that the greedy search scores in one batch."""

    def __init__(self, search: BeamSearchTransducer):
        self.search = search
        self.reset()

    def reset(self) -> None:
        """Forget the utterance."""
        decoder = self.search.decoder
        decoder.set_device(next(decoder.parameters()).device)
        self.cache: Dict[str, Any] = {}
        self.cache_lm: Dict[Tuple[int, ...], Any] = {}
        self.hyps = [
            Hypothesis(
                score=0.0,
                yseq=[self.search.blank_id],
                dec_state=decoder.init_state(1),
            )
        ]

    def __call__(self, frames: Tensor) -> List[Hypothesis]:
        """Read the encoder's frames (T, D_enc); return the n-best list so far."""
        if self.search.beam_size <= 1:
            for block in frames.split(self.block) if len(frames) else ():
                self._trim()
                self.hyps = self._greedy(block)
        else:
            for frame in frames:
                self._trim()
                self.hyps = self._beam(frame)
        return self.search.sort_nbest(list(self.hyps))

    def _trim(self) -> None:
        for cache in (self.cache, self.cache_lm):
            if len(cache) > self.cache_size:
                cache.clear()

    def _greedy(self, frames: Tensor) -> List[Hypothesis]:
        """Search a block: score all remaining frames after each label."""
        (hyp,) = self.hyps
        network, blank = self.search.joint_network, self.search.blank_id
        encoded = network.lin_enc(frames)
        while len(encoded):
            decoded, state, _ = self.search.decoder.score(hyp, self.cache)
            decoded = network.lin_dec(decoded[None])
            logits = network(encoded, decoded, no_projection=True)
            labels = logits.argmax(-1).tolist()
            at = next((i for i, label in enumerate(labels) if label != blank), None)
            if at is None:
                break
            logp = logits[at].log_softmax(-1)
            hyp = Hypothesis(
                score=hyp.score + float(logp[labels[at]]),
                yseq=[*hyp.yseq, labels[at]],
                dec_state=state,
            )
            encoded = encoded[at + 1 :]
        return [hyp]

    def _score(self, frame: Tensor, hyp: Hypothesis) -> Tuple[Tensor, Any]:
        """Return the log-probabilities (V,) after a hypothesis, and its state."""
        decoded, state, _ = self.search.decoder.score(hyp, self.cache)
        # In a batch of one: PyTorch's int8 layers take no vectors.
        logits = self.search.joint_network(frame[None], decoded[None])[0]
        return logits.log_softmax(-1), state

    def _beam(self, frame: Tensor) -> List[Hypothesis]:
        search = self.search
        beam = min(search.beam_size, search.vocab_size)

        def rank(hyp):
            return hyp.score / (len(hyp.yseq) if search.score_norm_during else 1)

        hyps, kept = list(self.hyps), []
        while True:
            best = hyps.pop(max(range(len(hyps)), key=lambda i: rank(hyps[i])))
            logp, state = self._score(frame, best)
            kept.append(
                Hypothesis(
                    score=best.score + float(logp[0]),
                    yseq=best.yseq,
                    dec_state=best.dec_state,
                    lm_state=best.lm_state,
                )
            )
            lm_scores, lm_state = self._lm(best)
            for value, k in zip(*logp[1:].topk(min(beam, search.vocab_size - 1))):
                score = best.score + float(value)
                if lm_scores is not None:
                    score += search.lm_weight * float(lm_scores[k + 1])
                hyps.append(
                    Hypothesis(
                        score=score,
                        yseq=[*best.yseq, int(k) + 1],
                        dec_state=state,
                        lm_state=lm_state,
                    )
                )
            limit = max(hyps, key=rank).score
            sure = [hyp for hyp in kept if hyp.score > limit]
            if len(sure) >= beam:
                return sorted(sure, key=lambda hyp: hyp.score)

    def _lm(self, hyp: Hypothesis) -> Tuple[Optional[Tensor], Any]:
        """Return the language model's scores (V,) after a hypothesis, and its state."""
        if not self.search.use_lm:
            return None, hyp.lm_state
        key = tuple(hyp.yseq)
        if key not in self.cache_lm:
            labels = [self.search.sos, *hyp.yseq[1:]]
            ys = torch.tensor(labels, device=self.search.decoder.device)
            self.cache_lm[key] = self.search.lm.score(ys, hyp.lm_state, None)
        return self.cache_lm[key]
