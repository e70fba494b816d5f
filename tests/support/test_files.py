"""Files are whole or not there: what fails, or is killed, leaves the file that was there before."""

from support.errors import InputError

import os
import signal
import subprocess
import sys

from support.files import make_folder, write_aside, write_text, writing
from tests.helpers import ROOT

import pytest


def fails_halfway(aside):
    aside.write_text("half a fi")
    raise RuntimeError("the library's own error\nwith a second line")


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("first", "Ёжик 🦔\n"):
        write_text(path, text)
        assert path.read_bytes() == text.encode() and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("old", ["the old file", None])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, old):
    path = tmp_path / "a.txt"
    if old:
        path.write_text(old)
    with pytest.raises(InputError) as error:
        write_aside(path, fails_halfway)
    assert str(error.value) == f"cannot write {path}: the library's own error"
    assert [file.read_text() for file in tmp_path.iterdir()] == ([old] if old else [])


def test_ctrl_c_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("the old file")

    def interrupted(aside):
        aside.write_text("half a fi")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_aside(path, interrupted)
    assert path.read_text() == "the old file" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("moment", ["while it writes", "before it moves"])
def test_a_kill_leaves_the_old_file(tmp_path, moment):
    """SIGKILL, which no handler sees, as a power cut would come: in the middle of the text, and just before the move."""
    path = tmp_path / "a.txt"
    path.write_text("the old file")
    program = """if True:
        import os, signal, sys
        from pathlib import Path
        from support.files import write_aside
        def kill(*_):
            os.kill(os.getpid(), signal.SIGKILL)
        def write(aside):
            with aside.open("w") as file:
                file.write("half a fi")
                file.flush()
                if sys.argv[2] == "while it writes":
                    kill()
        os.replace = kill
        write_aside(Path(sys.argv[1]), write)
    """
    done = subprocess.run([sys.executable, "-c", program, path, moment], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL and path.read_text() == "the old file"


def test_what_is_moved_into_place_is_on_the_disk_first(tmp_path, monkeypatch):
    """Without the fsync, a power cut after the move could leave an empty file under the right name."""
    calls = []
    monkeypatch.setattr(os, "fsync", lambda *_: calls.append("fsync"))
    monkeypatch.setattr(os, "replace", lambda *_: calls.append("replace"))
    write_text(tmp_path / "a.txt", "x")
    assert calls == ["fsync", "replace"]


@pytest.mark.parametrize(("place", "reason"), [
    ("no/such/folder/a.txt", "No such file or directory"), ("file/a.txt", "Not a directory"),
    ("folder", "Is a directory"), ("x" * 250, "File name too long")])
def test_a_place_that_cannot_be_written_is_one_line(tmp_path, place, reason):
    """Bug: removing the temporary file failed with an error of its own below a file, and for a name too long for a prefix."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError) as error:
        write_text(tmp_path / place, "x")
    assert str(error.value) == f"cannot write {tmp_path / place}: {reason}"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_text_that_is_no_unicode_is_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot write .*a.txt: 'utf-8' codec"):
        write_text(tmp_path / "a.txt", "\udcff")


def test_folders(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    for place in ("file", "file/b"):
        with pytest.raises(InputError, match=f"^cannot write {tmp_path}/{place}: "):
            make_folder(tmp_path / place)


def test_only_a_failure_to_write_becomes_an_input_error(tmp_path):
    with pytest.raises(InputError, match=f"^cannot write {tmp_path}: No space left on device$"), writing(tmp_path):
        raise OSError(28, "No space left on device")
    with pytest.raises(KeyError), writing(tmp_path):
        raise KeyError("a bug")
