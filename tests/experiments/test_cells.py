"""The declaration of the grid: cells, configs, errors."""

import pytest
import yaml

from espnet_gq import GQConfig
from experiments.cells import DECLARATION, Cell, Grid, GridError, merged


def test_every_cell_has_a_unique_name_and_a_valid_config(declared):
    names = [cell.name for cell in declared.cells]
    assert len(set(names)) == len(names) > 100
    for cell in declared.cells:
        for conf in (declared.gq_confs(cell) or {}).values():
            assert GQConfig.from_dict(conf).bits == cell.bits
        if declared.trains(cell):
            config = declared.cell_config(cell)
            assert config["seed"] == cell.seed
            assert config["scheduler_conf"] == {"T_max": config["max_epoch"]}


def test_methods_of_an_architecture_differ_in_gq_conf_and_classes_only(declared):
    def plain(cell):
        config = declared.cell_config(cell)
        for part in ("encoder", "decoder", "model"):
            config.get(f"{part}_conf", {}).pop("gq_conf", None)
            config[part] = str(config.get(part)).removeprefix("gq_")
        return {k: v for k, v in config.items() if k != "model"}

    cells = [c for c in declared.cells if declared.trains(c) and c.seed == 1]
    for architecture in declared.architectures:
        mine = [plain(c) for c in cells if c.architecture == architecture]
        assert len(mine) > 10 and all(config == mine[0] for config in mine)


def test_quantized_classes_and_rules_reach_the_config(declared):
    cell = Cell("rnnt", "trained", "gq", 2, "float_ends", 3)
    config = declared.cell_config(cell)
    assert config["encoder"] == "gq_rnn" and config["decoder"] == "gq_transducer"
    rules = [{"pattern": "embed.*", "float": True}]
    conf = {"bits": 2, "granularity": "channel"}
    assert config["encoder_conf"]["gq_conf"] == {**conf, "rules": rules}
    assert config["decoder_conf"]["gq_conf"] == conf
    assert config["model"] == "gq_espnet"


def test_methods_have_the_same_scales(declared):
    for bits, scales in ((4, "tensor"), (3, "channel")):
        for method in ("gq", "lsq", "ternary"):
            confs = declared.gq_confs(Cell("conformer", "trained", method, bits))
            assert all(conf["granularity"] == scales for conf in confs.values())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"methods": ["gp"]}, "method is 'gp'; allowed: float"),
        ({"architecture": "lstm"}, "architecture is 'lstm'; allowed: conformer, rnnt"),
        ({"bit": [1]}, "unknown key 'bit'; allowed: architecture"),
    ],
)
def test_a_mistake_in_the_declaration_is_one_sentence(tmp_path, change, message):
    found = yaml.safe_load(DECLARATION.read_text())
    found["cells"][0] = {**found["cells"][0], **change}
    text = yaml.safe_dump(found, sort_keys=False)
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(GridError, match=message):
        Grid(tmp_path / "grid.yaml")


def test_merged():
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    changed = merged(base, {"a": {"b": None, "e": {"f": 4}}, "d": None})
    assert changed == {"a": {"c": 2, "e": {"f": 4}}} and base["d"] == 3
