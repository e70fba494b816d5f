"""What scripts print: any text in any encoding, at once, also where the output is closed or its reader has left."""

from support.errors import one_line_errors

import io
import os
import sys

from support.streams import open_streams, visible
from tests.helpers import Terminal

import pytest


@pytest.mark.parametrize(("encoding", "expected"), [
    ("cp1252", b"\\u0401\\u0436 \x97 \xe9"),
    ("ascii", rb"\u0401\u0436 \u2014 \xe9"), ("utf-8", "Ёж — é".encode())])
def test_what_an_encoding_does_not_hold_is_escaped(monkeypatch, encoding, expected):
    """Bug: a training of Russian books, its log redirected on Windows or in the C locale, died at its first evaluation.

    By hand: Ё is U+0401 and ж U+0436, in neither; the dash is byte 97 of cp1252, and é its byte e9.
    """
    out = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", out)
    with one_line_errors():
        print("Ёж — é")
        assert out.buffer.getvalue() == expected + b"\n"  # already: a log is read while it is written


def test_a_closed_output_takes_everything(monkeypatch):
    """Bug: the training printed its evaluation to sys.stdout, None for `>&-`, and ended in a traceback."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    open_streams()
    for stream in (sys.stdout, sys.stderr):
        print("Ёж", file=stream)
        assert not stream.isatty()
        stream.close()


def test_a_reader_who_has_left_is_exit_code_1_and_no_second_error(monkeypatch):
    """The text that the pipe did not take stays in the stream, and Python flushes it once more at its end."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as stop, one_line_errors():
            print("text")
        assert stop.value.code == 1


def test_a_terminal_is_told_no_control_characters(monkeypatch):
    """By hand: ESC [2J would clear the screen, a bell would ring, a carriage return hide the line; tab and line end stay."""
    text = "\x1b[2J\a\rone\ttwo\n\x9b0mé"
    assert visible(text, Terminal()) == "\ufffd[2J\ufffd\ufffdone\ttwo\n\ufffd0mé"
    assert visible(text, io.StringIO()) == text
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert visible("\x1b") == "\ufffd"
