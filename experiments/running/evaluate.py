"""Measure one model of the grid in a new process: errors, soft-to-hard gap, size.

The grid runs it in a recipe's folder. It decodes every test set greedily, one utterance
at a time, with the hardened model that ESPnet's `Speech2Text` builds.
"""

import argparse
import hashlib
import itertools
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np
import soundfile
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text
from espnet2.tasks.asr import ASRTask

import espnet_gq.espnet  # noqa: F401
from benchmarks.espnet_models import Model
from benchmarks.options import new_parser
from benchmarks.report import machine
from espnet_gq.analysis.wer import Units
from espnet_gq.espnet.inference.counting import describe_model
from espnet_gq.files import write_json
from espnet_gq.nn.prepare import quantized_weights
from espnet_gq.nn.training import fit_quantizers, progress
from espnet_gq.packing import (
    is_packed,
    load_state_dict,
    pack_state_dict,
    save,
    unpack_state_dict,
)
from espnet_gq.recipe.datadir import read_table, write_table
from espnet_gq.recipe.scoring import load_units

Decoder = Callable[[np.ndarray], List[str]]
BATCH = 25


def read_audio(data: Path) -> Dict[str, np.ndarray]:
    """Read the audio of a data directory; return float32 samples by utterance."""
    paths = read_table(data / "wav.scp")
    return {u: soundfile.read(paths[u], dtype="float32")[0] for u in sorted(paths)}


def digest(data: Path, audio: Dict[str, np.ndarray]) -> str:
    """Return 16 hexadecimal digits that identify the audio and text of a test set."""
    found = hashlib.sha256()
    text = read_table(data / "text")
    for utt, samples in audio.items():
        found.update(f"{utt} {text[utt]}\n".encode())
        found.update(np.rint(samples * 32768).astype("<i4").tobytes())
    return found.hexdigest()[:16]


# --- decoding -------------------------------------------------------------------------


def speech2text(config: Path, checkpoint: Path, decoding: str) -> Speech2Text:
    """Build ESPnet's decoder; quantized checkpoints are hardened.

    Args:
        config: config.yaml of the model.
        checkpoint: Its weights.
        decoding: "ctc" or "transducer".
    """
    options = {} if decoding == "transducer" else dict(ctc_weight=1.0)
    return Speech2Text(str(config), str(checkpoint), beam_size=1, **options)


def decoder(model: Speech2Text, decoding: str) -> Decoder:
    """Return a function that maps samples to words."""
    if decoding == "transducer":
        return lambda samples: model(samples)[0][1]
    return lambda samples: _best_path(model.asr_model, samples)


@torch.no_grad()
def recalibrate(model: Model, data: Path) -> None:
    """Recompute the batch-norm statistics on every second training batch.

    Args:
        model: The hardened model, in evaluation mode before and after.
        data: The data directory.
    """
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean over all batches
        norm.train()
    for speech, lengths, _, _ in itertools.islice(batches(model, data), 0, None, 2):
        model.encode(speech, lengths)
    model.eval()


@torch.no_grad()
def _best_path(model: Model, samples: np.ndarray) -> List[str]:
    """Return the words of the best CTC path, without repetitions and blanks."""
    speech = torch.from_numpy(samples)[None]
    encoded, _ = model.encode(speech, torch.tensor([speech.shape[1]]))
    path = torch.unique_consecutive(model.ctc.argmax(encoded)[0]).tolist()
    return [model.token_list[i] for i in path if i != model.blank_id]


def packed_units(units: Units) -> Dict[str, Dict[str, str]]:
    """Encode errors and words by recording compactly, as strings of numbers by speaker.

    The recordings of a speaker are sorted by name. If all have the same number of
    words, it is given once.
    """
    found: Dict[str, Dict[str, List[int]]] = {}
    for (speaker, _), counts in sorted(units.items()):
        row = found.setdefault(speaker, {"errors": [], "words": []})
        for key, value in zip(("errors", "words"), counts):
            row[key].append(int(value))
    words = {
        key: {name: " ".join(map(str, values)) for name, values in row.items()}
        for key, row in found.items()
    }
    for key, row in found.items():
        if len(set(row["words"])) == 1:
            words[key]["words"] = str(row["words"][0])
    return words


def score(decode: Decoder, data: Path, target: Path) -> Dict[str, Any]:
    """Decode and score one test set; writes `target`/text."""
    audio = read_audio(data)
    started = time.perf_counter()
    texts = {utt: " ".join(decode(samples)) for utt, samples in audio.items()}
    seconds = time.perf_counter() - started
    target.mkdir(parents=True, exist_ok=True)
    write_table(target / "text", texts)
    units = load_units(data, target)
    return dict(
        errors=int(sum(e for e, _ in units.values())),
        words=int(sum(w for _, w in units.values())),
        utterances=len(texts),
        digest=digest(data, audio),
        decoding_seconds=round(seconds, 2),
        units=packed_units(units),
    )


# --- the quantized model --------------------------------------------------------------


def build(config: Path, checkpoint: Path) -> Model:
    """Return the model as trained, not hardened, with fitted quantizers.

    Raises:
        ValueError: If the checkpoint lacks anything but quantizers.
    """
    args = yaml.safe_load(config.read_text(encoding="utf-8"))
    model = ASRTask.build_model(argparse.Namespace(**{**args, "init": None}))
    state = load_state_dict(checkpoint)
    state = unpack_state_dict(state) if is_packed(state) else state
    found = model.load_state_dict(state, strict=False)
    lacking = [name for name in found.missing_keys if "_quantizer." not in name]
    if lacking or found.unexpected_keys:
        name = (lacking + found.unexpected_keys)[0]
        raise ValueError(f"{checkpoint} and {config} do not match, first in {name}")
    fit_quantizers(model)
    return model.eval()


def batches(
    model: Model, data: Path
) -> Iterator[Tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield speech, its lengths, words and their lengths, longest utterances first."""
    audio, text = read_audio(data), read_table(data / "text")
    # ESPnet's RNN encoders require descending lengths.
    names = sorted(audio, key=lambda utt: (-len(audio[utt]), utt))
    for first in range(0, len(names), BATCH):
        utts = names[first : first + BATCH]
        speech = [torch.from_numpy(audio[utt]) for utt in utts]
        labels = [
            torch.tensor([model.token_list.index(w) for w in text[utt].split()])
            for utt in utts
        ]
        yield (
            torch.nn.utils.rnn.pad_sequence(speech, batch_first=True),
            torch.tensor([len(s) for s in speech]),
            torch.nn.utils.rnn.pad_sequence(labels, True, padding_value=-1),
            torch.tensor([len(words) for words in labels]),
        )


@torch.no_grad()
def dev_loss(model: Model, data: Path, trained: bool) -> float:
    """Return the mean loss over the development set.

    Args:
        model: In evaluation mode.
        data: The data directory.
        trained: Use the weights of the forward pass in training at its last step
            instead of the hard ones.
    """
    for _, _, quantizer in quantized_weights(model):
        quantizer.train(trained)
        quantizer.every = 1  # without it, unquantized steps would have no gap
    total, count = 0.0, 0
    for speech, lengths, text, text_lengths in batches(model, data):
        loss = model(speech, lengths, text.clone(), text_lengths)[0]
        total += float(loss.mean()) * len(speech)
        count += len(speech)
    model.eval()
    return total / count


def gap(model: Model, data: Path) -> Dict[str, float]:
    """Measure the gap between the forward pass in training and the hard weights."""
    hard, soft = (dev_loss(model, data, trained) for trained in (False, True))
    return dict(
        loss_hard=hard,
        loss_trained=soft,
        weights=progress(model).soft_hard_gap,
    )


def size(checkpoint: Path, config: Path, packed: Path) -> Dict[str, Any]:
    """Describe the checkpoint, and measure the size of its packed file.

    `packed_bytes` is None if the packed format does not support the method.
    """
    found = describe_model(checkpoint, config)
    figures: Dict[str, Any] = dict(
        parameters=found.num_params,
        quantized_share=found.quantized_share,
        bits=found.bits,
        expected_bytes=found.expected_bytes,
        packed_bytes=None,
    )
    if found.format != "float":
        try:
            save(pack_state_dict(load_state_dict(checkpoint)), packed)
            figures["packed_bytes"] = packed.stat().st_size
        except (KeyError, ValueError) as e:
            figures["not_packed"] = " ".join(str(e).split())
    return figures


def measure(
    config: Path,
    checkpoint: Path,
    decoding: str,
    data: Path,
    test_sets: List[str],
    folder: Path,
    recalibrated: bool = False,
) -> Dict[str, Any]:
    """Return the figures of one model.

    Args:
        config: config.yaml of the model.
        checkpoint: Its weights, float or quantized.
        decoding: "ctc" or "transducer".
        data: Folder of the data directories.
        test_sets: Names of the sets to decode; missing ones are skipped.
        folder: Folder for intermediate files.
        recalibrated: Recompute the batch-norm statistics.
    """
    found: Dict[str, Any] = dict(gap=None)
    model = build(config, checkpoint)
    if any(True for _ in quantized_weights(model)):
        fitted = folder / "fitted.pth"
        save(model.state_dict(), fitted)
        if not recalibrated:
            found["gap"] = gap(model, data / "dev")
        checkpoint = fitted
    found["size"] = size(checkpoint, config, folder / "packed.pth")
    built = speech2text(config, checkpoint, decoding)
    if recalibrated:
        recalibrate(built.asr_model, data / "train")
    decode = decoder(built, decoding)
    found["sets"] = {
        name: score(decode, data / name, folder / "decoded" / name)
        for name in test_sets
        if (data / name / "text").exists()
    }
    found["machine"] = machine("cpu")
    return found


def main(cmd: Optional[List[str]] = None) -> None:
    """Measure and write the figures."""
    parser = new_parser(__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--decoding", required=True)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--test_sets", nargs="+", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--recalibrate", action="store_true")
    args = parser.parse_args(cmd)
    found = measure(
        *(args.config, args.checkpoint, args.decoding, args.data),
        *(args.test_sets, args.folder, args.recalibrate),
    )
    write_json(args.folder / "figures.json", found)


if __name__ == "__main__":
    main()
