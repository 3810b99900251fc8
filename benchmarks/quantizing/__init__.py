"""Time and memory of quantizing a trained recogniser."""
