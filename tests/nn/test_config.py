"""gq_conf: what is accepted, and the one sentence for what is not."""

import pytest
from torch import nn

from espnet_gq.nn import GQConfig, GQConfigError, Rule, prepare
from espnet_gq.quantizer.baselines.dkm import DKMQuantizer


def test_the_first_matching_rule_decides():
    config = GQConfig.from_dict(
        {
            "bits": 5,
            "rules": [
                {"pattern": "embed.*", "float": True},
                {"pattern": "encoders.0.*", "bits": 8},
                {"pattern": "encoders.*", "bits": 2, "granularity": "channel"},
            ],
        }
    )
    assert config.quantizer_options("embed.out") is None
    assert config.quantizer_options("encoders.0.w")["bits"] == 8
    options = config.quantizer_options("encoders.3.w")
    assert (options["bits"], options["granularity"]) == (2, "channel")
    assert config.quantizer_options("after_norm")["bits"] == 5


def test_nothing_means_the_defaults():
    assert GQConfig.from_dict(None) == GQConfig.from_dict({}) == GQConfig()


@pytest.mark.parametrize(
    "conf, words",
    [
        ({"bit": 5}, ["'bit'", "bits, rules"]),
        ({"bits": 0}, ["bits is 0", "1 to 8"]),
        ({"bits": 9}, ["bits is 9", "1 to 8"]),
        ({"bits": "5"}, ["bits is '5'", "1 to 8"]),
        ({"bits": True}, ["bits is True", "1 to 8"]),
        ({"bits": 5.0}, ["bits is 5.0", "1 to 8"]),
        ({"granularity": "row"}, ["granularity is 'row'", "tensor, gate, channel"]),
        ({"forward": "firm"}, ["forward is 'firm'", "auto, soft, hard"]),
        ({"every": 0}, ["every is 0", "from 1"]),
        ({"rules": "embed"}, ["rules is 'embed'", "a list"]),
        ({"rules": ["embed"]}, ["'embed' is not a rule", "a mapping"]),
        ({"rules": [{"bits": 4}]}, ["no pattern"]),
        ({"rules": [{"pattern": "x"}]}, ["pattern 'x'", "nothing is set"]),
        ({"rules": [{"pattern": "x", "bits": 12}]}, ["pattern 'x'", "bits is 12"]),
        ({"rules": [{"pattern": "x", "bits": 4, "float": True}]}, ["one or the other"]),
        ({"rules": [{"pattern": 3, "bits": 4}]}, ["pattern is 3"]),
        ({"rules": [{"pattern": "x", "fload": True}]}, ["'fload'", "pattern, bits"]),
        ({"rules": [{"pattern": "x", "float": "yes"}]}, ["float is 'yes'"]),
        ({"annealing": 3}, ["annealing is 3"]),
        ({"annealing": {"begin": 3}}, ["'begin'", "start, end"]),
        ({"annealing": {"start": "3"}}, ["start is '3'", "a number"]),
        ({"annealing": {"steps": 1.5}}, ["steps is 1.5", "whole number"]),
        ({"annealing": {"start": 90}}, ["start is 90", "80"]),
        ({"annealing": {"curve": "cosine"}}, ["'cosine'", "exponential, linear"]),
        ("5 bits", ["'5 bits'", "a mapping"]),
        ({"method": "gptq"}, ["method is 'gptq'", "gq, uniform, lsq"]),
        ({"method": "lsq", "forward": "soft"}, ["'lsq'", "allowed: auto"]),
        ({"method": "dkm", "method_conf": {"tau": 1}}, ["'tau'", "temperature"]),
        ({"method": "dkm", "method_conf": {"temperature": "1"}}, ["a number from 0"]),
        ({"method": "dkm", "method_conf": 3}, ["method_conf is 3", "a mapping"]),
        ({"method_conf": {"strength": 1}}, ["'strength'", "mu, train_mu, fit"]),
        ({"method_conf": {"fit": 0}}, ["fit is 0", "true, false"]),
        ({"method": "lsq", "method_conf": {"mu": 1}}, ["none with method 'lsq'"]),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(conf, words):
    with pytest.raises(GQConfigError) as error:
        GQConfig.from_dict(conf)
    message = str(error.value)
    assert "allowed" in message and "\n" not in message
    assert message.startswith("gq_conf")
    for word in words:
        assert word in message, message


def test_rules_may_be_objects():
    assert GQConfig(rules=[Rule("a", bits=3)]).quantizer_options("a")["bits"] == 3


def test_a_method_and_its_own_options_reach_the_quantizer():
    conf = {"method": "dkm", "method_conf": {"temperature": 0.3}, "bits": 3}
    module = prepare(nn.Sequential(nn.Linear(4, 3)), conf)
    quantizer = module[0].weight_quantizer
    assert isinstance(quantizer, DKMQuantizer) and quantizer.temperature == 0.3


def test_a_method_that_does_not_know_a_width_is_an_error_that_names_the_layer():
    with pytest.raises(GQConfigError, match="^gq_conf: 1: method lsq at 1 bit"):
        rules = [{"pattern": "1", "bits": 1}]
        conf = {"method": "lsq", "bits": 4, "rules": rules}
        prepare(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), conf)
