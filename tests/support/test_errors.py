"""Errors are one line with exit code 2, Ctrl-C is "interrupted" with 130, also while a script is still being imported."""

from support.errors import InputError, first_line, one_line_errors, report, undisturbed

import io
import os
import signal
import subprocess
import sys

from tests.helpers import ROOT

import pytest

SCRIPTS = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.py"), *ROOT.glob("studies/**/*.py")]
                 if "__main__" in path.read_text("utf-8"))
HEAVY = ("torch", "numpy", "matplotlib", "transformers", "tokenizers", "scipy", "accelerate", "tqdm", "safetensors")


@pytest.fixture(scope="module")
def interrupting_packages(tmp_path_factory):
    """A folder of packages that stand in for the heavy ones: each sends its process Ctrl-C when it is imported."""
    folder = tmp_path_factory.mktemp("packages")
    for name in HEAVY:
        (folder / f"{name}.py").write_text("import signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(9)\n")
    return folder


def heed_ctrl_c():
    """A process that is started in the background ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_ctrl_c_while_a_script_is_imported(script, interrupting_packages):
    """Bug: Ctrl-C in the first second, while torch was being imported, was a traceback."""
    program = ["-m", ".".join(script.with_suffix("").parts)] if len(script.parts) > 1 else [str(script)]
    done = subprocess.run([sys.executable, *program], cwd=ROOT, env={"PYTHONPATH": str(interrupting_packages)},
                          capture_output=True, text=True, timeout=30, preexec_fn=heed_ctrl_c)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_an_import_from_elsewhere_leaves_ctrl_c_alone():
    """A notebook or a test that imports the project must keep its own answer to Ctrl-C."""
    program = ("import signal; before = signal.getsignal(signal.SIGINT); import support.errors; "
               "assert signal.getsignal(signal.SIGINT) is before is signal.default_int_handler")
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, preexec_fn=heed_ctrl_c)


@pytest.mark.parametrize(("error", "code", "says"), [
    (InputError("no such thing"), 2, "error: no such thing\n"), (KeyboardInterrupt(), 130, "interrupted\n"),
    (MemoryError(), 2, "error: cannot go on: MemoryError\n"),
    (RuntimeError("out of memory\nat line 3"), 2, "error: cannot go on: out of memory\n")])
def test_errors_are_one_line(error, code, says, capsys):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise error
    assert (stop.value.code, capsys.readouterr().err) == (code, says)


def test_other_errors_are_bugs_and_keep_their_traceback():
    with pytest.raises(KeyError), one_line_errors():
        raise KeyError("a bug")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_polite_kill_lets_a_script_save_what_is_done(signals, number):
    """Bug: a closed terminal ended the five tasks before their texts were saved. It sends SIGHUP several times: the second one
    must not end the saving. By hand: SIGTERM is signal 15 and SIGHUP 1, so the exit codes are 143 and 129."""
    signal.signal(number, signal.SIG_DFL)
    saved = []
    with pytest.raises(SystemExit) as stop, one_line_errors():
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)
            saved.append("text")
    assert saved and stop.value.code == {signal.SIGTERM: 143, signal.SIGHUP: 129}[number]
    assert signal.getsignal(number) is signal.SIG_DFL


def test_nohup_stays_in_force(signals):
    """nohup starts a script with SIGHUP ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with one_line_errors():
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_second_ctrl_c_does_not_disturb_the_saving(signals):
    """Bug: Ctrl-C twice, as people press it, lost the texts that the first one wanted saved."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with undisturbed():
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_report_to_a_closed_terminal_is_no_error(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise OSError(5, "Input/output error")
    monkeypatch.setattr(sys, "stderr", Closed())
    report("done")


def test_first_line():
    assert first_line(ValueError("  one\ntwo")) == "one" and first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 500))) == 200
