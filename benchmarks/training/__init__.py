"""Time and memory of a quantization-aware training step."""
