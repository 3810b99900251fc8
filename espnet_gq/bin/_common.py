"""Shared by the commands: their parser, their errors, some of their options."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any, Callable, Dict, NoReturn, Optional, Sequence, Tuple, Type

PROGRAM = "espnet-gq"
BAD_INPUT = 2
"""Exit status, the same as argparse's."""
UNITS = {
    **{"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9},
    **{"kib": 2**10, "mib": 2**20, "gib": 2**30},
}


class Ended(SystemExit):
    """The end of a program, with the message that was printed and the exit status."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.code = status


def fail(prog: str, message: Any, status: int = BAD_INPUT) -> NoReturn:
    """Print one line to standard error, and end the program.

    Raises:
        Ended: Always.
    """
    line = f"{prog}: {' '.join(str(message).split())}"
    print(line, file=sys.stderr, flush=True)
    raise Ended(line, status) from None


def sentence(error: BaseException) -> str:
    """Return an exception's message; for an OSError 'FILE: reason'."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


class Parser(argparse.ArgumentParser):
    """The parser of `espnet-gq NAME`.

    Args:
        name: Name of the command.
        description: What it does; the docstring of its module.
    """

    def __init__(self, name: str, description: Optional[str]):
        super().__init__(
            prog=f"{PROGRAM} {name}",
            description=description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        fail(self.prog, f"{message}; see {self.prog} --help")


def execute(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], None],
    cmd: Optional[Sequence[str]] = None,
    errors: Tuple[Type[Exception], ...] = (OSError, ValueError),
) -> None:
    """Run a command; bad input ends the program with one line.

    Args:
        parser: The command's parser.
        run: The command.
        cmd: The command line; None: that of the program.
        errors: Exceptions that it raises at bad input.
    """
    args = parser.parse_args(cmd)
    try:
        run(args)
    except errors as e:
        fail(parser.prog, sentence(e))


def read_config(path: Path) -> Dict[str, Any]:
    """Return the options of a training config.

    Raises:
        OSError, ValueError: If the file cannot be read as one.
    """
    import yaml  # not before: `espnet-gq --help` imports this module

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ValueError(f"{path} is not YAML ({' '.join(str(e).split())})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no options; allowed: config.yaml of a training")
    return config


def number(text: str) -> float:
    """Return the value of an option that is a number, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number; allowed: 0 or more"
        )
    return value


def size(text: str) -> float:
    """Return the bytes that an option such as 6MB says."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?([a-z]*)", text.strip().lower())
    if not found or found[2] not in UNITS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size; allowed: a number of bytes, or one with a unit "
            "(kB, MB, GB, KiB, MiB, GiB) such as 6MB"
        )
    return float(found[1]) * UNITS[found[2]]


def utterances(text: str) -> int:
    """Return the value of an option that is a number of utterances."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of utterances; allowed: 1 or more"
        )
    return int(text)


def add_data_directories(parser: argparse.ArgumentParser, source: str) -> None:
    """Add the options of commands that copy data directories.

    Args:
        parser: The command's parser.
        source: What SOURCE is, for the help.
    """
    parser.add_argument(
        "--dir",
        nargs=2,
        action="append",
        required=True,
        metavar=("SOURCE", "TARGET"),
        help=f"{source} and the folder for its copy; may be repeated",
    )
    parser.add_argument("--fs", default="16k", help="sampling rate, e.g. 16k")


def add_card_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that write a model card."""
    parser.add_argument("--lang", default="noinfo", help="language, for the card")
    parser.add_argument(
        "--recipe",
        default="/".join(Path.cwd().parts[-2:]),
        help="recipe, for the card",
    )
