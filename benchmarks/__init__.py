"""Benchmarks of the time and memory of training and packed inference."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""Root of the checkout."""
