"""Decoding of hardened and packed models on the device, compared with the CPU."""

import tempfile
from pathlib import Path
from typing import Iterator, List, Tuple

import torch

import espnet_gq
from benchmarks.espnet_models import Model
from benchmarks.gpu.models import ARCHITECTURES, Recogniser, quantized
from benchmarks.gpu.rows import Result, Settings, at_most, attempt, holds
from benchmarks.training.variants import config
from espnet_gq import packing

SPEECH = torch.randn(16000, generator=torch.Generator().manual_seed(0)).mul(0.1)


def _files(recogniser: Recogniser, folder: Path) -> Model:
    """Write config and checkpoints of a recogniser; return it in evaluation mode."""
    import yaml

    model = quantized(recogniser, 4, "cpu", fast=False).eval()
    args = dict(config(recogniser, 4), token_type="word")
    (folder / "config.yaml").write_text(yaml.safe_dump(args))
    torch.save(model.state_dict(), folder / "checkpoint.pth")
    packing.save(packing.pack_state_dict(model.state_dict()), folder / "packed.pth")
    return model


def _encoded(model: Model, device: str) -> torch.Tensor:
    with torch.no_grad():
        length = torch.tensor([len(SPEECH)], device=device)
        return model.encode(SPEECH[None].to(device), length)[0].cpu()


def _decoded(folder: Path, name: str, device: str) -> Tuple[List[str], float]:
    from espnet2.bin.asr_inference import Speech2Text

    speech2text = Speech2Text(
        str(folder / "config.yaml"),
        str(folder / name),
        device=device,
        beam_size=2,
        maxlenratio=-8.0,
        ctc_weight=0.3,
    )
    best = speech2text(SPEECH.numpy())[0]
    return best[1], float(best[3].score)


def _inference(name: str, settings: Settings) -> Iterator[Result]:
    device = settings.device
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        model = _files(ARCHITECTURES[name], folder)
        hardened = espnet_gq.harden(model)
        expected = _encoded(hardened, "cpu")
        size = float(expected.abs().max())
        moved = model.to(device)
        found = _encoded(espnet_gq.harden(moved), device)
        error = float((found - expected).abs().max()) / size
        yield at_most(f"{name}: hardened, from the CPU's", error, 1e-3, "relative")
        yield holds(
            f"{name}: evaluated as hardened",
            torch.equal(_encoded(moved, device), found),
        )
        packed = packing.load_packed(hardened, folder / "packed.pth").to(device)
        error = float((_encoded(packed, device) - expected).abs().max()) / size
        yield at_most(f"{name}: packed layers, from the CPU's", error, 1e-3, "relative")
        results = {
            (file, where): _decoded(folder, file, where)
            for file in ("checkpoint.pth", "packed.pth")
            for where in {"cpu", device}
        }
        tokens, score = results["checkpoint.pth", "cpu"]
        for (file, where), (found_tokens, found_score) in sorted(results.items()):
            close = abs(found_score - score) <= 1e-3 * abs(score) + 1e-2
            note = f"score {found_score:.3f}, {len(found_tokens)} tokens"
            case = f"{name}: {file} decoded on {where}"
            yield holds(case, close and found_tokens == tokens, note)


def run(settings: Settings) -> Iterator[Result]:
    """Yield the results of this row."""
    torch.backends.cudnn.allow_tf32 = False
    for name in ("conformer", "rnn, attention decoder", "transducer"):
        yield from attempt(name, lambda: _inference(name, settings))
