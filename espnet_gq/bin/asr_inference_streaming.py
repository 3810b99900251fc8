"""Decode chunk by chunk: espnet2.bin.asr_inference_streaming, and transducers too.

Has ESPnet's options and output files, --transducer_conf and --quantize_asr_model.
"""

import argparse
import sys
from typing import Optional, Sequence

import espnet2.bin.asr_inference_streaming as espnet
import yaml
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import str2bool

from espnet_gq.espnet.streaming import build_speech2text


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser: ESPnet's and two more."""
    parser = espnet.get_parser()
    parser.description = __doc__
    parser.add_argument(
        "--transducer_conf",
        default=None,
        action=NestedDictAction,
        help="The keyword arguments for transducer beam search.",
    )
    parser.add_argument(
        "--quantize_asr_model",
        type=str2bool,
        default=False,
        help="Compute in int8: a packed model's own, PyTorch's of another transducer.",
    )
    return parser


class InChunks:
    """Decodes whole utterances in chunks.

    ESPnet's own loop over chunks fails at an utterance that is shorter than one, or
    decodes nothing.

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
    options = vars(get_parser().parse_args(cmd))
    options.pop("config", None)
    transducer_conf = options.pop("transducer_conf")
    int8 = options.pop("quantize_asr_model")
    length = options.pop("sim_chunk_length")

    def build(**kwargs):
        try:
            speech2text = build_speech2text(
                transducer_conf=transducer_conf, quantize_asr_model=int8, **kwargs
            )
        except (OSError, ValueError, yaml.YAMLError) as e:
            sys.exit(f"asr_inference_streaming: {' '.join(str(e).split())}")
        return InChunks(speech2text, length) if length else speech2text

    original = espnet.Speech2TextStreaming
    espnet.Speech2TextStreaming = build
    try:
        espnet.inference(**options, sim_chunk_length=0)
    finally:
        espnet.Speech2TextStreaming = original


if __name__ == "__main__":
    main()
