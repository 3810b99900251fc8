"""The console script `espnet-gq`, and what its commands have in common."""

import importlib
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint, version
from pathlib import Path

import pytest
from tiny_task import environment

import espnet_gq.bin
from espnet_gq import __version__
from espnet_gq.bin.__main__ import COMMANDS, LAUNCHER, main
from espnet_gq.bin._common import Ended

ROOT = Path(__file__).parents[2]
MODULES = sorted(set(COMMANDS) - {LAUNCHER})
SCRIPT = """
import sys

from espnet2.tasks.asr import encoder_choices

print(sys.argv[1:], __name__, "gq_conformer" in encoder_choices.classes)
"""


def module_of(name):
    return importlib.import_module(f"espnet_gq.bin.{name.replace('-', '_')}")


def call(*arguments):
    """Run Python in a process of its own."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        timeout=300,
    )


def test_every_file_is_a_command():
    files = Path(espnet_gq.bin.__file__).parent.glob("[!_]*.py")
    assert sorted(f.stem.replace("_", "-") for f in files) == MODULES


def test_the_console_script_is_this_program():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name, value = next(iter(project["scripts"].items()))
    assert name == "espnet-gq"
    assert EntryPoint(name, value, "console_scripts").load() is main


def test_help_lists_the_commands_and_imports_next_to_nothing():
    program = (
        "import sys\nfrom espnet_gq.bin.__main__ import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as e:\n    print(e.code)\n"
        "print({'torch', 'espnet2', 'numpy', 'yaml'} & set(sys.modules))"
    )
    *lines, status, heavy = call("-c", program).stdout.splitlines()
    assert (status, heavy) == ("0", "set()")
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert listed == list(COMMANDS)
    assert max(map(len, lines)) <= 88


def test_without_a_command_help_goes_to_standard_error(capsys):
    with pytest.raises(SystemExit) as error:
        main([])
    printed = capsys.readouterr()
    assert error.value.code == 2 and not printed.out and "upload-model" in printed.err


def test_versions(capsys):
    main(["--version"])
    assert capsys.readouterr().out == (
        f"espnet-gq {__version__}, ESPnet {version('espnet')}, torch "
        f"{version('torch')}\n"
    )


@pytest.mark.parametrize(
    "word, end",
    [
        ("pakc", "there is no command 'pakc'; did you mean pack?"),
        ("zip", "there is no command 'zip'; did you mean zip-model?"),
        ("qqqq", "there is no command 'qqqq'; see espnet-gq --help"),
        ("--bits", "there is no command '--bits'; see espnet-gq --help"),
    ],
)
def test_a_name_that_is_no_command(capsys, word, end):
    with pytest.raises(Ended) as error:
        main([word])
    assert error.value.code == 2
    assert capsys.readouterr().err == f"espnet-gq: {end}\n"


@pytest.mark.parametrize("name", MODULES)
def test_a_command_has_its_name_and_ends_with_one_line(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["espnet-gq"])
    parser = module_of(name).get_parser()
    assert parser.prog == f"espnet-gq {name}" and parser.description
    for called in (name, name.replace("-", "_")):
        with pytest.raises(Ended) as error:
            main([called, "--no_such_option"])
        assert error.value.code == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"espnet-gq {name}: ") and last == str(error.value)


@pytest.mark.parametrize("form", [["espnet_gq.bin", "pack"], ["espnet_gq.bin.pack"]])
def test_bad_input_in_both_forms_of_the_call(form):
    done = call("-m", *form, "--asr_model_file", "no.pth")
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("espnet-gq pack: no.pth: ")


def test_run_is_the_launcher(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = call("-m", "espnet_gq.bin", "run", tmp_path / "script.py", "--a", "b c")
    # ESPnet 202511 prints a line of its own when it is imported.
    printed = done.stdout.splitlines()[-1:]
    assert printed == ["['--a', 'b c'] __main__ True"], done.stderr[-2000:]
