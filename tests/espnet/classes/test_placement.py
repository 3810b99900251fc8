"""A gq_conf that nothing reads is refused, by a sentence that says what to write."""

import re
from argparse import Namespace

import pytest
import yaml
from tiny_task import ABSENT, CONFIG, SECOND_TASK, Task
from untrained import build, task_class

from espnet_gq.espnet.classes.mixin import QuantizedByConf
from espnet_gq.espnet.sharing.plain_config import plain_config
from espnet_gq.nn import GQConfigError

GQ = {"bits": 5}
PLACES = "model_conf, for the whole model, or into encoder_conf or decoder_conf"
WHOLE = "model_conf: {gq_conf: ...}, which quantizes the whole model"


def choices(asr_task):
    return {c.name: c.classes for c in task_class(asr_task).class_choices_list}


def float_classes():
    """Yield (task, part, name of a float class, that of its quantized form)."""
    for asr_task in ("asr", "asr_transducer"):
        for part, classes in choices(asr_task).items():
            if part not in ("encoder", "decoder"):
                continue
            for name, cls in classes.items():
                if not issubclass(cls, QuantizedByConf):
                    ours = f"gq_{name}" if f"gq_{name}" in classes else None
                    yield asr_task, part, name, ours


def other_parts():
    """Yield (task, part that is never quantized, class)."""
    for asr_task in ("asr", "asr_transducer"):
        for part, classes in choices(asr_task).items():
            if part not in ("encoder", "decoder", "model"):
                for name in (*classes, None):
                    yield asr_task, part, name
        for part in ("optim", "scheduler"):
            yield asr_task, part, ABSENT


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return Task(tmp_path_factory.mktemp("placement"), train=1, valid=1)


def refused(task, asr_task="asr", **changes):
    """Start a training that is refused; return the sentence."""
    changes = {**(SECOND_TASK if asr_task == "asr_transducer" else {}), **changes}
    config = task.config("placement.yaml", **changes)
    command = task.arguments(config, "refused", asr_task=asr_task)
    with pytest.raises(GQConfigError) as error:
        task_class(asr_task).main(cmd=command[5:])
    assert not (task.path / "refused").exists()
    # The same where a model is built in another way: decoding, ESPnet3, Lightning.
    args = task_class(asr_task).get_parser().parse_args(command[5:])
    with pytest.raises(GQConfigError, match=f"^{re.escape(str(error.value))}$"):
        task_class(asr_task).build_model(args)
    assert "\n" not in str(error.value) and "allowed" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("asr_task, part, name, ours", float_classes())
def test_float_classes(task, asr_task, part, name, ours):
    message = refused(task, asr_task, **{part: name, f"{part}_conf": {"gq_conf": GQ}})
    start = f"{part}_conf has a gq_conf, and {part} is {name}, "
    if ours:
        assert message == f"{start}the float class; allowed: {part}: {ours}, or {WHOLE}"
    else:
        none = "which has no quantized class of its own; allowed: "
        assert message.startswith(f"{start}{none}{WHOLE}, or one of gq_")


@pytest.mark.parametrize("asr_task, part, name", other_parts())
def test_parts_without_a_quantized_form(task, asr_task, part, name):
    conf = {} if name is ABSENT else {part: name}
    message = refused(task, asr_task, **conf, **{f"{part}_conf": {"gq_conf": GQ}})
    assert message == (
        f"{part}_conf has a gq_conf, which nothing reads; allowed: {WHOLE}"
    )


@pytest.mark.parametrize(
    "asr_task, part",
    [("asr", "ctc"), ("asr", "joint_net"), ("asr_transducer", "joint_network")],
)
def test_parts_of_the_model(task, asr_task, part):
    message = refused(task, asr_task, **{f"{part}_conf": {"gq_conf": GQ}})
    start = f"{part}_conf has a gq_conf, which nothing reads; allowed: "
    assert message == start + WHOLE


def test_a_decoder_that_is_not_set(task):
    message = refused(task, decoder=None)
    assert message.startswith("decoder_conf has a gq_conf, and decoder is not set; al")


@pytest.mark.parametrize("value", [None, {}, GQ], ids=str)
def test_an_empty_one_is_one(task, value):
    message = refused(task, encoder="conformer", encoder_conf__gq_conf=value)
    assert message.endswith(f"allowed: encoder: gq_conformer, or {WHOLE}")


@pytest.mark.parametrize(
    "asr_task, changes, words",
    [
        ("asr", {"encoder_conf__pos_conf": {"gq_conf": GQ}}, "encoder_conf: pos_conf"),
        ("asr", {"frontend_conf__a": [{"gq_conf": GQ}]}, "inside frontend_conf: a"),
        ("asr", {"optim_conf__gq_config": GQ}, "optim_conf has a gq_conf, which no"),
        (
            "asr_transducer",
            {"encoder_conf": {"body_conf": [{"hidden_size": 16, "gq_conf": GQ}]}},
            "encoder_conf: body_conf",
        ),
    ],
)
def test_too_deep(task, asr_task, changes, words):
    assert words in refused(task, asr_task, **changes)


@pytest.mark.parametrize("asr_task", ["asr", "asr_transducer"])
def test_a_model_conf_with_null_stays_float(task, asr_task):
    changes = dict(SECOND_TASK) if asr_task == "asr_transducer" else {"model": "espnet"}
    conf = {**changes.pop("model_conf", {}), "gq_conf": None}
    config = task.config("null.yaml", **changes, model_conf=conf)
    model, args = build(task, config, asr_task)
    assert not isinstance(model, QuantizedByConf)
    assert "gq_conf" in args.model_conf


# ---- Near misses --------------------------------------------------------------------
@pytest.mark.parametrize("key", ["gq", "GQ_conf", "gqconf", "gq-conf", "gq_config"])
@pytest.mark.parametrize("part", ["encoder", "decoder", "model"])
def test_keys_that_are_almost_right(task, part, key):
    changes = {f"{part}_conf__gq_conf": ABSENT, f"{part}_conf__{key}": GQ}
    assert refused(task, **changes) == f"{part}_conf has '{key}'; allowed: gq_conf"


@pytest.mark.parametrize("key", ["bits", "rules", "annealing", "method"])
def test_keys_of_a_gq_conf_that_are_outside_of_it(task, key):
    message = refused(task, **{f"encoder_conf__{key}": 5})
    assert message == (
        f"encoder_conf has '{key}' itself; allowed: encoder_conf: {{gq_conf: "
        f"{{{key}: 5}}}}"
    )


@pytest.mark.parametrize(
    "name, allowed",
    [
        ("gq-conformer", "gq_conformer"),
        ("gqconformer", "gq_conformer"),
        ("conformer_gq", "gq_conformer"),
        ("GQConformer", "gq_conformer"),
        ("gq_e-branchformer", "gq_e_branchformer"),
        ("gq_longformer", "gq_conformer, gq_transformer, gq_branchformer, gq_e_b"),
    ],
)
def test_names_that_are_almost_right(task, name, allowed):
    message = refused(task, encoder=name)
    assert f"{name.lower()}', which is no class; allowed: {allowed}" in message.lower()


def test_names_of_other_parts(task):
    assert "allowed: gq_espnet" in refused(task, model="gq_maskctc")
    assert "allowed: gq_transducer" in refused(task, decoder="gq-transducer")
    message = refused(task, frontend="gq_default")
    assert message.endswith(f"allowed: one that ESPnet has, and {WHOLE}")
    assert "gq_stateless" in refused(task, "asr_transducer", decoder="gq_transformer")


def test_capital_letters_are_small_ones(task):
    """As ESPnet takes its own names; also where no parser changes them."""
    parts = {
        "encoder": "GQ_Conformer",
        "decoder": "Gq_transformer",
        "model": "GQ_espnet",
    }
    config = task.config("capital.yaml", **parts)
    _, args = build(task, config)
    assert args.encoder == "gq_conformer"
    args = Namespace(**{**vars(args), **parts})
    model = task_class().build_model(args)
    assert isinstance(model.encoder, QuantizedByConf)
    plain = plain_config({**CONFIG, **parts})
    assert [plain[p] for p in parts] == ["conformer", "transformer", "espnet"]


@pytest.mark.parametrize("asr_task", ["asr", "asr_transducer"])
@pytest.mark.parametrize("key", ["gq_conf", "gq_config", "GQ_conf"])
@pytest.mark.parametrize("by", ["config", "option"])
def test_outside_of_every_part(task, capsys, asr_task, key, by):
    changes = SECOND_TASK if asr_task == "asr_transducer" else {}
    extra = []
    if by == "config":
        changes = {**changes, key: GQ}
    else:
        extra = [f"--{key}", "bits=5"]
    config = task.config("top.yaml", **changes)
    command = task.arguments(config, "refused", *extra, asr_task=asr_task)
    with pytest.raises(SystemExit) as error:
        task_class(asr_task).main(cmd=command[5:])
    assert error.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"gq_conf belongs into {PLACES}" in last and key in last


def test_outside_of_every_part_without_a_parser(task):
    _, args = build(task, task.config("python.yaml"))
    for key in ("gq_conf", "gq_config"):
        with pytest.raises(GQConfigError, match=f"gq_conf belongs into {PLACES}"):
            task_class().build_model(Namespace(**vars(args), **{key: GQ}))


def test_the_encoder_of_the_second_task(task, capsys):
    config = task.config("second.yaml", **{**SECOND_TASK, "encoder": "gq_conformer"})
    command = task.arguments(config, "refused", asr_task="asr_transducer")
    with pytest.raises(SystemExit):
        task_class("asr_transducer").main(cmd=command[5:])
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "quantized by encoder_conf: {gq_conf: ...}" in last


def test_other_mistakes_are_espnets(task, capsys):
    config = task.config("other.yaml", no_such_option=1)
    with pytest.raises(SystemExit):
        task_class().main(cmd=task.arguments(config, "refused")[5:])
    assert "gq" not in capsys.readouterr().err.strip().splitlines()[-1].lower()


@pytest.mark.parametrize("changes", [{}, SECOND_TASK], ids=["asr", "asr_transducer"])
def test_what_is_right_stays_so(task, changes):
    asr_task = "asr_transducer" if changes else "asr"
    _, args = build(task, task.config("right.yaml", **changes), asr_task)
    assert "gq_conf" not in vars(args)
    assert not [
        key for key in yaml.safe_load(yaml.safe_dump(vars(args))) if "gq" in key
    ]
