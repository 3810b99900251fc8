"""Command-line options that the benchmarks share."""

import argparse
import shlex
import sys
from typing import Any, Callable, List, Optional, Sequence, Tuple

import torch


def new_parser(
    description: str, show_defaults: bool = False
) -> argparse.ArgumentParser:
    """Return a parser for a module that is run with `python -m`.

    Args:
        description: The module's docstring.
        show_defaults: Show defaults in the help; the description is then re-wrapped.
    """
    form: Any = argparse.RawDescriptionHelpFormatter
    if show_defaults:
        form = argparse.ArgumentDefaultsHelpFormatter
    return argparse.ArgumentParser(
        prog=shlex.join(["python", *program()]),
        description=description,
        formatter_class=form,
    )


def listed(kind: Callable[[str], Any]) -> Callable[[str], List[Any]]:
    """Return an argparse type for comma-separated values of a kind."""
    return lambda text: [kind(part) for part in text.split(",")]


def add_bits(parser: argparse.ArgumentParser, default: str, what: str) -> None:
    """Add the option --bits."""
    parser.add_argument("--bits", type=listed(int), default=default, help=what)


def parse_quick(
    get_parser: Callable[[bool], argparse.ArgumentParser],
    argv: Optional[Sequence[str]],
    least_one: Sequence[str],
) -> Tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Parse a command line whose defaults depend on --quick, and check its numbers.

    Args:
        get_parser: Returns the parser; its argument selects the defaults of --quick.
        argv: The command line; None for that of the process.
        least_one: Names of the options whose values must be at least 1.
    """
    parser = get_parser(get_parser(False).parse_args(argv).quick)
    args = parser.parse_args(argv)
    for bits in args.bits:
        if not 1 <= bits <= 8:
            parser.error(f"--bits {bits}; allowed: 1 to 8")
    for name in least_one:
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')}; allowed: 1 or more")
    return parser, args


def check_known(
    parser: argparse.ArgumentParser,
    option: str,
    values: Sequence[str],
    allowed: Sequence[str],
) -> None:
    """Exit with an error if a value is not one of those allowed."""
    for value in values:
        if value not in allowed:
            parser.error(f"{option} {value}; allowed: {', '.join(allowed)}")


def check_device(parser: argparse.ArgumentParser, device: str) -> None:
    """Exit with an error if the device is a GPU and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU; allowed here: cpu")


def program() -> List[str]:
    """Return the arguments with which Python was started: `-m MODULE` or a file."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return sys.argv[:1]
    return ["-m", spec.name.removesuffix(".__main__")]


def command(*files: str) -> str:
    """Return the command line of this run.

    Args:
        files: Options to leave out with their values, because they only name files.
    """
    words = [part for word in sys.argv[1:] for part in word.split("=", 1)]
    kept = [
        word
        for before, word in zip(["", *words], words)
        if not {before, word} & set(files)
    ]
    return shlex.join(["python", *program(), *kept])
