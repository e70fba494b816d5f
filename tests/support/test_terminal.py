"""What a user types, and Ctrl-C held down. What needs a terminal is in tests/test_chat.py."""

import io
import sys

import support.terminal
from support.terminal import Interrupts, lines

import pytest


def test_a_pipe_comes_line_by_line_and_a_closed_input_is_empty(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\ntwo"))
    assert list(lines(at_terminal=False)) == ["one\n", "\n", "two"]
    monkeypatch.setattr(sys, "stdin", None)
    assert list(lines(at_terminal=False)) == []


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
