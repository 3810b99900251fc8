"""Time, latency and memory of packed inference on a CPU."""
