"""Decoding chunk by chunk of the transducers of ESPnet's ASR task.

ESPnet streams contextual-block encoders with attention and CTC only, and the one beam
search it calls streaming for transducers starts anew at every call. Here the features,
the encoder and the search keep what they need from one chunk to the next, so that the
last chunk's result is that of the whole utterance.
"""

import math
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import numpy as np
import torch
import yaml
from espnet2.asr.decoder.transducer_decoder import TransducerDecoder
from espnet2.asr.encoder.contextual_block_conformer_encoder import (
    ContextualBlockConformerEncoder,
)
from espnet2.asr.encoder.contextual_block_transformer_encoder import (
    ContextualBlockTransformerEncoder,
)
from espnet2.asr.encoder.rnn_encoder import RNNEncoder
from espnet2.asr.encoder.vgg_rnn_encoder import VGGRNNEncoder
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.asr.transducer.beam_search_transducer import (
    BeamSearchTransducer,
    Hypothesis,
)
from espnet2.bin.asr_inference import Speech2Text
from espnet2.bin.asr_inference_streaming import (
    Speech2TextStreaming as AttentionSpeech2TextStreaming,
)
from espnet2.layers.utterance_mvn import UtteranceMVN
from espnet2.tasks.asr import decoder_choices, encoder_choices
from torch import Tensor

BLOCK_ENCODERS = (ContextualBlockConformerEncoder, ContextualBlockTransformerEncoder)
RNN_ENCODERS = (RNNEncoder, VGGRNNEncoder)

Results = List[Tuple[Optional[str], List[str], List[int], Hypothesis]]


class Windowed:
    """A function with a bounded field of view, applied to what comes in chunks.

    Output j depends on the inputs j * stride - left to j * stride + right - 1, and on
    how the function pads where these lie outside the whole sequence.

    Args:
        function: Maps (1, N, ...) to (1, M, ...).
        stride: Inputs from one output to the next.
        left: Inputs that an output needs before its own.
        right: Inputs that an output needs from its own on.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], stride: int, left: int, right: int
    ):
        self.function = function
        self.stride = stride
        self.right = right
        # One more than needed: padding by reflection needs more inputs than it adds.
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
            # The next window begins with the context of the output after these.
            self.done = min(due, self.context)
            x = x[:, (due - self.done) * self.stride :]
        self.window = x
        return outputs


class RNNStream:
    """ESPnet's unidirectional RNN encoders, frame by frame.

    Unlike `RNNP.forward`, which drops out in evaluation as well, it never drops out.

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
            # sub: with sub above 2, some have to wait for those that follow.
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
    """ESPnet's contextual-block encoders, which keep their states themselves."""

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
    """The greedy and the default search of ESPnet, going on where they stopped.

    The default search is the beam search of Graves, arXiv 1211.3711.

    Args:
        search: ESPnet's search with its options.
    """

    cache_size = 1000
    """Prefixes whose decoder output is kept."""

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
        step = self._greedy if self.search.beam_size <= 1 else self._beam
        for frame in frames:
            for cache in (self.cache, self.cache_lm):
                if len(cache) > self.cache_size:
                    cache.clear()
            self.hyps = step(frame)
        return self.search.sort_nbest(list(self.hyps))

    def _score(self, frame: Tensor, hyp: Hypothesis) -> Tuple[Tensor, Any]:
        """Return the log-probabilities (V,) after a hypothesis, and its state."""
        decoded, state, _ = self.search.decoder.score(hyp, self.cache)
        return self.search.joint_network(frame, decoded).log_softmax(-1), state

    def _greedy(self, frame: Tensor) -> List[Hypothesis]:
        (hyp,) = self.hyps
        logp, state = self._score(frame, hyp)
        best, label = logp.max(-1)
        if label == self.search.blank_id:
            return [hyp]
        return [
            Hypothesis(
                score=hyp.score + float(best),
                yseq=[*hyp.yseq, int(label)],
                dec_state=state,
            )
        ]

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
            labels = torch.tensor(labels, device=self.search.decoder.device)
            self.cache_lm[key] = self.search.lm.score(labels, hyp.lm_state, None)
        return self.cache_lm[key]


class Speech2TextStreaming:
    """Transducer decoding with the interface of ESPnet's Speech2TextStreaming.

    Serves the encoders `rnn` and `vgg_rnn` (unidirectional) and
    `contextual_block_conformer` and `contextual_block_transformer`, quantized or not.

    Args:
        asr_train_config: config.yaml of the training.
        asr_model_file: Checkpoint, packed or not.
        transducer_conf: Options of ESPnet's BeamSearchTransducer.
        beam_size: 1 is the greedy search.
        nbest: Hypotheses to return.
        disable_repetition_detection: Of attention decoders, not read.
        encoded_feat_length_limit: Of attention decoders, not read.
        decoder_text_length_limit: Of attention decoders, not read.
        **options: Further arguments of ESPnet's Speech2Text.

    Raises:
        ValueError: If the model or the search needs the whole utterance.

    Example:
        >>> speech2text = Speech2TextStreaming("config.yaml", "valid.loss.ave.pth")
        >>> for chunk in chunks[:-1]:
        ...     partial = speech2text(chunk, is_final=False)
        >>> text, token, token_int, hyp = speech2text(chunks[-1], is_final=True)[0]
    """

    def __init__(
        self,
        asr_train_config: Union[Path, str, None] = None,
        asr_model_file: Union[Path, str, None] = None,
        transducer_conf: Optional[Dict[str, Any]] = None,
        beam_size: int = 20,
        nbest: int = 1,
        disable_repetition_detection: bool = False,
        encoded_feat_length_limit: int = 0,
        decoder_text_length_limit: int = 0,
        **options,
    ):
        transducer_conf = {"nbest": nbest, **(transducer_conf or {})}
        search_type = transducer_conf.get("search_type", "default")
        if search_type != "default" and (beam_size > 1 or search_type == "mbg"):
            raise ValueError(
                f"chunk by chunk: search_type is {search_type!r} in transducer_conf; "
                "allowed: 'default'"
            )
        whole = Speech2Text(
            asr_train_config,
            asr_model_file,
            transducer_conf,
            beam_size=beam_size,
            nbest=nbest,
            **options,
        )
        self.asr_model, self.asr_train_args = whole.asr_model, whole.asr_train_args
        self.converter, self.tokenizer = whole.converter, whole.tokenizer
        self.device, self.dtype, self.nbest = whole.device, whole.dtype, nbest
        reason = _refusal(self.asr_model, self.asr_train_args)
        if reason is not None:
            raise ValueError(f"chunk by chunk: {reason}")
        stft = self.asr_model.frontend.stft
        half = stft.n_fft // 2 if stft.center else 0
        self.shortest = half + 1 if stft.center else stft.n_fft
        self.features = Windowed(
            self._extract, stft.hop_length, left=half, right=stft.n_fft - half
        )
        encoder = self.asr_model.encoder
        streamed = BlockStream if isinstance(encoder, BLOCK_ENCODERS) else RNNStream
        self.encoder = streamed(encoder)
        search = whole.beam_search_transducer
        if search.use_lm:
            search.lm.eval()
        self.search = TransducerSearch(search)

    def reset(self) -> None:
        """Forget the utterance; done after a chunk that is final."""
        self.features.reset()
        self.encoder.reset()
        self.search.reset()

    @torch.no_grad()
    def __call__(
        self, speech: Union[Tensor, np.ndarray], is_final: bool = True
    ) -> Results:
        """Decode the next chunk.

        Args:
            speech: Samples (N,), N may be 0.
            is_final: Whether the utterance ends here.

        Returns:
            N-best list of (text, token, token_int, hypothesis) of all chunks so far.
        """
        speech = torch.as_tensor(speech)[None]
        speech = speech.to(self.device, getattr(torch, self.dtype))
        encoded = self.encode(speech, is_final)
        hyps = self.search(speech.new_zeros(0) if encoded is None else encoded[0])
        if is_final:
            self.reset()
        return [self._result(hyp) for hyp in hyps[: self.nbest]]

    def encode(self, speech: Tensor, is_final: bool) -> Optional[Tensor]:
        """Return what speech (1, N) completes: (1, T, D_enc), None if nothing."""
        feats = self.features(speech, is_final)
        if feats is None:
            size = self.asr_model.frontend.output_size()
            feats = speech.new_zeros(1, 0, size)
        return self.encoder(feats, is_final)

    def _extract(self, speech: Tensor) -> Tensor:
        """Return the normalized features (1, T, D) of speech (1, N)."""
        missing = self.shortest - speech.size(1)
        if missing > 0:  # an utterance of less than a frame
            shape = (1, missing, *speech.shape[2:])
            speech = torch.cat([speech, speech.new_zeros(shape)], 1)
        lengths = torch.tensor([speech.size(1)], device=speech.device)
        feats, lengths = self.asr_model._extract_feats(speech, lengths)
        if self.asr_model.normalize is not None:
            feats, _ = self.asr_model.normalize(feats, lengths)
        return feats

    def _result(self, hyp: Hypothesis):
        token_int = [label for label in hyp.yseq[1:] if label != 0]
        token = self.converter.ids2tokens(token_int)
        text = None if self.tokenizer is None else self.tokenizer.tokens2text(token)
        return text, token, token_int, hyp


def _refusal(model, args) -> Optional[str]:
    """Return why a model cannot be decoded here chunk by chunk, None if it can."""
    frontend, encoder = model.frontend, model.encoder
    enhanced = getattr(frontend, "frontend", None)
    if not model.use_transducer_decoder:
        return f"decoder is {args.decoder}; allowed: transducer, gq_transducer"
    if not isinstance(frontend, DefaultFrontend) or frontend.stft is None:
        return f"frontend is {args.frontend}; allowed: default, from samples"
    if getattr(enhanced, "use_wpe", False) or getattr(
        enhanced, "use_beamformer", False
    ):
        return "frontend_conf has use_wpe or use_beamformer; allowed: neither"
    if isinstance(model.normalize, UtteranceMVN):
        return (
            "normalize is utterance_mvn, which needs the whole utterance; allowed: "
            "global_mvn, none"
        )
    if model.preencoder is not None or model.postencoder is not None:
        return "there is a preencoder or a postencoder; allowed: neither"
    if not isinstance(encoder, BLOCK_ENCODERS + RNN_ENCODERS):
        return (
            f"encoder is {args.encoder}; allowed: rnn, vgg_rnn, contextual_block_"
            "conformer, contextual_block_transformer, quantized or not"
        )
    if getattr(encoder, "bidirectional", False):
        return "encoder_conf: bidirectional is true; allowed: false"
    if getattr(encoder, "subsample", None) == 1:
        # ESPnet's own states then repeat a frame at the edges of chunks.
        return (
            f"encoder_conf: input_layer is {args.encoder_conf.get('input_layer')}; "
            "allowed: conv2d, conv2d6, conv2d8"
        )
    return None


def build_speech2text(
    asr_train_config: Union[Path, str],
    transducer_conf: Optional[Dict[str, Any]] = None,
    **options,
) -> Union[Speech2TextStreaming, AttentionSpeech2TextStreaming]:
    """Return ESPnet's streaming decoder where it has one for a model, else this one's.

    Args:
        asr_train_config: config.yaml of the training.
        transducer_conf: Options of ESPnet's BeamSearchTransducer; read for transducers.
        **options: Further arguments of ESPnet's Speech2TextStreaming.

    Raises:
        ValueError: If neither serves the model.
    """
    config = yaml.safe_load(Path(asr_train_config).read_text(encoding="utf-8"))
    decoder = decoder_choices.get_class(config.get("decoder"))
    if decoder is not None and issubclass(decoder, TransducerDecoder):
        return Speech2TextStreaming(
            asr_train_config, transducer_conf=transducer_conf, **options
        )
    if not issubclass(encoder_choices.get_class(config["encoder"]), BLOCK_ENCODERS):
        raise ValueError(
            f"chunk by chunk: encoder is {config['encoder']}, decoder "
            f"{config.get('decoder')}; allowed: a transducer, or one of the encoders "
            "contextual_block_conformer, contextual_block_transformer"
        )
    return AttentionSpeech2TextStreaming(asr_train_config, **options)
