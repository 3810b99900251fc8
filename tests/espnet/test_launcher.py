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
