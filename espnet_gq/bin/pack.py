"""Turn a checkpoint of a GQ training into a packed one or into a float one.

Packed: bit-packed indices and codebooks, decoded by the launcher. Float: a checkpoint
of plain ESPnet with hardened weights, which needs no plugin.
"""

import argparse
from pathlib import Path
from typing import Optional, Sequence

import yaml

from espnet_gq.bin._common import Parser, execute, read_config, sentence
from espnet_gq.espnet.inference.counting import describe_model
from espnet_gq.espnet.sharing.plain_config import plain_config
from espnet_gq.files import write_text
from espnet_gq.packing import (
    harden_state_dict,
    is_packed,
    load_state_dict,
    pack_state_dict,
    quantized_names,
    save,
    unpack_state_dict,
)

CONFIG = "config.yaml"


def get_parser() -> argparse.ArgumentParser:
    """Return the argument parser of this command."""
    parser = Parser("pack", __doc__)
    parser.add_argument(
        "--asr_model_file",
        "--model_file",
        required=True,
        help="checkpoint of the training, or a packed file to turn back into float",
    )
    parser.add_argument(
        "--format", choices=("packed", "float"), default="packed", help="what to write"
    )
    parser.add_argument(
        "--output",
        help="file to write; default: MODEL.packed.pth or MODEL.float.pth beside it",
    )
    parser.add_argument(
        "--asr_train_config",
        "--train_config",
        help="config.yaml of the training, for --format float: its form without the "
        "plugin is written beside the output as OUTPUT.yaml; default: config.yaml "
        "beside the checkpoint, where there is one",
    )
    return parser


def _default_output(model: Path, form: str) -> Path:
    stem = model.name.removesuffix(".pth").removesuffix(".packed")
    return model.with_name(f"{stem}.{form}.pth")


def _write_config(source: Path, target: Path) -> None:
    """Write the form of a training config that needs no plugin.

    Raises:
        ValueError: If the source is not a training config.
    """
    config = read_config(source)
    write_text(target, yaml.safe_dump(plain_config(config), sort_keys=False))
    print(f"wrote {target}")


def _convert(args: argparse.Namespace, model: Path, output: Path) -> None:
    config = args.asr_train_config
    if config is not None and not Path(config).exists():
        raise FileNotFoundError(f"{config}: no such file")
    state = load_state_dict(model)
    if is_packed(state):
        state = unpack_state_dict(state)
    if not quantized_names(state):
        raise ValueError(
            "no tensor in it is quantized: it is a float checkpoint, which espnet-gq "
            "quantize packs without training"
        )
    if args.format == "packed":
        save(pack_state_dict(state), output)
        return
    source = Path(config) if config else model.with_name(CONFIG)
    if source.exists():
        _write_config(source, output.with_suffix(".yaml"))
    save(harden_state_dict(state), output)


def run(args: argparse.Namespace) -> None:
    """Convert the checkpoint and print the size of the result.

    Raises:
        OSError, ValueError: If an input cannot be used; names the checkpoint.
    """
    model = Path(args.asr_model_file)
    output = Path(args.output) if args.output else _default_output(model, args.format)
    try:
        _convert(args, model, output)
    except (OSError, ValueError) as e:
        raise ValueError(f"{model}: {sentence(e)}") from None
    size = describe_model(output, args.asr_train_config or model.with_name(CONFIG))
    line = f"wrote {output}: {size.file_bytes:,} bytes"
    if args.format == "packed":
        line += (
            f", {size.count} at {size.bits:.2f} bits, "
            f"{size.file_bytes / size.expected_bytes:.3f} of the sum of its tensors"
        )
    print(line)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    execute(get_parser(), run, cmd)


if __name__ == "__main__":
    main()
