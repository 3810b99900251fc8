"""Streaming decoding for the transducers of ESPnet's ASR task.

ESPnet streams contextual-block encoders with attention and CTC only; its streaming beam
search for transducers starts again at every call. Here the features, the encoder and
the search keep their state between chunks, so that the result after the last chunk is
that of the whole utterance.
"""

from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import torch
import yaml
from espnet2.asr.decoder.transducer_decoder import TransducerDecoder
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.asr.transducer.beam_search_transducer import Hypothesis
from espnet2.bin.asr_inference import Speech2Text
from espnet2.bin.asr_inference_streaming import (
    BatchScorerInterface,
)
from espnet2.bin.asr_inference_streaming import (
    Speech2TextStreaming as AttentionSpeech2TextStreaming,
)
from espnet2.layers.utterance_mvn import UtteranceMVN
from espnet2.tasks.asr import decoder_choices, encoder_choices
from torch import Tensor

from espnet_gq.espnet.inference.chunks import (
    BLOCK_ENCODERS,
    RNN_ENCODERS,
    BlockStream,
    RNNStream,
    TransducerSearch,
    Windowed,
)
from espnet_gq.espnet.inference.loading import check_files
from espnet_gq.runtime import set_mode

Results = List[Tuple[Optional[str], List[str], List[int], Hypothesis]]


class Speech2TextStreaming:
    """Transducer decoding with the interface of ESPnet's Speech2TextStreaming.

    Serves the encoders `rnn` and `vgg_rnn` (unidirectional) and
    `contextual_block_conformer` and `contextual_block_transformer`, quantized or not.

    Args:
        asr_train_config: config.yaml of the training.
        asr_model_file: Checkpoint, packed or not.
        transducer_conf: Options of ESPnet's BeamSearchTransducer.
        beam_size: Beam size; 1 selects the greedy search.
        nbest: Hypotheses to return.
        disable_repetition_detection: For attention decoders; ignored.
        encoded_feat_length_limit: For attention decoders; ignored.
        decoder_text_length_limit: For attention decoders; ignored.
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
        """Forget the utterance; called after the final chunk."""
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
            N-best list of (text, token, token_int, hypothesis) for all chunks so far.
        """
        speech = torch.as_tensor(speech)[None]
        speech = speech.to(self.device, getattr(torch, self.dtype))
        encoded = self.encode(speech, is_final)
        hyps = self.search(speech.new_zeros(0) if encoded is None else encoded[0])
        if is_final:
            self.reset()
        return [self._result(hyp) for hyp in hyps[: self.nbest]]

    def encode(self, speech: Tensor, is_final: bool) -> Optional[Tensor]:
        """Return the encoder frames (1, T, D_enc) that speech (1, N) completes."""
        feats = self.features(speech, is_final)
        if feats is None:
            size = self.asr_model.frontend.output_size()
            feats = speech.new_zeros(1, 0, size)
        return self.encoder(feats, is_final)

    def _extract(self, speech: Tensor) -> Tensor:
        """Return the normalized features (1, T, D) of speech (1, N)."""
        missing = self.shortest - speech.size(1)
        if missing > 0:  # an utterance shorter than a frame
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
    """Return why a model cannot be streamed here, None if it can."""
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
        # ESPnet's encoder then repeats a frame at chunk boundaries.
        return (
            f"encoder_conf: input_layer is {args.encoder_conf.get('input_layer')}; "
            "allowed: conv2d, conv2d6, conv2d8"
        )
    return None


def build_speech2text(
    asr_train_config: Union[Path, str],
    transducer_conf: Optional[Dict[str, Any]] = None,
    quantize_asr_model: bool = False,
    quantize_modules: Sequence[str] = ("Linear",),
    quantize_dtype: str = "qint8",
    **options,
) -> Union[Speech2TextStreaming, AttentionSpeech2TextStreaming]:
    """Return ESPnet's streaming decoder for a model if it has one, else the one here.

    Args:
        asr_train_config: config.yaml of the training.
        transducer_conf: Options of ESPnet's BeamSearchTransducer, for transducers.
        quantize_asr_model: Compute in int8: the packed model's int8 mode on a CPU, else
            PyTorch's dynamic quantization.
        quantize_modules: Classes of torch.nn for PyTorch's dynamic quantization.
        quantize_dtype: "qint8" or "float16", for the same.
        **options: Further arguments of ESPnet's Speech2TextStreaming.

    Raises:
        FileNotFoundError: If the configuration or the checkpoint does not exist.
        ValueError: If neither supports the model.
    """
    config = read_config(asr_train_config, options.get("asr_model_file"))
    if is_transducer(config):
        return Speech2TextStreaming(
            asr_train_config,
            transducer_conf=transducer_conf,
            quantize_asr_model=quantize_asr_model,
            quantize_modules=list(quantize_modules),
            quantize_dtype=quantize_dtype,
            **options,
        )
    _check_attention(config)
    speech2text = AttentionSpeech2TextStreaming(asr_train_config, **options)
    if quantize_asr_model:
        _to_int8(speech2text, quantize_modules, quantize_dtype)
    return speech2text


def is_transducer(config: Mapping[str, Any]) -> bool:
    """Return whether a training configuration of the ASR task is a transducer's."""
    decoder = decoder_choices.get_class(config.get("decoder"))
    return decoder is not None and issubclass(decoder, TransducerDecoder)


def read_config(
    path: Union[Path, str], model_file: Union[Path, str, None] = None
) -> Dict[str, Any]:
    """Return a training configuration of the ASR task.

    Args:
        path: The file.
        model_file: Checkpoint of the training; must exist where it is given.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If it is not such a configuration.
    """
    check_files(path, model_file)
    config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no options; allowed: config.yaml of a training")
    if "encoder" not in config:
        raise ValueError(
            f"{path} names no encoder, as in ESPnet's second transducer task; allowed "
            "for that: espnet2.bin.asr_transducer_inference --streaming true"
        )
    return config


def _check_attention(config: Mapping[str, Any]) -> None:
    """Refuse models for which ESPnet's streaming decoder fails with an assertion.

    Raises:
        ValueError: If it does not support the model.
    """
    encoder, decoder = config["encoder"], config.get("decoder")
    if not issubclass(encoder_choices.get_class(encoder), BLOCK_ENCODERS):
        raise ValueError(
            f"chunk by chunk: encoder is {encoder}, decoder {decoder}; allowed: a "
            "transducer, or one of the encoders contextual_block_conformer, "
            "contextual_block_transformer"
        )
    decoder_class = decoder_choices.get_class(decoder)
    if decoder_class is not None and not issubclass(
        decoder_class, BatchScorerInterface
    ):
        raise ValueError(
            f"chunk by chunk: decoder is {decoder}; allowed: a transducer, or one that "
            "scores batches, such as transformer, gq_transformer"
        )
    given = config.get("encoder_conf") or {}
    missing = [k for k in ("block_size", "hop_size", "look_ahead") if k not in given]
    if missing:
        raise ValueError(
            f"chunk by chunk: encoder_conf does not name {', '.join(missing)}, which "
            "ESPnet's decoder reads there; allowed: to add the values of the training"
        )


def _to_int8(speech2text, modules: Sequence[str], dtype: str) -> None:
    """Make a model compute in int8, in place, since the search refers to its parts."""
    model = speech2text.asr_model
    if set_mode(model, "int8"):
        return
    if torch.device(speech2text.device).type != "cpu":
        raise ValueError(
            f"quantize_asr_model is true and the device {speech2text.device}; allowed: "
            "a CPU, which PyTorch's dynamic quantization is for"
        )
    torch.ao.quantization.quantize_dynamic(
        model,
        {getattr(torch.nn, name) for name in modules},
        dtype=getattr(torch, dtype),
        inplace=True,
    )
