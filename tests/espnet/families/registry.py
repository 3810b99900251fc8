"""ESPnet's families: tiny models that together contain every class it offers."""

from typing import Iterator, List, Tuple

from espnet_gq.espnet.tasks import TASKS
from tests.espnet.families.family import Family
from tests.espnet.families.others import OTHERS
from tests.espnet.families.recognisers import RECOGNISERS

FAMILIES: List[Family] = [*RECOGNISERS, *OTHERS]
PACKAGES = {"whisper": "openai-whisper", "s3prl": "espnet-s3prl"}
"""Module -> package of PyPI, where the names differ."""
WITHOUT_WEIGHTS = ("specaug", "normalize", "preprocessor")


def choices() -> Iterator[Tuple[str, str, str]]:
    """Yield (task, part, class) for all that ESPnet offers as part of a model."""
    for task in TASKS.values():
        for choice in task.load().class_choices_list:
            if choice.name not in WITHOUT_WEIGHTS:
                for name in choice.classes:
                    yield task.name, choice.name, name
