"""Quantized layers, and preparing and hardening a module."""

from espnet_gq.nn.config import GQConfig, GQConfigError, Rule
from espnet_gq.nn.prepare import advance, harden, prepare

__all__ = ["GQConfig", "GQConfigError", "Rule", "advance", "harden", "prepare"]
