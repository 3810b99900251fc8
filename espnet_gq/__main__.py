"""Run a module or a script as python3 does, with the plugin registered.

    python3 -m espnet_gq -m espnet2.bin.asr_train --config conf/train.yaml ...
    python3 -m espnet_gq path/to/script.py ...

In an ESPnet recipe: ./run.sh --python "python3 -m espnet_gq". Worker processes register
the plugin too. espnet2.bin.asr_inference_streaming is replaced by
espnet_gq.bin.asr_inference_streaming.
"""

import importlib.util
import os
import sys
import types
from typing import NoReturn, Optional

import espnet_gq.espnet  # noqa: F401
from espnet_gq.espnet.holds import HOLDS
from espnet_gq.espnet.sharing.archive import ArchiveError
from espnet_gq.nn import GQConfigError
from espnet_gq.nn.finite import NotFiniteError
from espnet_gq.packing import CheckpointError

PROGRAM = "ESPNET_GQ_PROGRAM"
"""Environment variable that tells workers the path of the program."""
MODULE = "ESPNET_GQ_MODULE"
"""Environment variable with the module name given after -m, empty for a script."""
SERVED = {
    "espnet2.bin.asr_inference_streaming": "espnet_gq.bin.asr_inference_streaming"
}
"""ESPnet's programs -> the commands of this project that replace them: they take the
same options and serve more models. ESPnet's asr.sh can only name its own programs."""
HELD = {hold.module for hold in HOLDS}
"""ESPnet's modules with holds. These apply on import, not to a module run as a
program, so such a module is imported and its `main` called."""
USAGE = (
    "usage: python3 -m espnet_gq -m MODULE [ARG ...]\n"
    "       python3 -m espnet_gq SCRIPT [ARG ...]\n"
)


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"{USAGE}espnet_gq: {message}\n")
    sys.exit(2)


def _module_file(name: str):
    """Return (code, file, package) of a module, or of a package's __main__."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            name += ".__main__"
            spec = importlib.util.find_spec(name)
    except ImportError as e:
        _fail(f"no module named {name} ({e})")
    loader = None if spec is None else spec.loader
    if spec is None or loader is None or not hasattr(loader, "get_code"):
        _fail(f"no module named {name}")
    return loader.get_code(name), spec.origin, spec.parent


def _script(path: str):
    try:
        with open(path, "rb") as f:
            return compile(f.read(), path, "exec")
    except OSError as e:
        _fail(f"cannot open {path} ({e.strerror})")


def _module_of(path: str) -> Optional[str]:
    """Return the name of a script that is one of ESPnet's modules in SERVED or HELD."""
    for name in {*SERVED, *HELD}:
        if os.path.basename(path) == f"{name.rpartition('.')[2]}.py":
            spec = importlib.util.find_spec(name)
            if spec is not None and os.path.realpath(path) == spec.origin:
                return name
    return None


def main() -> None:
    """Run the module or script that the command line names."""
    args = sys.argv[1:]
    name = _module_of(args[0]) if args else None
    if name is not None:
        args[:1] = ["-m", name]
    if not args or args[0] in ("-h", "--help"):
        print(__doc__ + "\n" + USAGE)
        sys.exit(0 if args else 2)
    if args[0] == "-m":
        if len(args) < 2:
            _fail("-m needs a module name")
        sys.path[0] = os.getcwd()
        args[1] = SERVED.get(args[1], args[1])
        code, file, package = _module_file(args[1])
        if args[1] in HELD:
            code = compile(f"from {args[1]} import main\nmain()", file, "exec")
        sys.argv = [file] + args[2:]
    elif args[0].startswith("-"):
        _fail(
            f"unknown option {args[0]}; allowed: -m, or options before '-m espnet_gq'"
        )
    else:
        code, file, package = _script(args[0]), args[0], None
        sys.path[0] = os.path.dirname(os.path.abspath(file))
        sys.argv = args
    program = types.ModuleType("__main__")
    program.__file__ = file
    program.__package__ = package
    # A spawned process first imports the main program by the name in its spec: with
    # _worker there, the plugin is registered in it as well.
    os.environ[PROGRAM] = os.path.abspath(file)
    os.environ[MODULE] = args[1] if args[0] == "-m" else ""
    program.__spec__ = importlib.util.find_spec("espnet_gq._worker")
    sys.modules["__main__"] = program
    try:
        exec(code, program.__dict__)
    except (GQConfigError, ArchiveError, CheckpointError, NotFiniteError) as e:
        sys.exit(f"espnet_gq: error: {e}")


if __name__ == "__main__":
    main()
