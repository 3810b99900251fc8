"""ESPnet's families: tiny models that together contain every class it offers."""

from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Tuple

from espnet_gq.espnet.tasks import TASKS
from tests.espnet.families.bases import BASES

INSIDE = ("block", "joint network")
"""Parts that no option of the configuration names."""
WITHOUT_WEIGHTS = ("specaug", "normalize", "preprocessor")


@dataclass(frozen=True)
class Family:
    """A tiny model.

    Attributes:
        task: ESPnet's task, as in `espnet_gq.espnet.tasks`.
        parts: Part of the model, as in the configuration -> its class that is covered.
        options: What of the task's base configuration (`bases`) changes beside them.
        needs: Modules beside ESPnet's own that it needs.
        search: Further arguments of its inference class.
        inference: "module:class" that decodes with it, where it is not the task's.
        share: Least share of its matrix parameters that must be quantized.
        why: Why that is less than usual.
        rate: Sampling rate of its recordings in Hz.
    """

    task: str
    parts: Dict[str, str]
    options: Dict[str, Any] = field(default_factory=dict)
    needs: Tuple[str, ...] = ()
    search: Dict[str, Any] = field(default_factory=dict)
    inference: str = ""
    share: float = 0.95
    why: str = ""
    rate: int = 8000

    def __str__(self) -> str:
        return "-".join((self.task, *self.parts.values()))

    def config(self) -> Dict[str, Any]:
        """Return the configuration of the tiny model."""
        named = {k: v for k, v in self.parts.items() if k not in INSIDE}
        return {**BASES[self.task], **named, **self.options}


FAMILIES: List[Family] = [
    Family("asr", {"encoder": "conformer", "decoder": "transformer"}),
    Family("s2t_ctc", {"encoder": "e_branchformer_ctc", "promptencoder": "transformer"}),
    Family("s2t", {"encoder": "e_branchformer", "decoder": "transformer"}),
    Family("st", {"encoder": "conformer", "decoder": "transformer"}),
    Family("slu", {"encoder": "conformer", "decoder": "transformer"}),
    Family("lm", {"lm": "seq_rnn", "model": "lm_multitask"}),
    Family("asr_transducer", {"block": "conformer", "decoder": "rnn"}),
]

CANNOT: Dict[Tuple[str, str, str], str] = {}
"""(task, part, class) -> why there is no tiny model."""


def choices() -> Iterator[Tuple[str, str, str]]:
    """Yield (task, part, class) for everything that ESPnet offers as part of a model."""
    for task in TASKS.values():
        for choice in task.load().class_choices_list:
            if choice.name not in WITHOUT_WEIGHTS:
                for name in choice.classes:
                    yield task.name, choice.name, name
