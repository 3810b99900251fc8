"""Float checkpoints with random weights, of configurations that ESPnet users train."""

import argparse
import importlib
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List

import torch
import yaml

import espnet_gq.espnet  # noqa: F401
from benchmarks import espnet_models
from benchmarks.espnet_models import Config
from benchmarks.packed.models import SIZES, config
from benchmarks.packed.variants import FLOAT
from benchmarks.report import progress
from benchmarks.training.variants import TINY, Size
from espnet_gq.runtime import skeleton

ASR, S2T_CTC = "espnet2.tasks.asr.ASRTask", "espnet2.tasks.s2t_ctc.S2TTask"
OWSM_TOKENS = 50_002


@dataclass(frozen=True)
class Case:
    """A recogniser to quantize.

    Args:
        what: Its name in reports.
        task: Module and class of ESPnet's task.
        options: Returns all options of its training.
    """

    what: str
    task: str
    options: Callable[[], Config]


def _conformer(size: Size) -> Config:
    return espnet_models.options(size.classes(), size.vocabulary)


def owsm_ctc(
    size: int = 1024, blocks: int = 27, tokens: int = OWSM_TOKENS, prompt: int = 512
) -> Config:
    """Return the options of OWSM-CTC v4 1B, or of a smaller model like it.

    The values are those of ESPnet's egs2/owsm_ctc_v4/s2t1/conf/
    train_owsmctc_ebf27_conv2d8_size1024_mel128_bs320.yaml, without the global mean and
    variance, which are two vectors in a file of their own.

    Args:
        size: Dimension of the encoder.
        blocks: Number of its blocks, a multiple of 3.
        tokens: Size of the vocabulary.
        prompt: Dimension of the prompt encoder.
    """
    chosen: Dict[str, Any] = dict(
        frontend_conf=dict(n_fft=512, win_length=400, hop_length=160, n_mels=128),
        encoder="e_branchformer_ctc",
        encoder_conf=dict(
            output_size=size,
            attention_heads=size // 64,
            attention_layer_type="selfattn",
            pos_enc_layer_type="abs_pos",
            rel_pos_type="latest",
            cgmlp_linear_units=4 * size,
            cgmlp_conv_kernel=31,
            use_linear_after_conv=False,
            gate_activation="identity",
            num_blocks=blocks,
            input_layer="conv2d8",
            linear_units=4 * size,
            positionwise_layer_type="linear",
            use_ffn=True,
            macaron_ffn=True,
            merge_conv_kernel=31,
            interctc_layer_idx=[blocks * n // 27 for n in (6, 12, 15, 21)],
            interctc_use_conditioning=True,
            use_cross_attention=[n % 3 == 2 for n in range(blocks)],
            use_flash_attn=True,
        ),
        promptencoder="transformer",
        promptencoder_conf=dict(
            output_size=prompt,
            attention_heads=prompt // 64,
            linear_units=4 * prompt,
            num_blocks=4,
            use_flash_attn=True,
        ),
        model="espnet_ctc",
        model_conf=dict(
            interctc_weight=0.8,
            sym_na="<na>",
            ctc_asr_only=[True, True, True, False, False],
        ),
        preprocessor="s2t_ctc",
        preprocessor_conf=dict(na_symbol="<na>", nolang_symbol="<nolang>"),
    )
    special = ["<blank>", "<unk>", "<na>", "<nolang>", "<sos>", "<eos>", "<sop>"]
    words = [f"t{n}" for n in range(tokens - len(special))]
    found = vars(_task(S2T_CTC).get_parser().parse_args([]))
    return {**found, **chosen, "token_list": [*special, *words]}


CASES = {
    "30M": Case("Conformer, CTC/attention", ASR, lambda: _conformer(Size())),
    "100M": Case(
        "Conformer, conf/train_asr_conformer.yaml",
        ASR,
        lambda: config(SIZES["conformer"], FLOAT),
    ),
    "1000M": Case("OWSM-CTC v4 1B", S2T_CTC, owsm_ctc),
    "tiny": Case("Conformer, CTC/attention", ASR, lambda: _conformer(TINY)),
    "tiny_owsm": Case("OWSM-CTC", S2T_CTC, lambda: owsm_ctc(64, 9, 60, 64)),
}


def _task(name: str) -> Any:
    module, _, cls = name.rpartition(".")
    return getattr(importlib.import_module(module), cls)


@dataclass(frozen=True)
class Files:
    """A float model's files.

    Attributes:
        config: config.yaml.
        checkpoint: Its weights.
        parameters: Number of parameters.
    """

    config: Path
    checkpoint: Path
    parameters: int

    @property
    def pair(self) -> List[str]:
        """Configuration and checkpoint, as `espnet-gq quantize` takes them."""
        return [str(self.config), str(self.checkpoint)]


def write(name: str, folder: Path) -> Files:
    """Return the files of a case; write those that the folder lacks.

    Args:
        name: A key of CASES.
        folder: Where all cases are kept.
    """
    given, folder = CASES[name], folder / name
    found = given.options()
    found.update(init=None, normalize=None, token_type="word")
    with skeleton():
        model = _task(given.task).build_model(argparse.Namespace(**found))
    parameters = sum(p.numel() for p in model.parameters())
    files = Files(folder / "config.yaml", folder / "model.pth", parameters)
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(found, sort_keys=False)
    same = files.config.exists() and files.config.read_text(encoding="utf-8") == text
    if same and files.checkpoint.exists():
        return files
    progress(f"{name}: writing a checkpoint of {parameters / 1e6:.1f} M parameters")
    files.checkpoint.unlink(missing_ok=True)
    files.config.write_text(text, encoding="utf-8")
    unfinished = folder / "unfinished.pth"
    write_random(model.state_dict(), unfinished)
    unfinished.rename(files.checkpoint)
    return files


@torch.no_grad()
def write_random(state: Dict[str, torch.Tensor], path: Path, seed: int = 0) -> None:
    """Write a checkpoint, random where tensors have no values, in little memory.

    The file is written with holes, mapped into memory and filled in there.

    Args:
        state: State dict; a tensor on the device "meta" gets random values if it has
            two or more dimensions (normal, standard deviation 1 / sqrt(fan in)), ones
            if it is another "weight", and else zeros.
        path: The file.
        seed: Seed of the values.
    """
    empty = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype)
        for name, tensor in state.items()
    }
    with torch.serialization.skip_data():
        torch.save(empty, path)
    del empty
    generator = torch.Generator().manual_seed(seed)
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        mapped = torch.load(path, mmap=True, weights_only=True)
    for name, tensor in mapped.items():
        if not state[name].is_meta:
            tensor.copy_(state[name])
        elif tensor.dim() >= 2:
            tensor.normal_(std=tensor[0].numel() ** -0.5, generator=generator)
        else:
            tensor.fill_(1.0 if name.endswith("weight") else 0.0)
