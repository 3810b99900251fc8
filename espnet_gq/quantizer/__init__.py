"""The mathematics of the General Quantizer."""

from espnet_gq.quantizer.annealing import Annealing
from espnet_gq.quantizer.base import Quantizer
from espnet_gq.quantizer.general import GeneralQuantizer

__all__ = ["Annealing", "GeneralQuantizer", "Quantizer"]
