"""Building a task's model from its configuration."""

import contextlib
from typing import Any, Callable, Iterator

from espnet_gq.espnet.classes.decoders import GQTransducerDecoder
from espnet_gq.espnet.classes.placement import check_placement
from espnet_gq.espnet.classes.whole import quantize_whole, taken_out


def build_model(original: Callable) -> Callable:
    """Wrap a task's `build_model`: it quantizes by the `gq_conf` of the whole model.

    Also checks where `gq_conf` is, and accepts `gq_transducer`.
    """

    def build_model(cls, args):
        check_placement(cls, args)
        with _as_transducer(cls, args), taken_out(cls, args) as gq_conf:
            model = original(cls, args)
        if gq_conf is not None:
            quantize_whole(model, gq_conf)
        return model

    return build_model


@contextlib.contextmanager
def _as_transducer(task: Any, args: Any) -> Iterator[None]:
    """Within the block the quantized transducer decoder is called "transducer".

    The ASR task builds a joint network only for a decoder of this name.
    """
    name = getattr(args, "decoder", None)
    if name is None or name.lower() != GQTransducerDecoder.gq_name:
        yield
        return
    (choices,) = (c for c in task.class_choices_list if c.name == "decoder")
    plain = choices.classes["transducer"]
    args.decoder, choices.classes["transducer"] = "transducer", GQTransducerDecoder
    try:
        yield
    finally:
        args.decoder, choices.classes["transducer"] = name, plain
