"""What asr.sh --use_streaming true starts, under the launcher and by hand."""

import logging
import sys

import pytest
import soundfile
import torch
from espnet2.bin import asr_inference
from streaming_models import ATTENTION, BLOCK, RNN, command, read, save
from tiny_task import RNNT, SECOND_TASK, Task, recordings, run
from untrained import save as save_untrained

from espnet_gq.bin import asr_inference_streaming, pack

ESPNETS = "espnet2.bin.asr_inference_streaming"
GQ = {"gq_conf": {"bits": 5}}
GQ_TRANSDUCER = {
    "encoder": "gq_rnn",
    "encoder_conf": {**RNN["encoder_conf"], **GQ},
    "decoder": "gq_transducer",
    "decoder_conf": {"hidden_size": 16, **GQ},
    "model": "gq_espnet",
}
GQ_ATTENTION = {
    "encoder": "gq_contextual_block_conformer",
    "encoder_conf": {**BLOCK["encoder_conf"], **GQ},
    "decoder": "gq_transformer",
    "decoder_conf": {**ATTENTION["decoder_conf"], **GQ},
}
MODELS = {
    "lstm": RNN,
    "lstm, quantized": GQ_TRANSDUCER,
    "block transducer": BLOCK,
    "attention": {**BLOCK, **ATTENTION},
    "attention, quantized": GQ_ATTENTION,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Many threads slow tiny models down, on a busy machine by far."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One utterance of two words."""
    folder = tmp_path_factory.mktemp("data")
    (_, first, _), (_, second, _) = list(recordings())[::60][:2]
    speech = [soundfile.read(path, dtype="float32")[0] for path in (first, second)]
    soundfile.write(folder / "a.wav", torch.cat(list(map(torch.tensor, speech))), 8000)
    (folder / "wav.scp").write_text(f"a {folder}/a.wav\n")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return the files of a model of random weights, by its name in MODELS."""
    folder, done = tmp_path_factory.mktemp("models"), {}

    def files(name, packed=False):
        if name not in done:
            done[name] = save(folder / name, **MODELS[name])
        config, weights = done[name]
        if packed:
            pack.main(["--asr_model_file", weights])
            weights = weights.replace(".pth", ".packed.pth")
        return config, weights

    return files


def decode(files, data, output, *extra):
    """Decode in this process; returns (texts and tokens, scores)."""
    options = ["--beam_size", "2", "--sim_chunk_length", "2000", *extra]
    asr_inference_streaming.main(command(files, data, output, *options))
    return read(output)


# ---- Under the launcher -------------------------------------------------------------
@pytest.mark.parametrize("name", ["lstm, quantized", "attention, quantized"])
@pytest.mark.parametrize("by", ["-m", "path"])
def test_the_launcher_serves_espnets_program(tmp_path, data, model, name, by):
    """With what asr.sh --use_streaming true passes, a configuration included."""
    config = tmp_path / "decode.yaml"
    config.write_text("beam_size: 2\nctc_weight: 0.0\ntransducer_conf: {nbest: 1}\n")
    file = asr_inference_streaming.espnet.__file__
    program = ["-m", ESPNETS] if by == "-m" else [file]
    arguments = command(model(name), data, tmp_path / "launched")
    options = ["--batch_size", "1", "--ngpu", "0", "--config", str(config)]
    options += ["--quantize_asr_model", "false", "--sim_chunk_length", "2000"]
    run([sys.executable, "-m", "espnet_gq", *program, *arguments, *options])
    ours = decode(model(name), data, tmp_path / "ours", "--ctc_weight", "0.0")
    launched = read(tmp_path / "launched")
    assert launched[0] == ours[0] and launched[1].expected == ours[1]
    assert launched[0]["token_int"].split()[1:]


def test_other_scripts_of_that_name_are_run_themselves(tmp_path):
    script = tmp_path / "asr_inference_streaming.py"
    script.write_text("print('mine')")
    assert run([sys.executable, "-m", "espnet_gq", str(script)]).stdout == "mine\n"


# ---- int8 ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name, packed",
    [(name, False) for name in MODELS]
    + [(name, True) for name in MODELS if "quantized" in name],
)
def test_int8(tmp_path, data, model, name, packed):
    files = model(name, packed)
    exact = decode(files, data, tmp_path / "exact")
    int8 = decode(files, data, tmp_path / "int8", "--quantize_asr_model", "true")
    assert int8[1].expected != exact[1]  # other products
    # Of float transducers ESPnet's own search, over the whole utterance, is none.
    if packed or "attention" in name:
        extra = ["--beam_size", "2", "--quantize_asr_model", "true"]
        asr_inference.main(command(files, data, tmp_path / "whole", *extra))
        assert int8[0] == read(tmp_path / "whole")[0]


def test_int8_of_other_modules_and_types(tmp_path, data, model):
    """The options of asr_inference that say which."""
    results = [
        decode(model(name), data, tmp_path / f"{name}{i}", *extra)
        for name in ("lstm", "attention")
        for i, extra in enumerate(
            (
                ["--quantize_asr_model", "true"],
                ["--quantize_asr_model", "true", "--quantize_dtype", "float16"],
                ["--quantize_asr_model", "true", "--quantize_modules", "Conv2d"],
                [],
            )
        )
    ]
    for int8, half, nothing, exact in (results[:4], results[4:]):
        assert int8[1].expected != exact[1] and nothing[1].expected == exact[1]
        assert half[1].expected != int8[1]


# ---- Options ------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name, extra",
    [
        ("lstm", ["--ngram_file", "no.arpa"]),
        ("lstm", ["--ngram_weight", "0.1"]),
        ("lstm", ["--time_sync", "true"]),
        ("lstm", ["--streaming", "true"]),
        ("attention", ["--ngram_file", "no.arpa", "--ngram_weight", "0"]),
        ("attention", ["--transducer_conf", "nbest=2"]),
        ("attention", ["--streaming", "true"]),
    ],
    ids=str,
)
def test_what_changes_no_result_is_said_and_ignored(
    tmp_path, data, model, caplog, name, extra
):
    plain = decode(model(name), data, tmp_path / "plain")
    assert "is not read" not in caplog.text
    with caplog.at_level(logging.WARNING):
        found = decode(model(name), data, tmp_path / "with", *extra)
    assert f"{extra[0][2:]} is not read: it does not affect the search" in caplog.text
    assert found[0] == plain[0] and found[1].expected == plain[1]


@pytest.mark.parametrize(
    "name, extra, words",
    [
        ("attention", ["--ngram_file", "a.arpa"], "allowed: ngram_weight 0"),
        ("attention", ["--time_sync", "true"], "time_sync is True, which cannot be"),
        ("attention", ["--quantize_lm", "true"], "quantize_lm is True, which cannot"),
        ("lstm", ["--multi_asr", "true"], "multi_asr is True, which cannot be"),
        ("lstm", ["--enh_s2t_task", "true"], "allowed: False, or whole utterances"),
        ("lstm", ["--model_tag", "a/b"], "model_tag is 'a/b', which cannot be"),
        ("lstm", ["--batch_size", "2"], "batch_size is 2; allowed chunk by chunk: at"),
        ("attention", ["--ngpu", "2"], "ngpu is 2; allowed chunk by chunk: at most 1"),
        ("lstm", ["--word_lm_train_config", "w"], "word language models are not"),
    ],
    ids=str,
)
def test_what_would_change_the_result_is_refused(
    tmp_path, data, model, name, extra, words
):
    with pytest.raises(SystemExit) as error:
        decode(model(name), data, tmp_path / "out", *extra)
    check_sentence(error, words)
    assert not (tmp_path / "out").exists()


def check_sentence(error, *words):
    message = str(error.value)
    assert message.startswith("espnet-gq asr-inference-streaming: error: ")
    assert "\n" not in message and "allowed" in message
    assert all(word in message for word in words), message


# ---- Models -------------------------------------------------------------------------
LSTM_DECODER = {"decoder": "rnn", "decoder_conf": {"hidden_size": 16}}
UNNAMED = {k: v for k, v in BLOCK["encoder_conf"].items() if k != "look_ahead"}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({**BLOCK, **LSTM_DECODER}, "decoder is rnn; allowed: a transducer, or one"),
        ({**RNN, **LSTM_DECODER}, "encoder is rnn, decoder rnn; allowed: a transducer"),
        ({**BLOCK, **ATTENTION, "encoder_conf": UNNAMED}, "does not name look_ahead"),
    ],
    ids=["batch", "rnn", "unnamed"],
)
def test_models_that_cannot_be_streamed(tmp_path, data, changes, words):
    files = save(tmp_path / "model", **changes)
    with pytest.raises(SystemExit) as error:
        decode(files, data, tmp_path / "out")
    check_sentence(error, words)


@pytest.mark.parametrize("decoder", [None, "gq_transformer", "lightweight_conv"])
def test_contextual_blocks_with_espnets_other_decoders(tmp_path, data, decoder):
    conf = ATTENTION["decoder_conf"]
    if decoder == "lightweight_conv":
        conf = {**conf, "conv_wshare": 2, "conv_kernel_length": [3]}
    changes = {**BLOCK, "decoder": decoder, "decoder_conf": conf if decoder else {}}
    ctc = {"ctc_weight": 1.0 if decoder is None else 0.3}
    files = save(tmp_path / "model", **changes, model_conf=ctc)
    extra = ["--ctc_weight", "1.0"] if decoder is None else []
    decode(files, data, tmp_path / "out", *extra)


def test_the_second_transducer_task(tmp_path, data):
    task = Task(tmp_path / "task", train=1, valid=1)
    config = task.config("second.yaml", **SECOND_TASK)
    folder = save_untrained(task, config, "second", "asr_transducer")
    files = (str(folder / "config.yaml"), str(folder / "model.pth"))
    with pytest.raises(SystemExit) as error:
        decode(files, data, tmp_path / "out")
    check_sentence(error, "names no encoder", "asr_transducer_inference")


def test_a_quantized_checkpoint_is_hardened_as_in_training(tmp_path, data):
    """Of the tiny task, to have quantizers that were fitted."""
    task = Task(tmp_path / "task", train=1, valid=1)
    folder = save_untrained(task, task.config("rnnt.yaml", **RNNT), "rnnt")
    files = (str(folder / "config.yaml"), str(folder / "model.pth"))
    found = decode(files, data, tmp_path / "ours")
    asr_inference.main(command(files, data, tmp_path / "whole", "--beam_size", "2"))
    assert found[0] == read(tmp_path / "whole")[0]
