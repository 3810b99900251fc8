"""What training and packed inference cost in time and memory."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""
