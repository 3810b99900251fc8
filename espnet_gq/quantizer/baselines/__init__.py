"""Baselines: other quantizers behind the same interface, to compare GQ with.

Each file names the paper whose formula it follows. `METHODS` in `quantizer/methods.py`
lists them.
"""
