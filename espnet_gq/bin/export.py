"""Write a packed model to one file for devices: recognition without Python.

The file (GGUF) holds all that recognition needs; the program gq-asr and the library of
espnet_gq/device read it (docs/device.md). A model that they cannot run is refused.
"""

import argparse
from pathlib import Path
from typing import Optional, Sequence

from espnet_gq.bin._common import Parser, execute


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser("export", __doc__)
    parser.add_argument(
        "model",
        nargs="+",
        metavar="MODEL",
        help="a packed model: a zip, a folder (an unpacked zip, or a training's output)"
        ", config.yaml followed by its checkpoint, or a name on the hub (user/model)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="the file to write"
    )
    parser.add_argument(
        "--chunk-ms",
        type=float,
        help="milliseconds of a chunk, for encoders of the second transducer task that "
        "work chunk by chunk (640)",
    )
    parser.add_argument(
        "--left-context",
        type=int,
        help="encoder frames before a chunk that it sees, for the same (32)",
    )
    parser.add_argument("--cachedir", help="cache for unpacked zips and downloads")
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the file, and print what it is."""
    from espnet_gq.espnet.exporting import export

    source = args.model[0] if len(args.model) == 1 else args.model
    done = export(source, args.output, args.cachedir, args.chunk_ms, args.left_context)
    print(
        f"{done.path}: {done.encoder} encoder, {done.output}, "
        f"{done.size / 1e6:.2f} MB"
    )
    for note in done.notes:
        print(note)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    execute(get_parser(), run, cmd)


if __name__ == "__main__":
    main()
