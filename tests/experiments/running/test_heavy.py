"""Heavy-tailed starts have the outputs of the float models."""

import numpy as np
import pytest
import torch
import yaml

from experiments.running.heavy import heavy_tailed, kurtosis, outputs, pairs


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
def test_heavy_tails_preserve_the_outputs(tmp_path, declared, architecture, times):
    model = build(tmp_path, architecture, declared)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    speech = 0.1 * torch.randn(8000)
    before = outputs(model, speech)
    heavy = heavy_tailed(state, 1.0, 0)
    assert kurtosis(heavy) > times * kurtosis(state)
    assert heavy.keys() == state.keys()
    model.load_state_dict(heavy)
    for a, b in zip(before, outputs(model, speech)):
        assert torch.equal(a, b)
    changed = {name for name in state if not torch.equal(state[name], heavy[name])}
    named = {scaled.name for group in pairs(state) for scaled in group}
    assert changed == named
    again = heavy_tailed(state, 1.0, 0)
    assert all(torch.equal(heavy[name], again[name]) for name in heavy)


def test_kurtosis_of_gaussian_weights_is_3():
    state = {"a.weight": torch.randn(400, 400, generator=torch.manual_seed(0))}
    assert abs(kurtosis(state) - 3) < 0.1
