"""The README's Python example runs as written."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_python_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        names = {}
        exec(compile(block, str(README), "exec"), names)
        assert names["packed"]["format"] == "espnet_gq.packed"
        assert type(names["float_model"][0]).__name__ == "Linear"


def test_every_class_and_key_it_names_exists():
    from dataclasses import fields

    import espnet_gq.espnet  # noqa: F401
    from espnet_gq.espnet import transducer_task
    from espnet_gq.espnet.decoders import DECODERS
    from espnet_gq.espnet.encoders import ENCODERS
    from espnet_gq.espnet.model import MODELS
    from espnet_gq.nn import GQConfig

    text = README.read_text()
    named = set(re.findall(r"`(gq_[a-z_]+)`", text)) - {"gq_conf"}
    known = {*ENCODERS, *DECODERS, *MODELS, *transducer_task.DECODERS}
    assert named == known
    keys = re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE)
    assert set(keys) == {f.name for f in fields(GQConfig)}
