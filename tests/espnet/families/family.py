"""What a tiny model of a family is."""

from dataclasses import dataclass, field
from typing import Any, Dict, Tuple

from tests.espnet.families.bases import BASES, SIZE
from tests.espnet.families.confs import CONFS, conf
from tests.espnet.tiny_task import TOKENS

INSIDE = ("block", "joint network")
"""Parts that no option of the configuration names."""


@dataclass(frozen=True)
class Family:
    """A tiny model.

    Attributes:
        task: ESPnet's task, as in `espnet_gq.espnet.tasks`.
        parts: Part of the model, as in the configuration -> its class that is covered.
        options: What of the task's base configuration (`bases`) changes beside them.
        needs: Modules beside ESPnet's own that it needs.
        search: Further arguments of its inference class.
        since: First release of ESPnet that runs it.
        untrained: Why ESPnet cannot train it; then it is trained for no step.
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
    since: str = "202511"
    untrained: str = ""
    inference: str = ""
    share: float = 0.95
    why: str = ""
    rate: int = 8000

    def __str__(self) -> str:
        names = self.parts.values()
        if len(self.parts) == 1:
            names = [name for pair in self.parts.items() for name in pair]
        return "-".join((self.task, *names)).replace(" ", "_")

    def config(self) -> Dict[str, Any]:
        """Return the configuration of the tiny model."""
        named = {k: v for k, v in self.parts.items() if k not in INSIDE}
        config = {**BASES[self.task], **named, **self.options}
        for part in CONFS:
            name = config.get(part)
            if name and f"{part}_conf" not in config:
                config[f"{part}_conf"] = conf(self.task, part, name)
        return config


WAVE = {"frontend": None, "input_size": 1, "normalize": None}
"""For encoders that take the waveform."""
TRANSDUCER = {"transducer_conf": {"search_type": "default"}}

JOINT = {"joint_space_size": SIZE}
PERPLEXITY = "tests.espnet.families.decoding:Perplexity"
CONV1D = {"output_size": SIZE}
TWO_PASS = {
    "postdecoder": "hugging_face_transformers",
    "transcript_token_list": TOKENS,
    "two_pass": True,
}
"""Of the task slu: decodes speech with a transcript beside it."""


def body(**options: Any) -> Dict[str, Any]:
    """Return the encoder of the task asr_transducer with a block of another kind."""
    base = BASES["asr_transducer"]["encoder_conf"]
    (block,) = base["body_conf"]
    return {**base, "body_conf": [{**block, **options}]}
