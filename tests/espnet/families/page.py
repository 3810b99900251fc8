"""Writes docs/families.md from the registry.

python -m tests.espnet.families.page
"""

from pathlib import Path
from typing import Dict, Iterator, List, Tuple

from espnet_gq.espnet.holds import RELEASES
from espnet_gq.espnet.tasks import TASKS
from tests.espnet.families.cannot import CANNOT
from tests.espnet.families.family import INSIDE
from tests.espnet.families.registry import FAMILIES, PACKAGES, choices

PAGE = Path(__file__).resolve().parents[3] / "docs" / "families.md"
HEAD = """\
# Which of ESPnet's models can be quantized

This page is written by `python -m tests.espnet.families.page` from the models that
`tests/espnet/families` tests; a test fails when it is out of date.

Covered means: ESPnet builds a tiny model with the class, and that model is

- quantized to 4 bits without data by `espnet-gq quantize`; packed, it decodes through
  ESPnet's inference class with the result that plain ESPnet, without the plugin, gets
  from the `float.zip` inside;
- quantized as a whole by `model_conf: {gq_conf: ...}`, at least 95% of its parameters
  in matrices, trained for one step of ESPnet's loss, and packed; it decodes with the
  result of the hardened float model.

Nothing of the plugin is specific to these classes: others are quantized, too, as far
as their weights are in layers that [the configuration](configuration.md) knows. The
list is that of ESPnet 202611. Classes that load pretrained models are tested with tiny
ones of the same architecture, with random weights. ESPnet's Whisper encoder needs a
constant that current releases of openai-whisper lack; the tests define it.
"""


def _status(task: str, part: str, name: str) -> str:
    if (task, part, name) in CANNOT:
        return f"not tested: {CANNOT[task, part, name]}"
    family = next(f for f in FAMILIES if f.task == task and f.parts.get(part) == name)
    notes = []
    if family.needs:
        packages = ", ".join(PACKAGES.get(n, n) for n in family.needs)
        notes.append(f"when {packages} is installed")
    if family.since > RELEASES[0]:
        notes.append(f"with ESPnet {family.since} and later")
    if family.untrained:
        notes.append(f"without the training step: {family.untrained}")
    if family.why:
        notes.append(f"at least {family.share:.0%}: {family.why}")
    return "; ".join([" ".join(("tested", *notes[:1])), *notes[1:]])


def _rows() -> Iterator[Tuple[str, str, str]]:
    yield from (c for c in choices() if not c[2].startswith("gq_"))
    for family in FAMILIES:
        for part, name in family.parts.items():
            if part in INSIDE:
                yield family.task, part, name


def page() -> str:
    """Return the page."""
    lines = [HEAD]
    by_task: Dict[str, Dict[Tuple[str, str], List[str]]] = {}
    for task, part, name in _rows():
        key = (part, _status(task, part, name))
        names = by_task.setdefault(task, {}).setdefault(key, [])
        names += [] if name in names else [name]
    for task in TASKS:
        lines += [f"## {task}\n", "| part | classes of ESPnet | |", "|---|---|---|"]
        parts = sorted(by_task[task].items(), key=lambda item: item[0][0])
        for (part, status), names in parts:
            lines.append(f"| {part} | {', '.join(names)} | {status} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
