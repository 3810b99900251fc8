"""Models as float, and their validation loss, of every kind that can be quantized."""

import pytest
import torch
import yaml
from tiny_task import ABSENT, RNNT, SECOND_TASK
from untrained import build, data, save, task_class

from espnet_gq.analysis.sensitivity import mean_loss, measure
from espnet_gq.espnet.inference.validation import load_validation, quantizable_names
from espnet_gq.espnet.sharing.plain_config import plain_config
from espnet_gq.nn.prepare import quantized_layers, quantized_weights
from espnet_gq.packing import pack_state_dict, quantized_names

ATTENTION_RNN = {
    "encoder": "gq_rnn",
    "encoder_conf": {
        "rnn_type": "gru",
        "hidden_size": 12,
        "output_size": 16,
        "num_layers": 2,
        "gq_conf": {"bits": 5},
    },
    "decoder": "gq_rnn",
    "decoder_conf": {"hidden_size": 12, "gq_conf": {"bits": 5}},
    "normalize": None,
}
KINDS = {
    "conformer": ("asr", {}),
    "transducer": ("asr", RNNT),
    "attention_rnn": ("asr", ATTENTION_RNN),
    "second_task": ("asr_transducer", SECOND_TASK),
}


@pytest.fixture(scope="module", params=sorted(KINDS))
def saved(request, task):
    asr_task, changes = KINDS[request.param]
    config = task.config(f"validation_{request.param}.yaml", **changes)
    return asr_task, save(task, config, f"validation_{request.param}", asr_task)


def load(task, folder, asr_task="asr", **options):
    files = (folder / "config.yaml", folder / "model.pth")
    return load_validation(asr_task, *files, data(task), **options)


def test_the_tensors_are_those_that_the_quantized_classes_have(task, saved):
    asr_task, folder = saved
    validation = load(task, folder, asr_task)
    state = torch.load(folder / "model.pth")
    assert set(validation.names) == set(quantized_names(state))
    assert not list(quantized_layers(validation.model))
    # The weights before quantization, not their centroids.
    for name in validation.names:
        assert torch.equal(validation.model.get_parameter(name), state[name])


def test_the_loss_is_that_of_espnet(task, saved):
    asr_task, folder = saved
    one = load(task, folder, asr_task)
    assert [len(u["speech"]) for u in one.utterances] == [1] * 4
    plain = plain_config(yaml.safe_load((folder / "config.yaml").read_text()))
    (folder / "plain.yaml").write_text(yaml.safe_dump(plain))
    model, _ = task_class(asr_task).build_model_from_file(folder / "plain.yaml")
    state = torch.load(folder / "model.pth")
    model.load_state_dict({k: v for k, v in state.items() if "_quantizer." not in k})
    model.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        losses = [
            float(model(**{k: v.clone() for k, v in u.items()})[0])
            for u in one.utterances
        ]
    base = mean_loss(one.loss, one.utterances)
    assert base == pytest.approx(sum(losses) / 4, rel=1e-6)
    batched = load(task, folder, asr_task, batch_size=3)
    lengths = [batch["speech_lengths"].tolist() for batch in batched.batches]
    assert [len(part) for part in lengths] == [3, 1]
    assert sum(lengths, []) == sorted(sum(lengths, []), reverse=True)
    assert mean_loss(batched.loss, batched.batches) == pytest.approx(base, rel=0.1)


def test_every_tensor_has_a_cost(task, saved):
    asr_task, folder = saved
    v = load(task, folder, asr_task, num_utterances=2)
    base = mean_loss(v.loss, v.batches)
    found = list(measure(v.model, v.names, [1], base, v.loss, v.batches, v.utterances))
    assert [t.name for t in found] == v.names
    for tensor in found:
        assert tensor.costs[1].loss != 0, tensor.name
        assert tensor.costs[1].second_order > 0, tensor.name


def test_utterances_are_spread_evenly_and_known_by_their_checksum(task, tmp_path):
    config = task.config("even.yaml")
    folder = save(task, config, "even")
    every = load(task, folder)
    assert load(task, folder, batch_size=2).checksum == every.checksum
    half = load(task, folder, num_utterances=2)
    keys = [line.split()[0] for line in open(task.path / "valid" / "text")]
    (tmp_path / "shape").write_text(f"{keys[0]} 80\n{keys[2]} 90\n")
    chosen = load(task, folder, shape_file=tmp_path / "shape")
    assert chosen.checksum == half.checksum != every.checksum
    assert len(half.batches) == 2 and len(every.batches) == 4


def test_a_float_checkpoint_is_taken_as_it_is(task):
    plain = task.config(
        "float.yaml",
        encoder="conformer",
        encoder_conf__gq_conf=ABSENT,
        decoder="transformer",
        decoder_conf__gq_conf=ABSENT,
        model="espnet",
        model_conf__gq_conf=ABSENT,
    )
    folder = save(task, plain, "float")
    validation = load(task, folder)
    prepared, _ = build(task, task.config("prepared.yaml"))
    names = {name for name, _, _ in quantized_weights(prepared)}
    assert set(validation.names) == names
    assert quantizable_names(validation.model, "asr") == validation.names


@pytest.fixture(scope="module")
def folder(task):
    return save(task, task.config("broken.yaml"), "broken")


def test_missing_files_are_named(task, folder):
    files = folder / "config.yaml", folder / "model.pth"
    with pytest.raises(OSError, match="no.yaml"):
        load_validation("asr", folder / "no.yaml", files[1], data(task))
    with pytest.raises(OSError, match="no.pth: no such file"):
        load_validation("asr", files[0], folder / "no.pth", data(task))
    with pytest.raises(OSError, match="no.scp: no such file"):
        load_validation("asr", *files, [("no.scp", "speech", "sound")])
    with pytest.raises(OSError, match="no.shape"):
        load(task, folder, shape_file="no.shape")


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("- a", "holds no options"),
        ("a: [", "is not YAML"),
        ("encoder: conformer", "cannot build its model.*allowed: config.yaml"),
    ],
)
def test_a_config_of_another_kind_is_refused(task, folder, tmp_path, content, sentence):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match=sentence):
        load_validation(
            "asr", tmp_path / "config.yaml", folder / "model.pth", data(task)
        )


def test_another_or_a_packed_checkpoint_is_refused(task, folder, tmp_path):
    config, model = folder / "config.yaml", tmp_path / "model.pth"
    state = torch.load(folder / "model.pth")
    torch.save(pack_state_dict(state), model)
    with pytest.raises(ValueError, match="is packed"):
        load_validation("asr", config, model, data(task))
    state.pop("ctc.ctc_lo.bias")
    torch.save(state, model)
    with pytest.raises(ValueError, match="not a checkpoint of.*ctc.ctc_lo.bias"):
        load_validation("asr", config, model, data(task))


def test_data_that_the_model_cannot_take_are_refused(task, folder, tmp_path):
    files = folder / "config.yaml", folder / "model.pth"
    speech, text = data(task)
    with pytest.raises(ValueError, match="are required for"):
        load_validation("asr", *files, [speech])
    (tmp_path / "text").write_text("someone one\n")
    with pytest.raises(ValueError, match="^utterance .* cannot be read"):
        load_validation("asr", *files, [speech, (f"{tmp_path}/text", *text[1:])])
    (tmp_path / "shape").write_text("\n")
    with pytest.raises(ValueError, match="shape is empty"):
        load(task, folder, shape_file=tmp_path / "shape")
    validation = load(task, folder)
    short = {k: v[:, :300] if k == "speech" else v for k, v in batch(validation)}
    short["speech_lengths"] = torch.tensor([300])
    with pytest.raises(ValueError, match="an utterance of 300 samples"):
        validation.loss(short)


def batch(validation):
    return validation.utterances[0].items()
