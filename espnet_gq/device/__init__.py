"""Recognition without PyTorch: one model file, an engine in C++ and its binding.

`espnet-gq export` writes the file. `csrc/gq_asr.h` is the interface of the engine, and
`Model` its binding, which needs NumPy alone.
"""

from espnet_gq.device.engine import EngineError, Model, Result, Stream

__all__ = ["EngineError", "Model", "Result", "Stream"]
