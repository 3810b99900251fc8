"""Recognition without PyTorch: one model file, an engine in C++ and its binding.

`espnet-gq export` writes the file; `csrc/gq_asr.h` is the interface of the engine.
Importing this package imports NumPy at most.
"""
