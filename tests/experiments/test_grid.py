"""The evidence grid: its declaration, its runs, its heavy-tailed starts, its report."""

import copy
import json
import random
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from espnet_gq import GQConfig
from espnet_gq.analysis import wer

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from experiments.running import far_field  # noqa: E402
import grid  # noqa: E402
from experiments.running import allocation  # noqa: E402
from experiments.running import evaluate  # noqa: E402
from experiments.running import heavy  # noqa: E402
from experiments.running import place  # noqa: E402
from experiments.running import queue  # noqa: E402
from experiments.reporting import document  # noqa: E402
from experiments.running import cell  # noqa: E402
from experiments.cells import Cell, Grid, GridError, merged  # noqa: E402
from experiments.reporting.results import ALL, Rates, Results, units  # noqa: E402

SETS = ("test_clean", "test_noisy", "test_far")
SPEAKERS = ("ann", "bob", "cid", "dee")


# --- the declaration -----------------------------------------------------------------


@pytest.fixture(scope="module")
def declared():
    return Grid()


def test_every_cell_has_a_name_of_its_own_and_a_valid_config(declared):
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


def test_widths_of_an_allocation_replace_those_of_the_cell(
    declared, tmp_path, monkeypatch
):
    chosen = {"gq_conf": {"bits": 2, "rules": [{"pattern": "enc.*", "bits": 6}]}}
    (tmp_path / "chosen.yaml").write_text(yaml.safe_dump({"encoder_conf": chosen}))
    found = allocation.read(tmp_path / "chosen.yaml")
    monkeypatch.setattr(grid_run, "allocation", lambda *_: found)
    place = place.Workplace(tmp_path / "place", declared, None, 1)
    cell = Cell("conformer", "trained", "gq", 4, "allocated_4", 1)
    confs = cell._gq_confs(place, cell)
    assert confs["encoder"] == chosen["gq_conf"] and confs["model"] == {"bits": 4}
    config = declared.cell_config(cell, confs)
    assert config["encoder_conf"]["gq_conf"] == chosen["gq_conf"]


def test_a_recalibrated_model_is_that_of_another_cell(declared, tmp_path):
    cell = Cell("conformer", "trained", "gq", 2, "recalibrated", 1)
    place = place.Workplace(tmp_path, declared, None, 1)
    assert not declared.trains(cell) and declared.trains(replace(cell, ablation=None))
    with pytest.raises(place.StepFailed, match="conformer-trained-gq-2b-s1"):
        cell._finished(place, cell)


def test_batch_norm_statistics_are_those_of_the_data(tmp_path, monkeypatch):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(1)

        def encode(self, speech, lengths):
            return self.norm(speech.view(-1, 1))

    model, speech = Model().eval(), torch.randn(6, 50) * 3 + 7
    batches = [(s[None], torch.tensor([50]), None, None) for s in speech]
    monkeypatch.setattr(grid_evaluate, "batches", lambda model, data: iter(batches))
    evaluate.recalibrate(model, tmp_path)
    used = speech[::2]
    torch.testing.assert_close(model.norm.running_mean[0], used.mean())
    torch.testing.assert_close(model.norm.running_var[0], used.var(dim=1).mean())
    assert not model.norm.training


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
    found = yaml.safe_load((BENCHMARKS / "grid.yaml").read_text())
    found["cells"][0] = {**found["cells"][0], **change}
    text = yaml.safe_dump(found, sort_keys=False)
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(GridError, match=message):
        Grid(tmp_path / "grid.yaml")


def test_no_such_cell(capsys):
    with pytest.raises(SystemExit) as stopped:
        grid.main(["list", "--cells", "nothing-*"])
    assert "no cell matches nothing-*" in str(stopped.value)


def test_merged():
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    changed = merged(base, {"a": {"b": None, "e": {"f": 4}}, "d": None})
    assert changed == {"a": {"c": 2, "e": {"f": 4}}} and base["d"] == 3


# --- running -------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, declared, monkeypatch):
    monkeypatch.setattr(place.Workplace, "prepare_data", lambda self: None)
    return place.Workplace(tmp_path, declared, None, 1)


def test_cells_with_a_result_are_skipped_and_a_failed_one_does_not_stop_the_run(
    place, declared, monkeypatch, capsys
):
    cells, ran = declared.cells[:4], []

    def run_cell(place, cell):
        ran.append(cell)
        if cell == cells[1]:
            raise place.StepFailed("ValueError: no data (see a.log)")
        record = record_of(cell)
        cell.write_result(place.results / f"{cell.name}.json", record)
        return record

    monkeypatch.setattr(grid_queue, "run_cell", run_cell)
    cell.write_result(place.results / f"{cells[0].name}.json", record_of(cells[0]))
    assert queue.run(place, cells) == 1
    assert ran == cells[1:]
    failed = place.results / f"{cells[1].name}.failed"
    assert failed.read_text() == "ValueError: no data (see a.log)\n"
    printed = capsys.readouterr().out
    assert "1 of 4 cells have results" in printed
    assert f"[1/3] {cells[1].name}: FAILED: ValueError" in printed
    assert "[3/3]" in printed and "0 h 00 min left" in printed
    # The next run tries the failed cell again, and nothing else.
    monkeypatch.setattr(grid_queue, "run_cell", lambda place, cell: record_of(cell))
    assert queue.run(place, cells) == 0
    assert not failed.exists()


def test_two_runs_do_not_share_a_folder(place, declared):
    with pytest.raises(GridError, match="in use by another run"):
        place.Workplace(place.root, declared, None, 1)


def test_a_failing_command_gives_the_reason(place, tmp_path):
    code = "print('x'); raise RuntimeError('no such tensor')"
    log = tmp_path / "a.log"
    with pytest.raises(place.StepFailed, match="RuntimeError: no such tensor"):
        place.call([sys.executable, "-c", code], log)
    place.stop()
    with pytest.raises(place.Stopped):
        place.call([sys.executable, "-c", ""], log)


def test_training_figures_come_from_all_logs(tmp_path):
    line = (
        "{}epoch results: [train] acc=1, train_time={}, time=3 seconds, total_count={},"
    )
    (tmp_path / "train.log").write_text(line.format(3, 0.5, 30))
    first = [line.format(1, 0.25, 10), line.format(2, 0.375, 20)]
    (tmp_path / "train.1.log").write_text("\n".join(first))
    found = cell._training_figures(tmp_path)
    assert found == {"steps": 30, "seconds_a_step": 0.375}


# --- heavy-tailed starts -------------------------------------------------------------


def build(tmp_path, architecture, declared):
    """Return a small float model with random weights and norms."""
    from espnet2.tasks.asr import ASRTask

    count, frames = np.array(100), np.arange(32.0)
    stats = dict(count=count, sum=count * frames, sum_square=count * (frames**2 + 4))
    np.savez(tmp_path / "stats.npz", **stats)
    (tmp_path / "tokens").write_text("<blank>\n<unk>\none\ntwo\nsix\n<sos/eos>\n")
    config = declared.float_config(architecture)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", tmp_path / "config.yaml", "--output_dir", tmp_path]
    options += ["--token_type", "word", "--token_list", tmp_path / "tokens"]
    options += ["--normalize", "global_mvn", "--frontend_conf", "fs=8000"]
    options += ["--normalize_conf", f"stats_file={tmp_path / 'stats.npz'}"]
    args = ASRTask.get_parser().parse_args(list(map(str, options)))
    torch.manual_seed(0)
    model = ASRTask.build_model(args)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("architecture, times", [("conformer", 2.0), ("rnnt", 1.1)])
def test_heavy_tails_leave_the_outputs_as_they_are(
    tmp_path, declared, architecture, times
):
    model = build(tmp_path, architecture, declared)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    speech = 0.1 * torch.randn(8000)
    before = heavy.outputs(model, speech)
    heavy = heavy.heavy_tailed(state, 1.0, 0)
    assert heavy.kurtosis(heavy) > times * heavy.kurtosis(state)
    assert heavy.keys() == state.keys()
    model.load_state_dict(heavy)
    for a, b in zip(before, heavy.outputs(model, speech)):
        assert torch.equal(a, b)
    changed = {name for name in state if not torch.equal(state[name], heavy[name])}
    named = {scaled.name for group in heavy.pairs(state) for scaled in group}
    assert changed == named
    again = heavy.heavy_tailed(state, 1.0, 0)
    assert all(torch.equal(heavy[name], again[name]) for name in heavy)


def test_kurtosis_of_gaussian_weights_is_3():
    state = {"a.weight": torch.randn(400, 400, generator=torch.manual_seed(0))}
    assert abs(heavy.kurtosis(state) - 3) < 0.1


# --- results -------------------------------------------------------------------------


def record_of(cell, errors=0.1, seed=0):
    """Return a result with about this share of errors; recordings differ."""
    rng = random.Random(f"{cell.name}{seed}")
    hardness = random.Random(7)
    sets = {}
    for number, name in enumerate(SETS):
        rows, total, words = {}, 0, 0
        for speaker in SPEAKERS:
            share = [errors * (1 + number) * hardness.uniform(0, 2) for _ in range(20)]
            wrong = [sum(rng.random() < s for _ in range(4)) for s in share]
            rows[speaker] = {"errors": " ".join(map(str, wrong)), "words": "4"}
            total, words = total + sum(wrong), words + 80
        sets[name] = dict(errors=total, words=words, units=rows)
        sets[name].update(utterances=16, digest=name)
    trained = cell.seed is not None
    quantized = cell.bits is not None
    versions = {"espnet": "202611", "torch": "2.11.0", "brevitas": None}
    return dict(
        benchmark="grid",
        format=1,
        cell=cell.name,
        **vars(cell),
        config=dict(
            data={"recipe": "--seed 0"},
            changes={"decoder": None, "encoder_conf": {"output_size": 48}},
            base="train.yaml",
            decoding="ctc",
            start_epochs=30,
        ),
        commands=["./run.sh --stage 11", "python benchmarks/evaluate.py"],
        start_figures=dict(kurtosis_before=3.1, kurtosis=9.5, largest_difference=0.0),
        training=dict(steps=632, seconds_a_step=0.2) if trained else None,
        gap=(
            dict(loss_hard=1.01, loss_trained=1.0, weights=0.02) if quantized else None
        ),
        size=dict(
            parameters=260_000,
            quantized_share=0.97 if quantized else 0.0,
            bits=cell.bits or 32.0,
            expected_bytes=260_000 * (cell.bits or 32) / 8,
            packed_bytes=30_000 * cell.bits if quantized else None,
        ),
        sets=sets,
        machine=dict(cpu="a processor", threads=1, python="3.12.1", versions=versions),
        jobs=1,
        commit="0123456789ab",
        date="2026-01-02",
        seconds=120.0,
    )


RATES = {"uniform": 0.3, "lsq": 0.1, "gq_ptq": 0.35}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, declared):
    """Return a folder of results: GQ beats uniform, ties with LSQ; the rest misses."""
    path = tmp_path_factory.mktemp("results")
    patterns = ["conformer-trained-float*", "conformer-trained-gq-[52]b-s?"]
    patterns += ["conformer-trained-uniform-2b-s?", "conformer-trained-lsq-2b-s?"]
    patterns += ["conformer-trained-gq_ptq-2b", "*-tensor_scale-*"]
    for cell in declared.matching(patterns):
        record = record_of(cell, RATES.get(cell.method, 0.1))
        cell.write_result(path / f"{cell.name}.json", record)
    return path


def test_rates_are_those_of_the_bootstrap(folder):
    results = Results(folder)
    first, second = list(results.records.values())[:2]
    for name in (*SETS, ALL):
        counts = {"a": units(first, name), "b": units(second, name)}
        rates = Rates(counts)
        assert rates.interval("a") == wer.bootstrap(counts["a"])
        paired = wer.paired_bootstrap(counts["a"], counts["b"])
        assert rates.difference("a", "b")[:3] == pytest.approx(paired, abs=1e-9)
    same = Rates({"a": counts["a"], "b": counts["a"]}).difference("a", "b")
    assert same.verdict == "tied" and same.p == 1.0


def report(folder, output):
    command = ["report", "--results", folder, "--output", output / "RESULTS.md"]
    grid.main(list(map(str, [*command, "--plots", output / "docs"])))
    text = (output / "RESULTS.md").read_text()
    return text, sorted((output / "docs").iterdir())


def test_the_report_follows_from_the_results_byte_for_byte(folder, tmp_path, capsys):
    texts, plots = [], []
    for name in ("one", "two"):
        text, drawn = report(folder, tmp_path / name)
        texts.append(text.replace(str(tmp_path / name), ""))
        plots.append([path.read_bytes() for path in drawn])
        assert [path.name for path in drawn] == ["grid_conformer_trained.svg"]
    assert texts[0] == texts[1] and plots[0] == plots[1]


def test_the_report_says_where_gq_wins_ties_and_what_is_missing(folder, tmp_path):
    text, _ = report(folder, tmp_path)
    assert "Against uniform (FP-QAT): better at 2 (-" in text
    assert "Against LSQ: tied at 2 bits." in text
    assert "Against float, trained as long: tied at 5 and 2 bits." in text
    assert "better in 1, tied in 1 and worse in 0" in text
    single = text.split("Test set by test set, of 6 such comparisons: ")[1]
    counts = [int(n) for n in re.findall(r" in (\d)", single.split("\n")[0])]
    assert sum(counts) == 6 and counts[0] > 0
    assert "missing" in text and " x3" in text and "p < 0.001 better" not in text
    assert "p<0.001 better" in text
    assert "![conformer, trained weights](docs/grid_conformer_trained.svg)" in text
    assert "./run.sh --stage 11" in text and "2026-01-02" in text
    assert "a scale per tensor" in text and "9.50" in text


def test_the_report_gives_the_rate_of_each_seed(folder, tmp_path):
    text, _ = report(folder, tmp_path)
    part = text.split("### WER of each seed, all sets\n\n")[1].split("\n\n")[0]
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in part.splitlines()]
    assert rows[0][3:] == ["seed 1", "seed 2", "seed 3", "deviation"]
    (row,) = [row for row in rows if row[:3] == ["uniform (FP-QAT)", "", "2"]]
    expected = []
    for seed in (1, 2, 3):
        name = f"conformer-trained-uniform-2b-s{seed}.json"
        sets = json.loads((folder / name).read_text())["sets"].values()
        errors, words = (sum(s[k] for s in sets) for k in ("errors", "words"))
        expected.append(100 * errors / words)
    assert row[3:] == [f"{v:.2f}" for v in [*expected, np.std(expected, ddof=1)]]


def test_results_on_other_data_are_not_mixed(folder, tmp_path):
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    path = sorted(tmp_path.glob("*.json"))[-1]
    record = json.loads(path.read_text())
    record["sets"]["test_far"]["digest"] = "other"
    path.write_text(json.dumps(record))
    with pytest.raises(GridError, match="measured on different data .test_far."):
        Results(tmp_path)


def test_a_set_that_some_results_lack_is_left_out(folder, tmp_path):
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    record = json.loads(path.read_text())
    del record["sets"]["test_far"]
    (tmp_path / path.name).write_text(json.dumps(record))
    results = Results(tmp_path)
    assert results.sets == ["test_clean", "test_noisy"]
    text = document.Report(Grid(), results).document("command", [])
    assert "`test_far` is left out" in text


@pytest.mark.parametrize("text", ["", "[]", '{"benchmark": "other"}'])
def test_what_is_no_result_file_is_one_sentence(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SystemExit, match="a.json is no result file of the grid"):
        grid.main(["report", "--results", str(tmp_path), "--output", "unused"])


def test_check_compares_with_the_interval(folder, declared, capsys):
    cell = Cell("conformer", "trained", "gq", 5, None, 1)
    stored = record_of(cell)
    assert all(grid.compare(stored, record_of(cell, seed=1)))
    worse = grid.compare(stored, record_of(cell, 0.4))
    assert not any(worse) and "OUTSIDE" in capsys.readouterr().out
    none = copy.deepcopy(stored)
    for found in none["sets"].values():
        for row in found["units"].values():
            row["errors"] = " ".join(["0"] * 20)
    assert all(grid.compare(none, none))


def test_check_runs_the_cell_in_another_folder(folder, tmp_path, monkeypatch, capsys):
    def run_cell(place, cell):
        record = record_of(cell, seed=1)
        cell.write_result(place.results / f"{cell.name}.json", record)
        return record

    monkeypatch.setattr(place.Workplace, "prepare_data", lambda self: None)
    monkeypatch.setattr(grid_queue, "run_cell", run_cell)
    command = ["check", "--cell", "conformer-trained-gq-5b-s1"]
    command += ["--results", str(folder)]
    with pytest.raises(SystemExit) as stopped:
        grid.main([*command, "--work", str(tmp_path)])
    assert stopped.value.code == 0
    assert "test_far: " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="holds the stored result; give another"):
        (tmp_path / "same").mkdir()
        (tmp_path / "same/results").symlink_to(folder)
        grid.main([*command, "--work", str(tmp_path / "same")])


# --- far field -----------------------------------------------------------------------


def test_without_pyroomacoustics_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyroomacoustics", None)
    far_field.main([str(tmp_path / "clean"), str(tmp_path / "far")])
    assert "pyroomacoustics is not installed" in capsys.readouterr().out
    assert not (tmp_path / "far").exists()


def test_scenes_are_as_asked():
    for number in range(50):
        rng = np.random.default_rng(number)
        scene = far_field.draw_scene(rng, (1.5, 3.0), (0.3, 0.5))
        assert 1.5 <= scene.distance <= 3.0 and 0.3 <= scene.rt60 <= 0.5
        for point in (scene.talker, scene.microphone):
            assert all(0 < x < side for x, side in zip(point, scene.room))


def test_far_field_set(tmp_path):
    pytest.importorskip("pyroomacoustics")
    soundfile = pytest.importorskip("soundfile")
    clean = tmp_path / "clean"
    clean.mkdir()
    speech = 0.05 * np.random.default_rng(0).standard_normal(4000)
    soundfile.write(tmp_path / "a.flac", speech, 8000)
    (clean / "wav.scp").write_text(f"a {tmp_path / 'a.flac'}\n")
    (clean / "text").write_text("a one two\n")
    (clean / "utt2spk").write_text("a ann\n")
    written = []
    for name in ("far", "again"):
        far_field.main([str(clean), str(tmp_path / name), "--rt60", "0.3", "0.3"])
        wav = (tmp_path / name / "wav.scp").read_text().split()[1]
        written.append(soundfile.read(wav)[0])
    assert np.array_equal(*written) and len(written[0]) == 4000
    assert abs(np.sqrt(np.mean(written[0] ** 2)) - far_field.RMS) < 0.005
    assert "rt60=0.300s" in (tmp_path / "far/utt2room").read_text()
    assert (tmp_path / "far/text").read_text() == "a one two\n"


def test_results_md_is_what_the_result_files_say(tmp_path, monkeypatch):
    (tmp_path / "benchmarks").symlink_to(BENCHMARKS)
    monkeypatch.chdir(tmp_path)
    command = ["report", "--results", "benchmarks/results/grid"]
    grid.main([*command, "--output", "RESULTS.md", "--plots", "docs/results"])
    kept = (BENCHMARKS.parent / "RESULTS.md").read_bytes()
    assert (tmp_path / "RESULTS.md").read_bytes() == kept
