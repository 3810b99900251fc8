"""Other quantizers behind the same interface, to measure GQ against.

Each file names the paper whose formula it follows. `METHODS` in `quantizer/methods.py`
lists them.
"""
