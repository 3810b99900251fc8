"""The console script `espnet-gq`: lists the commands, and runs the one that is named.

Nothing else is imported before a command is known: `espnet-gq --help` waits neither for
torch nor for ESPnet.
"""

import difflib
import importlib
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Dict, List, Optional, Sequence

from espnet_gq._version import __version__
from espnet_gq.bin._common import PROGRAM, fail

GROUPS: Dict[str, Dict[str, str]] = {
    "A model": {
        "pack": "turn a checkpoint of a training into a packed or a float one",
        "report": "table and plots of each quantized tensor of a checkpoint",
    },
    "Without training": {
        "quantize": "make a trained float model smaller, with or without data",
    },
    "Bits per tensor": {
        "sensitivity": "measure the cost of quantizing each tensor alone",
        "allocate": "choose the bits of each tensor under a budget",
    },
    "Decoding": {
        "asr-inference-streaming": "decode chunk by chunk, transducers too",
        "compare": "bits, file size and word error rate of several models",
    },
    "On a device": {
        "export": "write a packed model to one file that gq-asr reads",
    },
    "Sharing": {
        "zip-model": "put a trained model into ESPnet's zip (stage 14)",
        "upload-model": "upload the zip to the Hugging Face hub (stage 15)",
    },
    "Steps of recipes": {
        "format-wav-scp": "one plain audio file per utterance (stage 3)",
        "filter-data-dir": "remove utterances that are too short or long (stage 4)",
        "token-list": "train a sentencepiece model, write tokens.txt (stage 5)",
        "score": "word, character and token error rates (stage 13)",
    },
    "Any other program": {
        "run": "run a module or a script as python3 does, with the plugin",
    },
}
"""Group -> command -> what it does. `run` is `python3 -m espnet_gq`; the others are the
modules of this folder, with underscores for dashes."""
LAUNCHER = "run"
COMMANDS = {name: line for group in GROUPS.values() for name, line in group.items()}


def usage() -> str:
    """Return the text of `espnet-gq --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"usage: {PROGRAM} COMMAND [OPTION ...]"]
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:"]
        lines += [f"  {name:{width}}  {line}" for name, line in commands.items()]
    return "\n".join(
        [
            *lines,
            "",
            f"{PROGRAM} COMMAND --help  the options of a command",
            f"{PROGRAM} --version       of {PROGRAM}, ESPnet and torch",
        ]
    )


def versions() -> str:
    """Return the line of `espnet-gq --version`."""
    found = [f"{PROGRAM} {__version__}"]
    for name, distribution in (("ESPnet", "espnet"), ("torch", "torch")):
        try:
            found.append(f"{name} {version(distribution)}")
        except PackageNotFoundError:
            found.append(f"{name} is not installed")
    return ", ".join(found)


def find(word: str) -> str:
    """Return the name of a command; underscores serve as dashes.

    Raises:
        Ended: If there is none; names those that are near.
    """
    name = word.replace("_", "-")
    if name in COMMANDS:
        return name
    near: List[str] = difflib.get_close_matches(name, COMMANDS, cutoff=0.5)
    allowed = f"did you mean {' or '.join(near)}?" if near else f"see {PROGRAM} --help"
    fail(PROGRAM, f"there is no command {word!r}; {allowed}")


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Run the command that the command line names."""
    args = list(sys.argv[1:] if cmd is None else cmd)
    if not args or args[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if args else sys.stderr)
        sys.exit(0 if args else 2)
    if args[0] == "--version":
        print(versions())
        return
    name = find(args[0])
    sys.argv = [f"{PROGRAM} {name}", *args[1:]]
    if name == LAUNCHER:
        importlib.import_module("espnet_gq.__main__").main()
        return
    module = importlib.import_module(f"espnet_gq.bin.{name.replace('-', '_')}")
    module.main(args[1:])


if __name__ == "__main__":
    main()
