"""`python3 -m espnet_gq` behaves as python3 does, with the plugin registered."""

import sys

from tiny_task import run

LAUNCH = [sys.executable, "-m", "espnet_gq"]
SCRIPT = """
import multiprocessing
import sys


def names(_):
    from espnet2.tasks.asr import encoder_choices
    return sorted(n for n in encoder_choices.classes if n.startswith("gq_"))


if __name__ == "__main__":
    print(sys.argv[1:], __file__, sys.path[0])
    for method in ("spawn", "fork"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(method, "gq_conformer" in pool.map(names, [0])[0])
"""


def test_script_and_its_workers(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    out = run([*LAUNCH, str(script), "--a", "b c"]).stdout
    assert f"['--a', 'b c'] {script} {tmp_path}" in out
    assert "spawn True" in out and "fork True" in out


AGAIN = """
import os
import subprocess
import sys

import __main__

where = os.path.basename(__file__)
registered = "espnet_gq.espnet" in sys.modules
print(sys.argv[1:], where, __package__, registered, flush=True)
if "AGAIN" not in os.environ:
    command = [sys.executable, "-m", __main__.__spec__.name, *sys.argv[1:]]
    subprocess.run(command, env={**os.environ, "AGAIN": "1"}, check=True)
"""


def test_a_program_that_starts_itself_again(tmp_path, monkeypatch):
    """As Lightning does for each further device: by the name of its spec."""
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "once.py").write_text(AGAIN)
    arguments = ["--a", "b c"]
    done = run([*LAUNCH, "-m", "again.once", *arguments], cwd=tmp_path)
    assert done.stdout.splitlines() == ["['--a', 'b c'] once.py again True"] * 2
    # The launcher leaves this to what was started as a script.
    monkeypatch.setenv("ESPNET_GQ_PROGRAM", str(tmp_path / "again" / "once.py"))
    monkeypatch.setenv("ESPNET_GQ_MODULE", "")
    monkeypatch.setenv("AGAIN", "1")
    done = run([sys.executable, "-m", "espnet_gq._worker", *arguments])
    assert done.stdout.splitlines() == ["['--a', 'b c'] once.py None True"]


def test_module_with_its_own_arguments():
    out = run([*LAUNCH, "-m", "espnet2.bin.asr_train", "--help"]).stdout
    assert "gq_conformer" in out and "gq_espnet" in out


def test_package_with_a_main(tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "__main__.py").write_text("print('main of', __package__)")
    out = run([*LAUNCH, "-m", "pack"], cwd=tmp_path).stdout
    assert out.strip() == "main of pack"


def test_exit_status_and_standard_input(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys; sys.exit(len(sys.stdin.read()))")
    assert run([*LAUNCH, str(script)], check=False, input="1234567").returncode == 7


def test_mistakes_are_one_clear_line():
    for args, words in (
        (["-m"], "-m needs a module name"),
        (["-m", "no_such_module"], "no module named no_such_module"),
        (["no_such_file.py"], "cannot open no_such_file.py"),
        (["-x"], "unknown option -x"),
    ):
        done = run([*LAUNCH, *args], check=False)
        assert done.returncode == 2
        assert words in done.stderr.splitlines()[-1]


def test_commands_that_need_no_task_do_not_import_it():
    code = "import sys; import espnet_gq.espnet; assert 'espnet2' not in sys.modules"
    run([sys.executable, "-c", code])
