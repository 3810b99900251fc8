#!/usr/bin/env python3
"""Make Kaldi-style data directories from the available LibriSpeech splits.

train is all of train-*, dev is all of dev-*, and test_clean and test_other are the
splits of these names. If dev-* has fewer than --min_dev utterances, the last utterances
of every training chapter (a share of --held_out) are moved from train to dev.
"""

import argparse
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

from espnet_gq.recipe.datadir import write_spk2utt, write_table


class Utterance(NamedTuple):
    """One line of a *.trans.txt."""

    name: str
    speaker: str
    chapter: str
    text: str
    path: Path


def read_split(root: Path) -> List[Utterance]:
    """Return the utterances of one split, in order; empty if it is missing."""
    found = []
    for trans in sorted(root.glob("*/*/*.trans.txt")):
        for line in trans.read_text(encoding="utf-8").splitlines():
            name, text = line.split(maxsplit=1)
            path = trans.parent / f"{name}.flac"
            if path.exists():
                speaker, chapter = trans.parent.parent.name, trans.parent.name
                found.append(Utterance(name, speaker, chapter, text, path))
    return sorted(found)


def write_data_dir(path: Path, utterances: Sequence[Utterance]) -> None:
    """Write wav.scp, text, utt2spk and spk2utt."""
    path.mkdir(parents=True, exist_ok=True)
    write_table(path / "wav.scp", {u.name: str(u.path) for u in utterances})
    write_table(path / "text", {u.name: u.text for u in utterances})
    write_table(path / "utt2spk", {u.name: u.speaker for u in utterances})
    write_spk2utt(path)
    print(f"{path}: {len(utterances)} utterances")


def chapters(utterances: Sequence[Utterance]) -> Dict[str, List[Utterance]]:
    """Group utterances by chapter."""
    groups: Dict[str, List[Utterance]] = {}
    for utterance in utterances:
        groups.setdefault(utterance.chapter, []).append(utterance)
    return groups


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="folder with train-clean-100/ etc.")
    parser.add_argument("data", type=Path, help="folder for the data directories")
    parser.add_argument(
        "--min_dev", type=int, default=20, help="minimum number of dev utterances"
    )
    parser.add_argument(
        "--held_out", type=float, default=0.05, help="share of a chapter moved to dev"
    )
    return parser


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Write the data directories and print their sources."""
    args = get_parser().parse_args(cmd)
    splits = {
        d.name: read_split(d)
        for d in sorted(args.corpus.iterdir())
        if d.name.startswith(("train-", "dev-", "test-"))
    }
    for name, utterances in splits.items():
        print(f"found {name}: {len(utterances)} utterances")
    train = [u for n, s in splits.items() if n.startswith("train-") for u in s]
    dev = [u for n, s in splits.items() if n.startswith("dev-") for u in s]
    if len(dev) < args.min_dev:
        held = [
            u
            for group in chapters(train).values()
            for u in group[len(group) - max(1, int(args.held_out * len(group))) :]
        ]
        print(
            f"dev-* has only {len(dev)} utterances: {len(held)} of train-* are held "
            "out for dev"
        )
        train, dev = sorted(set(train) - set(held)), sorted(dev + held)
    write_data_dir(args.data / "train", train)
    write_data_dir(args.data / "dev", dev)
    for name in ("test-clean", "test-other"):
        if splits.get(name):
            write_data_dir(args.data / name.replace("-", "_"), splits[name])
        else:
            print(f"{name} is missing: omit it from --test_sets")


if __name__ == "__main__":
    main()
