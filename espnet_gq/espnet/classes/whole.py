"""Quantizing a whole model by one `gq_conf`, whatever classes it is made of.

    model_conf: {gq_conf: {bits: 5, rules: [{pattern: "encoder.embed.*", bits: 8}]}}

Patterns match names inside the whole model. Parts that a `gq_` class quantizes by its
own `gq_conf` are left to it.
"""

import contextlib
import glob
from typing import Any, Iterator, List, Mapping, Optional, Tuple

from espnet2.asr.decoder.rnn_decoder import RNNDecoder
from torch import nn

from espnet_gq.espnet.classes.mixin import QuantizedByConf, rename_quantizers
from espnet_gq.nn import GQConfig, GQConfigError, prepare
from espnet_gq.nn.config import Rule
from espnet_gq.nn.layers import quantized_once
from espnet_gq.nn.prepare import quantized_layers
from espnet_gq.wording import quoted

KEY = "gq_conf"
WHERE = "model_conf"


@contextlib.contextmanager
def taken_out(task: Any, args: Any) -> Iterator[Optional[Mapping[str, Any]]]:
    """Take `gq_conf` out of the model's options within the block, and yield it.

    A model class that reads `gq_conf` itself keeps it; None is yielded then, and where
    there is none or it is null.

    Args:
        task: ESPnet's task.
        args: Its options.
    """
    conf = getattr(args, WHERE, None)
    if not isinstance(conf, Mapping) or KEY not in conf or _reads(task, args):
        yield None
        return
    setattr(args, WHERE, {key: v for key, v in conf.items() if key != KEY})
    try:
        yield conf[KEY]
    finally:
        setattr(args, WHERE, conf)


def _reads(task: Any, args: Any) -> bool:
    """Return whether the model's class has an argument `gq_conf`."""
    name = str(getattr(args, "model", None)).lower()
    for choice in task.class_choices_list:
        if choice.name == "model":
            cls = choice.classes.get(name)
            return cls is not None and issubclass(cls, QuantizedByConf)
    return False


MASKS = {"BeatsEncoder": ("patch_embedding_pad", "raw2fbank_pad")}
"""Class of ESPnet -> its convolutions of ones, which find the frames of padding."""


def quantize_whole(model: nn.Module, gq_conf: Mapping[str, Any]) -> None:
    """Quantize everything of a model that is not quantized yet, in place.

    Args:
        model: ESPnet's model.
        gq_conf: See `espnet_gq.nn.GQConfig`; patterns are names inside the model.

    Raises:
        GQConfigError: If the configuration is wrong or quantizes nothing.
    """
    try:
        config = GQConfig.from_dict(gq_conf)
        prepare(model, _beside(config, model))
    except GQConfigError as e:
        raise GQConfigError(f"{WHERE}: {e}") from None
    model.register_load_state_dict_pre_hook(rename_quantizers)
    for module in model.modules():
        if isinstance(module, RNNDecoder) and not isinstance(module, QuantizedByConf):
            module.register_forward_pre_hook(_enter)
            module.register_forward_hook(_leave, always_call=True)


def _beside(config: GQConfig, model: nn.Module) -> GQConfig:
    """Return a configuration that leaves layers alone that are quantized already.

    Raises:
        GQConfigError: If one of its patterns is for such layers alone.
    """
    done = [name for name, _ in quantized_layers(model)]
    others = [n for n, m in model.named_modules() if n not in done and _has_matrix(m)]
    for rule in config.rules:
        if any(map(rule.matches, done)) and not any(map(rule.matches, others)):
            raise GQConfigError(
                f"gq_conf.rules: pattern {quoted(rule.pattern)} matches only layers of "
                "a gq_ class, which has a gq_conf of its own; allowed: the rule there, "
                "or the float class"
            )
    own = tuple(Rule(pattern=glob.escape(name), float=True) for name in done)
    options = {**vars(config), "rules": own + masks(model) + config.rules}
    return GQConfig(**options)


def masks(model: nn.Module) -> Tuple[Rule, ...]:
    """Return rules that leave layers float which compute masks, not features."""
    names = [
        f"{name}.{layer}".lstrip(".")
        for name, module in model.named_modules()
        for layer in MASKS.get(type(module).__name__, ())
        if isinstance(getattr(module, layer, None), nn.Module)
    ]
    return tuple(Rule(pattern=glob.escape(name), float=True) for name in names)


def _has_matrix(module: nn.Module) -> bool:
    return any(p is not None and p.dim() > 1 for p in module._parameters.values())


# ---- A decoder that calls its cells once per label quantizes each weight once --------
def _enter(decoder: nn.Module, _: Any) -> None:
    block = contextlib.ExitStack()
    block.enter_context(quantized_once(decoder))
    _blocks(decoder).append(block)


def _leave(decoder: nn.Module, *_: Any) -> None:
    if _blocks(decoder):
        _blocks(decoder).pop().close()


def _blocks(decoder: nn.Module) -> List[contextlib.ExitStack]:
    return decoder.__dict__.setdefault("_gq_blocks", [])
