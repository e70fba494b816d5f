"""Words stay whole at a terminal's edge, however the text is cut into pieces, and nothing of it is lost."""

import io
import os
import re

import support.wrapping
from support.wrapping import Wrapped, cells, wrapped
from tests.helpers import Terminal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def shown(text, width, size=1):
    """The text in pieces of `size` characters, as a terminal of that width is to show it."""
    lines, terminal_size = Wrapped(Terminal()), support.wrapping.shutil.get_terminal_size
    support.wrapping.shutil.get_terminal_size = lambda: os.terminal_size((width, 24))
    try:
        return "".join(lines.add(text[i:i + size]) for i in range(0, len(text), size)) + lines.rest()
    finally:
        support.wrapping.shutil.get_terminal_size = terminal_size


@pytest.mark.parametrize(("text", "width", "expected"), [
    ("The quick brown fox jumps.", 10, "The quick\nbrown fox\njumps."),
    ("exactly10c next", 10, "exactly10c\nnext"),  # the edge itself belongs to the line
    ("  indented\n\ttab\n\n\nend", 12, "  indented\n        tab\n\n\nend"),
    ("a " + "x" * 12 + " b c", 10, "a " + "x" * 12 + " b c"),  # longer than a line: the terminal breaks it, b c follow xxxx
    ("a " + "x" * 12 + " bcd ef", 10, "a " + "x" * 12 + " bcd\nef"),
    ("Ёжик нашёл яблоко", 10, "Ёжик нашёл\nяблоко"),
    ("中文字符，没有空格", 9, "中文字\n符，没有\n空格"),  # two cells each; no line begins with the comma
    ("🦔🦔🦔 🦔.", 7, "🦔🦔🦔\n🦔."),
    ("👩\u200d👩 x", 4, "👩\u200d👩\nx"),
    ("a\u00a0b c", 3, "a\u00a0b\nc"),  # a space at which no line may end
])
def test_by_hand(text, width, expected):
    """Bug: the terminal broke `R|uby` at its edge."""
    for size in (1, 2, 3, 100):
        assert shown(text, width, size) == expected


words = st.text(st.sampled_from("aÉж.,-'🦔字。(\u0301"), min_size=1, max_size=8)
texts = st.lists(st.tuples(words, st.sampled_from([" ", "  ", "\n", "\n\n", " \n"])), max_size=25).map(
    lambda parts: "".join(word + space for word, space in parts))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=texts, width=st.integers(1, 40), size=st.integers(1, 7))
def test_nothing_is_lost_and_no_line_is_too_long(text, width, size):
    """Pieces make no difference. Lines end where the text's do, or before a word that does not fit."""
    found = shown(text, width, size)
    assert found == shown(text, width, 10_000)
    assert re.sub(r"\s", "", found) == re.sub(r"\s", "", text)
    longest = max(map(cells, text.split()), default=0)
    assert all(cells(line.rstrip()) <= width for line in found.split("\n")) or longest > width
    if width == 40 and "\n" not in text and cells(text) <= 40:
        assert found == text.rstrip()


def test_a_pipe_gets_the_text_as_it_is():
    text = "word " * 100 + "\x1b[0m\t\n\n"
    assert wrapped(text, io.StringIO()) == text
    lines = Wrapped(io.StringIO())
    assert [lines.add("R"), lines.add("uby "), lines.rest()] == ["R", "uby ", ""]


def test_control_characters_are_replaced():
    assert shown("a\x1b[2J b", 80) == "a\ufffd[2J b"
