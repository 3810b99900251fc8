"""Every difference between the supported ESPnet releases, in one place.

Supported: 202511 (Python 3.11) and 202611 (Python 3.12 and 3.13).
"""

from importlib.metadata import version
from typing import Tuple

ASR_TASK_MODULES: Tuple[str, ...] = (
    "espnet2.tasks.asr",
    # 202611: ESPnet3 keeps a copy of the ASR task and of its class lists.
    "espnet3.systems.esp2_asr.task",
)
TRANSDUCER_TASK_MODULES: Tuple[str, ...] = ("espnet2.tasks.asr_transducer",)
RENAMED_LAYERS: Tuple[Tuple[str, str], ...] = (
    # 202611 took the positional encoding out of the subsampling's last Sequential. It
    # renames the weights when it loads them; quantizers have to follow.
    ("embed.out.0.", "embed.out."),
)


def espnet_version() -> str:
    """Return the installed ESPnet release, such as "202511"."""
    return version("espnet")
