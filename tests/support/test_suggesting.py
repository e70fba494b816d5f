"""A person at the terminal: grey text, words under the line, their keys; typing never waits."""

import threading
import time

from support.suggesting import SuggestingLine
from tests.helpers import has, type_at_terminal

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

WORDS = {"": ["i", "so"], "i am ": ["so", "the", "late"], "i am so ": ["tired", "late"], "i am l": ["late"], "at 1": ["10"]}
RESTS = {"": "i am so tired", "i am ": "so tired", "i am so ": "tired", "i am l": "ate"}


def words(text):
    finished, _, letters = text.rpartition(" ")
    return [(word, word[len(letters):]) for word in WORDS.get(text, [])]


def rest(text, stale):
    return RESTS.get(text, "")


def typing(*steps, words=words, rest=rest):
    """The lines that a person sends, and the exception that ends them, None for Ctrl-D."""
    return type_at_terminal(lambda: SuggestingLine(words, rest), SuggestingLine.lines, *steps)


def test_grey_text_is_taken_by_tab_and_by_the_arrow():
    for key in ("\t", "\x1b[C"):
        sent, error = typing((has("", "i am so tired", ["i", "so"]), "i am "), (has("i am ", "so tired"), key),
                                    (has("i am so tired"), "\r"), (has(""), "\x04"))
        assert (sent, error) == (["i am so tired"], None)


def test_a_digit_takes_the_word_of_its_number_with_a_blank():
    sent, _ = typing((has("", None, ["i", "so"]), "2"), (has("so "), "\x15i am l"), (has("i am l", None, ["late"]), "1"),
                            (has("i am late "), "\r"), (has(""), "\x04"))
    assert sent == ["i am late "]


def test_a_digit_is_a_digit_where_no_such_word_is_shown_behind_a_digit_and_behind_ctrl_q():
    sent, _ = typing((has("", None, ["i", "so"]), "3"), (has("3"), "\x15"), (has("", None, ["i", "so"]), "\x111"),
                            (has("1"), "\x15at 1"), (has("at 1", None, ["10"]), "1"), (has("at 11"), "\r"), (has(""), "\x04"))
    assert sent == ["at 11"]


def test_within_a_line_a_digit_is_a_digit_and_tab_takes_nothing():
    sent, _ = typing((has(""), "i am "), (has("i am ", "so tired", ["so", "the", "late"]), "\x02"),
                            (lambda line: line.buffer.cursor_position == 4, "1\t"), (has("i am1 "), "\r"), (has(""), "\x04"))
    assert sent == ["i am1 "]


def test_ctrl_c_clears_the_line_and_ends_on_an_empty_one():
    sent, error = typing((has(""), "half a l"), (has("half a l"), "\x03"), (has("", "i am so tired"), "\x03"))
    assert sent == [] and isinstance(error, KeyboardInterrupt)


def test_deleting_a_letter_brings_the_words_of_what_is_left():
    """Bug of prompt_toolkit's own suggestions: they are found where something is typed, and nowhere else."""
    typing((has(""), "i am so x"), (has("i am so x", "", []), "\x7f"),
                  (has("i am so ", "tired", ["tired", "late"]), "\x15"), (has("", "i am so tired"), "\x04"))


def test_typing_does_not_wait_for_a_slow_model_and_its_late_answer_is_dropped():
    """The first text's words are held until all is typed. Then they are for nobody: those shown are of the whole text."""
    typed, asked = threading.Event(), []

    def slow(text):
        asked.append(text)
        if text == "":
            assert typed.wait(5)
        return words(text)

    sent, _ = typing((lambda line: asked == [""], "i am "), (lambda line: has("i am ")(line) and (typed.set() or True), ""),
                     (has("i am ", "so tired", ["so", "the", "late"]), "\r"), (has(""), "\x04"), words=slow)
    assert sent == ["i am "]
    assert asked[:2] == ["", "i am "]  # none of the texts between


def test_a_rest_is_told_when_its_text_has_changed():
    told = []

    def waiting(text, stale):
        if text == "i am ":
            end = time.monotonic() + 5
            while not stale() and time.monotonic() < end:
                time.sleep(0.001)
            told.append(stale())
        return rest(text, stale)

    typing((has("", "i am so tired"), "i am "), (has("i am ", None, ["so", "the", "late"]), "so "),
                                (has("i am so ", "tired"), "\r"), (has("", "i am so tired"), "\x04"), rest=waiting)
    assert told == [True]


def test_grey_text_stays_while_it_is_typed_along():
    """Until the answer comes: no flicker."""
    free = threading.Event()
    typing((has("", "i am so tired"), "i am"), (has("i am", " so tired"), "x"),
           (lambda line: has("i amx")(line) and line.buffer.suggestion is None and (free.set() or True), "\x15"),
           (has(""), "\x04"), words=lambda text: (text == "" or free.wait(5)) and words(text) or [])


def test_an_error_of_the_model_ends_the_line():
    """As that of a broken model, which a script reports in one line."""
    def broken(text):
        raise ValueError("no numbers")

    sent, error = typing(words=broken)
    assert sent == [] and str(error) == "no numbers"


def test_the_words_under_the_line():
    """By hand; a control character would be obeyed by a terminal."""
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        line = SuggestingLine(words, rest)
        assert "".join(text for _, text in line.toolbar()) == " "
        line.words = [("so", "so"), ("\x1b[31m", "")]
        assert "".join(text for _, text in line.toolbar()) == "  1 so  2 \ufffd[31m "
        assert line.toolbar()[1] == ("bold", " 1 ") and line.takes(1) and not line.takes(2)
        line.number += 1  # the text has changed: no digit takes a word that is not for it
        assert line.toolbar()[1] == ("dim", " 1 ") and not line.takes(1)


@pytest.fixture(autouse=True)
def kills(signals):
    """A prompt takes the handlers of kills."""
