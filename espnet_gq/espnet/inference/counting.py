"""Tells a checkpoint's parameters from its buffers, by building an empty model."""

import argparse
import logging
from pathlib import Path
from typing import Optional, Set, Union

from espnet_gq._compat import RENAMED_LAYERS
from espnet_gq.analysis.size import Description, describe, parameter_names
from espnet_gq.espnet.inference.loading import without_weights
from espnet_gq.espnet.sharing.archive import read_yaml
from espnet_gq.espnet.sharing.plain_config import plain_config
from espnet_gq.espnet.tasks import task_of

PathLike = Union[str, Path]

KNOWN = {
    "encoder": (
        *("conformer", "transformer", "branchformer", "e_branchformer"),
        *("contextual_block_conformer", "contextual_block_transformer"),
        *("e_branchformer_ctc", "rnn", "vgg_rnn", None),
    ),
    "decoder": (
        *("transformer", "rnn", "transducer", "stateless", "mega", "rwkv", None),
    ),
    "frontend": ("default", "sliding_window", None),
    "preencoder": ("sinc", "linear", None),
    "postencoder": ("length_adaptor", None),
}
"""Classes whose constructors need only options; others download weights."""


def describe_model(
    model_file: PathLike, config_file: Optional[PathLike] = None
) -> Description:
    """Describe a checkpoint as `analysis.size.describe` does, without its buffers.

    Args:
        model_file: The checkpoint.
        config_file: config.yaml of its training; None: the one beside it, if any.

    Raises:
        FileNotFoundError, ValueError: If the file cannot be read as a checkpoint.
    """
    return describe(model_file, parameters_of(model_file, config_file))


def parameters_of(
    model_file: PathLike, config_file: Optional[PathLike] = None
) -> Optional[Set[str]]:
    """Return the names of the parameters of a checkpoint's model.

    Returns None if there is no configuration, or if building its model would download
    weights.
    """
    path = Path(config_file or Path(model_file).with_name("config.yaml"))
    if not path.is_file():
        return None
    try:
        config = plain_config(read_yaml(path))
        if any(config.get(part) not in names for part, names in KNOWN.items()):
            return None
        names = parameter_names(_skeleton(config))
    except Exception as e:  # whatever ESPnet's constructors raise
        reason = " ".join(str(e).split()) or type(e).__name__
        logging.warning(
            f"{path}: its model cannot be built ({reason}): buffers are counted as "
            "parameters"
        )
        return None
    # Under the names of older and newer ESPnet releases.
    older = {name.replace(new, old) for name in names for old, new in RENAMED_LAYERS}
    newer = {name.replace(old, new) for name in names for old, new in RENAMED_LAYERS}
    return names | older | newer


def _skeleton(config):
    """Return the float model of a configuration, without memory for its weights."""
    import espnet_gq.espnet  # noqa: F401 for the transducers' loss

    task = task_of(config).load()
    # Normalization has no parameters, and its statistics file may be elsewhere.
    options = {**config, "init": None, "normalize": None}
    return without_weights(lambda: task.build_model(argparse.Namespace(**options)))
