"""The length of the annealing, compared with that of the training.

Without `gq_conf.annealing.steps` the annealing lasts as long as the training in which
it began. A training that is resumed with another length keeps it: the temperature
continues from where it was, and a warning says where the two ends differ.
`annealing.steps`, added to the configuration of a resumed training, sets a new length.
"""

import logging
from typing import Dict, List, Optional, Tuple

from espnet_gq.quantizer import Quantizer

NEARLY = 0.95
"""Share of its steps that completes an annealing: mixed precision skips some."""
STRETCH = "to anneal over the whole training, set gq_conf.annealing.steps to "


def set_total_steps(quantizers: List[Quantizer], total: Optional[int]) -> None:
    """Anneal over the whole training, unless `annealing.steps` is set.

    Args:
        quantizers: Those of the model.
        total: Optimizer steps of the whole training, None if unknown.

    Raises:
        ValueError: If the length of the training is unknown.
    """
    if all(quantizer.total_steps for quantizer in quantizers):
        return
    if total is None:
        raise ValueError(
            "gq_conf.annealing: steps is not set and the length of an epoch is "
            "unknown; allowed: a number of optimizer steps"
        )
    logging.info(f"GQ: annealing over {total} optimizer steps")
    for quantizer in quantizers:
        quantizer.total_steps = quantizer.total_steps or total


def follow_configuration(quantizers: List[Quantizer]) -> None:
    """Apply a new `annealing.steps` to quantizers loaded from a checkpoint."""
    changed: Dict[int, List[Tuple[Quantizer, int]]] = {}
    for quantizer in quantizers:
        steps = quantizer.annealing.steps
        if steps and quantizer.total_steps and steps != quantizer.total_steps:
            changed.setdefault(quantizer.total_steps, []).append((quantizer, steps))
    for before, group in changed.items():
        first = group[0][0]
        alpha = first.alpha
        for quantizer, steps in group:
            quantizer.total_steps = steps
        logging.warning(
            f"GQ: the annealing began over {before} optimizer steps and continues "
            f"over {first.total_steps} (gq_conf.annealing.steps); at step "
            f"{first.step} the temperature goes from {alpha:.3g} to {first.alpha:.3g}"
        )


def compare_lengths(
    quantizers: List[Quantizer], planned: Optional[int], slack: float = 0
) -> None:
    """Warn where the annealing and the training end at different steps.

    Args:
        quantizers: Those of the model; their length is set.
        planned: Optimizer steps of the whole training, None if unknown.
        slack: Difference in steps that is tolerated.
    """
    if planned is None:
        return
    warm_ups = {q.annealing.warmup_steps for q in quantizers}
    if max(warm_ups) >= planned:
        logging.warning(
            f"GQ: gq_conf.annealing.warmup_steps is {max(warm_ups)} and the training "
            f"ends at optimizer step {planned}: nothing is quantized in it; allowed: "
            f"fewer than {planned}"
        )
    for total, quantizer in _by_length(quantizers).items():
        asked = quantizer.annealing.steps == total
        end = quantizer.annealing.end
        if planned > total + slack and not asked:
            since = max(total, quantizer.step)
            logging.warning(
                f"GQ: the annealing ends at optimizer step {total}, as planned when it "
                f"began, and the training now at step {planned}: {planned - since} "
                f"steps are trained at the final temperature {end:.3g}; "
                f"{STRETCH}{planned}"
            )
        elif planned < total - slack:
            alpha = quantizer.annealing.alpha(planned, total)
            why = (
                " (gq_conf.annealing.steps)" if asked else ", as planned when it began,"
            )
            logging.warning(
                f"GQ: the annealing ends at optimizer step {total}{why} "
                f"and the training at step {planned}: it stops at temperature "
                f"{alpha:.3g} of {end:.3g}, and weights that have not settled move "
                f"when they are packed; {STRETCH}{planned}"
            )


def say_if_unfinished(quantizers: List[Quantizer]) -> None:
    """Warn that a training has ended before its annealing."""
    for total, quantizer in _by_length(quantizers).items():
        if total and quantizer.step < NEARLY * total:
            logging.warning(
                f"GQ: the training has ended at optimizer step {quantizer.step} of "
                f"{total} of its annealing, at temperature {quantizer.alpha:.3g} of "
                f"{quantizer.annealing.end:.3g}: weights that have not settled move "
                "when they are packed"
            )


def _by_length(quantizers: List[Quantizer]) -> Dict[int, Quantizer]:
    """Return length of annealing -> a quantizer with the highest final temperature.

    Quantizers whose temperature is constant are left out.
    """
    ends = [(q.annealing.start, q.annealing.end, q) for q in quantizers]
    annealed = [
        (end, quantizer)
        for start, end, quantizer in ends
        if start is not None and end is not None and end > start
    ]
    annealed.sort(key=lambda pair: pair[0])
    return {quantizer.total_steps: quantizer for _, quantizer in annealed}
