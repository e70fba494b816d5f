"""Lines that end between words, of a text that comes in pieces.

A terminal breaks a line at its edge, in the middle of a word. So a word is held back until it is whole, and begins a new line
where it does not fit. Widths are counted in the terminal's cells: a Chinese character or an emoji takes two.
"""

import shutil
import unicodedata
from typing import TextIO

from support.streams import visible

GLUE = "\u00a0\u2007\u202f"  # white space at which no line may end
JOINER, EMOJI = "\u200d", "\ufe0f"  # the next character belongs to this one; the last one is shown wide


class Wrapped:
    """A text as a stream is to show it: at a terminal its words stay whole, elsewhere nothing is changed."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.column = stream, 0
        self.space, self.word = "", ""  # what is held back: a word that may still grow, and the white space before it
        self.running = False  # within a word longer than a line, which is shown as it comes, for the terminal to break

    def add(self, piece: str) -> str:
        """What is to be shown after the text goes on with `piece`."""
        if not self.stream.isatty():
            return piece
        self.width = shutil.get_terminal_size().columns
        return "".join(map(self.add_character, visible(piece, self.stream)))

    def add_character(self, character: str) -> str:
        if character == "\n":
            shown = self.rest() + "\n"
            self.column, self.space = 0, ""
            return shown
        if character.isspace() and character not in GLUE:
            shown = self.rest()
            self.space += " " * (8 - (self.column + cells(self.space)) % 8) if character == "\t" else character
            return shown
        shown = self.rest() if may_break(self.word, character) else ""
        self.word += character
        if self.running or cells(self.word) > self.width:
            shown, self.running = shown + self.place(), True
        return shown

    def rest(self) -> str:
        """What is held back, when the word is whole."""
        shown = self.place() if self.word else ""
        self.running = False
        return shown

    def place(self) -> str:
        """The held word, on this line or on a new one."""
        fits = self.column + cells(self.space + self.word) <= self.width
        new_line = self.column and not fits and not self.running and cells(self.word) <= self.width
        shown = ("\n" if new_line else self.space) + self.word
        end = cells(shown) + (0 if new_line else self.column)
        self.column = (end - 1) % self.width + 1 if end else 0
        self.space = self.word = ""
        return shown


def cells(text: str) -> int:
    """How many of a terminal's cells a text takes."""
    from prompt_toolkit.utils import get_cwidth

    return get_cwidth(text) + text.count(EMOJI)


def may_break(word: str, character: str) -> bool:
    """Whether a line may end between a word and the character that follows: beside a wide one, but not before punctuation."""
    if not word or word[-1] == JOINER or 2 not in (cells(word[-1]), cells(character)):
        return False
    return character.isalnum() or unicodedata.category(character) in ("So", "Ps", "Pi")


def wrapped(text: str, stream: TextIO) -> str:
    """A whole text as the stream is to show it."""
    lines = Wrapped(stream)
    return lines.add(text) + lines.rest()
