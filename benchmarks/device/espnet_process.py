"""ESPnet's streaming decoder in a process of its own: WAV files to figures.

    python -m benchmarks.device.espnet_process TASK CONFIG MODEL INT8 THREADS \\
        CHUNK_MS WAV ...

INT8 is 1 for int8: PyTorch's of a float model, this project's of a packed one.
"""

import sys
from typing import Any, List

import torch

from benchmarks.device.live import Feed, recognize
from benchmarks.report import quiet

LEFT_CONTEXT = 40
"""Encoder frames before a chunk that attention sees, in the second task."""
MODULES = ["Linear", "LSTM"]
"""Types of modules for PyTorch's dynamic int8: ESPnet's default, and LSTM."""


def _take_vectors(joint: Any) -> None:
    """Make a joint network accept vectors; PyTorch's int8 Linear layers refuse them."""
    matrices = joint.forward
    joint.forward = lambda encoded, decoded: matrices(encoded[None], decoded[None])[0]


def _asr(config: str, model: str, options: Any) -> Feed:
    from espnet_gq.espnet.inference.streaming import Speech2TextStreaming

    decoder: Any = Speech2TextStreaming(config, model, beam_size=1, **options)

    def feed(samples, final: bool) -> int:
        return len(decoder(samples, is_final=final)[0][2])

    return feed


def chunk_decoder(config: str, model: str, chunk_ms: int, **options: Any) -> Any:
    """Return the decoder of ESPnet's second transducer task, for chunks."""
    from espnet2.bin.asr_transducer_inference import Speech2Text

    import espnet_gq.espnet  # noqa: F401 registers the quantized classes

    return Speech2Text(
        config,
        model,
        beam_size=1,
        streaming=True,
        decoding_window=chunk_ms,
        left_context=LEFT_CONTEXT,
        **options,
    )


def _second(config: str, model: str, options: Any, chunk_ms: int) -> Feed:
    decoder = chunk_decoder(config, model, chunk_ms, **options)
    joint = decoder.asr_model.joint_network
    if isinstance(joint.lin_out, torch.ao.nn.quantized.dynamic.Linear):
        _take_vectors(joint)

    def feed(samples, final: bool) -> int:
        best = decoder.streaming_decode(samples, is_final=final)[0]
        return sum(label != 0 for label in best.yseq)

    return feed


def main(words: List[str]) -> None:
    """Load the model and recognize the files."""
    quiet()
    task, config, model, int8, threads, chunk_ms, *paths = words
    torch.set_num_threads(int(threads))
    options = dict(quantize_asr_model=int8 == "1", quantize_modules=MODULES)
    if task == "asr":
        feed = _asr(config, model, options)
    else:
        feed = _second(config, model, options, int(chunk_ms))
    recognize(feed, paths, int(chunk_ms))


if __name__ == "__main__":
    main(sys.argv[1:])
