import pytest
import torch

import espnet_gq
from espnet_gq.bin import pack
from espnet_gq.packing import save


@pytest.fixture
def checkpoint(tmp_path):
    model = espnet_gq.prepare(torch.nn.Linear(4, 3), espnet_gq.GQConfig(bits=5))
    model(torch.zeros(1, 4))
    save(model.state_dict(), tmp_path / "model.pth")
    return tmp_path / "model.pth"


def float_form(checkpoint):
    pack.main(["--asr_model_file", str(checkpoint), "--format", "float"])


@pytest.mark.parametrize("content", ["encoder: [conformer", "- a list", "\x00"])
def test_a_damaged_config_gives_one_line_and_writes_nothing(checkpoint, content):
    config = checkpoint.with_name("config.yaml")
    config.write_text(content)
    with pytest.raises(SystemExit) as error:
        float_form(checkpoint)
    assert error.value.code == 2
    assert str(config) in str(error.value) and "\n" not in str(error.value)
    assert sorted(p.name for p in checkpoint.parent.iterdir()) == [
        "config.yaml",
        "model.pth",
    ]


def test_the_config_of_the_float_form_needs_no_plugin(checkpoint):
    config = checkpoint.with_name("config.yaml")
    config.write_text("encoder: gq_conformer\nencoder_conf: {gq_conf: {bits: 5}}\n")
    float_form(checkpoint)
    written = checkpoint.with_name("model.float.yaml").read_text()
    assert written == "encoder: conformer\nencoder_conf: {}\n"
