"""Decode chunk by chunk: espnet2.bin.asr_inference_streaming, and transducers too.

Takes ESPnet's options and those of espnet2.bin.asr_inference, so that one decoding
configuration serves both, and writes ESPnet's output files. Options that cannot be
followed chunk by chunk are refused; options that a model's search never reads are named
in the log.
"""

import argparse
import contextlib
import logging
import sys
from functools import partial
from typing import Any, Dict, Iterator, Optional, Sequence

import espnet2.bin.asr_inference as whole
import espnet2.bin.asr_inference_streaming as espnet
import yaml
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_gq.bin._common import PROGRAM, fail, sentence
from espnet_gq.espnet.holds import STREAMING
from espnet_gq.espnet.inference.streaming import (
    build_speech2text,
    is_transducer,
    read_config,
)
from espnet_gq.espnet.registration import replaced

_INT8 = ("quantize_asr_model", "quantize_modules", "quantize_dtype")
SERVED = {
    "transducer": (*_INT8, "quantize_lm", "transducer_conf"),
    "attention": _INT8,
}
"""Options of `asr_inference` that are followed, besides those of ESPnet's streaming."""
UNREAD = {
    "transducer": (
        *("ngram_file", "ngram_weight", "ctc_window_margin", "time_sync", "streaming"),
        "hugging_face_decoder_conf",
    ),
    "attention": (
        *("transducer_conf", "ngram_weight", "streaming"),
        "hugging_face_decoder_conf",
    ),
}
"""Options that change no result of these models, in this program or in ESPnet's."""
LIMITS = {"batch_size": 1, "ngpu": 1}
"""Largest values that ESPnet's loop over utterances supports."""


def get_parser() -> argparse.ArgumentParser:
    """Return the parser, with the options of both of ESPnet's programs."""
    parser = espnet.get_parser()
    parser.prog = f"{PROGRAM} asr-inference-streaming"
    parser.description = __doc__
    setattr(parser, "error", partial(fail, parser.prog))
    parser.add_argument(
        "--transducer_conf",
        default=None,
        action=NestedDictAction,  # asr_inference takes it in its --config only
        help="The keyword arguments for transducer beam search.",
    )
    known = {action.dest for action in parser._actions}
    for action in whole.get_parser()._actions:
        if action.dest not in known:
            parser._add_action(action)
    return parser


@contextlib.contextmanager
def _bad_input(prog: str) -> Iterator[None]:
    """End the program with one line where input within the block is bad."""
    try:
        yield
    except (OSError, ValueError, yaml.YAMLError) as e:
        # asr.sh prints the logs that have the word "error" in them.
        fail(prog, f"error: {sentence(e)}")


def _served(further: Dict[str, Any], transducer: bool) -> Dict[str, Any]:
    """Return the options of `asr_inference` to build with.

    Args:
        further: Its options that ESPnet's streaming decoder lacks.
        transducer: Whether the model is a transducer.

    Raises:
        ValueError: If one that would change the result cannot be followed.
    """
    kind = "transducer" if transducer else "attention"
    defaults = whole.get_parser()
    unread = UNREAD[kind]
    if not further["ngram_weight"]:
        unread += ("ngram_file",)
    served = SERVED[kind]
    for name, value in further.items():
        default = defaults.get_default(name)
        if value == default or name in served:
            continue
        if name in unread:
            logging.warning(
                f"{name} is not read: it does not affect the search of this model "
                f"({kind})"
            )
        elif name == "ngram_file":
            raise ValueError(
                f"ngram_file is {value}, and attention decoders have no n-gram "
                "language model chunk by chunk; allowed: ngram_weight 0, which leaves "
                "it out, or whole utterances (--use_streaming false)"
            )
        else:
            raise ValueError(
                f"{name} is {value!r}, which cannot be followed chunk by chunk; "
                f"allowed: {default!r}, or whole utterances (--use_streaming false)"
            )
    return {name: further[name] for name in served}


def _check(options: Dict[str, Any]) -> None:
    """Refuse what ESPnet's loop over utterances does not support.

    Raises:
        ValueError: If one of the options is too large, or a word LM is asked for.
    """
    for name, most in LIMITS.items():
        if options[name] > most:
            raise ValueError(
                f"{name} is {options[name]}; allowed chunk by chunk: at most {most}"
            )
    if options["word_lm_train_config"] is not None:
        raise ValueError(
            "word_lm_train_config: word language models are not served chunk by chunk; "
            "allowed: one over the model's tokens (--use_word_lm false)"
        )


class InChunks:
    """Decodes whole utterances in chunks.

    ESPnet's own loop over chunks fails at utterances shorter than a chunk, or decodes
    nothing.

    Args:
        speech2text: Takes chunks.
        length: Of a chunk, in samples.
    """

    def __init__(self, speech2text, length: int):
        self.speech2text = speech2text
        self.length = length
        self.asr_train_args = speech2text.asr_train_args

    def __call__(self, speech):
        """Return the results for speech (N,)."""
        end = len(speech) - len(speech) % self.length
        for i in range(0, end, self.length):
            self.speech2text(speech[i : i + self.length], is_final=False)
        return self.speech2text(speech[end:], is_final=True)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Decode with ESPnet's own loop over utterances."""
    print(espnet.get_commandline_args(), file=sys.stderr)
    parser = get_parser()
    options = vars(parser.parse_args(cmd))
    options.pop("config", None)
    length = options.pop("sim_chunk_length")
    own = {action.dest for action in espnet.get_parser()._actions}
    further = {name: options.pop(name) for name in set(options) - own}
    with _bad_input(parser.prog):
        _check(options)

    def build(**kwargs):
        with _bad_input(parser.prog):  # only now: ESPnet has set up the log
            config = read_config(kwargs["asr_train_config"], kwargs["asr_model_file"])
            served = _served(further, is_transducer(config))
            speech2text = build_speech2text(**served, **kwargs)
        return InChunks(speech2text, length) if length else speech2text

    with replaced(STREAMING, espnet, build):
        espnet.inference(**options, sim_chunk_length=0)


if __name__ == "__main__":
    main()
