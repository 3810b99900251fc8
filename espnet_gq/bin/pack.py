"""Turn a quantization-aware checkpoint into a packed file, or into a float one."""

import argparse
import sys
from pathlib import Path

import yaml

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
    parser = argparse.ArgumentParser(
        prog="python3 -m espnet_gq.bin.pack",
        description="Turn a checkpoint of a GQ training into a packed one (bit-packed "
        "indices and codebooks, decoded by the launcher), or into a plain float ESPnet "
        "checkpoint with every weight on its centroid, which needs no plugin.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--asr_model_file",
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
    try:
        config = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        reason = " ".join(str(e).split())
        raise ValueError(f"{source} is not YAML ({reason})") from None
    if not isinstance(config, dict):
        raise ValueError(
            f"{source} holds no options; allowed: config.yaml of a training"
        )
    write_text(target, yaml.safe_dump(plain_config(config), sort_keys=False))
    print(f"wrote {target}")


def main(cmd=None) -> None:
    """Run the command."""
    args = get_parser().parse_args(cmd)
    model = Path(args.asr_model_file)
    output = Path(args.output) if args.output else _default_output(model, args.format)
    try:
        config = args.asr_train_config
        if config is not None and not Path(config).exists():
            raise FileNotFoundError(f"{config}: no such file")
        state = load_state_dict(model)
        if is_packed(state):
            state = unpack_state_dict(state)
        if not quantized_names(state):
            raise ValueError(
                "no tensor in it is quantized: it is a float checkpoint; python3 -m "
                "espnet_gq.bin.quantize quantizes one without training"
            )
        if args.format == "packed":
            save(pack_state_dict(state), output)
        else:
            source = Path(config) if config else model.with_name(CONFIG)
            if source.exists():
                _write_config(source, output.with_suffix(".yaml"))
            save(harden_state_dict(state), output)
    except (OSError, ValueError) as e:
        sys.exit(f"espnet_gq.bin.pack: {model}: {e}")
    size = describe_model(output, args.asr_train_config or model.with_name(CONFIG))
    line = f"wrote {output}: {size.file_bytes:,} bytes"
    if args.format == "packed":
        line += (
            f", {size.count} at {size.bits:.2f} bits, "
            f"{size.file_bytes / size.expected_bytes:.3f} of the sum of its tensors"
        )
    print(line)


if __name__ == "__main__":
    main()
