"""What a user types, and Ctrl-C held down. What needs a terminal is in tests/test_chat.py."""

import io
import sys

import support.terminal
from support.terminal import Interrupts, lines, show
from tests.helpers import Terminal

import pytest


def test_a_pipe_comes_line_by_line_and_a_closed_input_is_empty(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\ntwo"))
    assert list(lines(at_terminal=False)) == ["one\n", "\n", "two"]
    monkeypatch.setattr(sys, "stdin", None)
    assert list(lines(at_terminal=False)) == []


@pytest.mark.parametrize(("raw", "encoding"), [
    (b"\xef\xbb\xbf/clear\r\n\xef\xbb\xbf\xd0\x81\r\nquit\r\n", "utf-8"),  # two files behind one another
    (b"\xef\xbb\xbf/clear\r\n\xd0\x81\r\nquit\r\n", "cp1252"),
    ("\ufeff/clear\r\nЁ\r\nquit\r\n".encode("utf-16-le"), "utf-8"),
    (b"/clear\r\n\xd0\x81\r\nquit\r\n", "utf-8")])
def test_a_file_from_windows(monkeypatch, raw, encoding):
    """Bug: behind the mark that Windows puts in front of a text, EF BB BF, `quit` was answered as a message."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(raw)), encoding))
    assert list(lines(at_terminal=False)) == ["/clear\n", "Ё\n", "quit\n"]


class Bar:
    """A progress bar that shows nothing."""

    def clear(self):
        pass


def test_an_answer_keeps_its_words_whole_at_a_terminal(monkeypatch):
    """Bugs: `R|uby` broke at the terminal's edge; a stopped answer lost the word that was held back."""
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "10")
    assert show((piece for piece in ("Ask for R", "uby, or", " \x1b[2J")), Bar())
    assert sys.stdout.getvalue() == "Ask for\nRuby, or\n\ufffd[2J\n"

    def stopped():
        yield "one tw"
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        show(stopped(), Bar())
    assert sys.stdout.getvalue().endswith("one tw\n")


def test_a_second_ctrl_c_within_half_a_second_is_ignored(monkeypatch):
    """By hand, in seconds: at 10.0 it counts, at 10.3 and 10.5 it is too soon, at 10.6 it counts again."""
    interrupts, counted = Interrupts(), []
    for now in (10.0, 10.3, 10.5, 10.6):
        monkeypatch.setattr(support.terminal.time, "monotonic", lambda now=now: now)
        try:
            interrupts()
        except KeyboardInterrupt:
            counted.append(now)
    assert counted == [10.0, 10.6]
    with pytest.raises(KeyboardInterrupt):
        Interrupts()()
