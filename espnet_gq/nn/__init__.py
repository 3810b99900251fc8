"""Quantized layers, and preparing and hardening a module."""

from espnet_gq.nn.config import GQConfig, GQConfigError, Rule
from espnet_gq.nn.prepare import advance, harden, prepare
from espnet_gq.nn.summary import Summary, summarize

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
