"""Quantized layers, preparing and hardening a module, the state of a training."""

from espnet_gq.nn.config import GQConfig, GQConfigError, Rule
from espnet_gq.nn.prepare import harden, prepare
from espnet_gq.nn.summary import Summary, summarize
from espnet_gq.nn.training import advance

__all__ = [
    "GQConfig",
    "GQConfigError",
    "Rule",
    "Summary",
    "advance",
    "harden",
    "prepare",
    "summarize",
]
