"""Quantizing a trained model: codebooks fitted, or weights chosen on calibration data.

Nothing is trained. `plan.py` says how many bits each weight gets; `codebooks.py` fits
a codebook to a weight alone; `second_order.py` chooses weights by the error that they
make on activations (`inputs.py`); `sequential.py` takes a model's layers in the order
of its computation; `norms.py` corrects batch-norm statistics.
"""
