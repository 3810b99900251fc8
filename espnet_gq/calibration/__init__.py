"""Quantizing a trained model: codebooks fitted, or weights chosen on calibration data.

Nothing is trained. `plan.py` chooses the bits of each weight; `codebooks.py` fits a
codebook to one weight; `second_order.py` chooses weights by their error on activations
(`inputs.py`); `sequential.py` processes the layers in the order of the model's
computation; `norms.py` corrects batch-norm statistics.
"""
