"""A conversation's two ends: what the user types and is shown, at a terminal or in a pipe, and Ctrl-C."""

from support.errors import report

import codecs
import io
import math
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from support.wrapping import Wrapped

if TYPE_CHECKING:
    from tqdm import tqdm


MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # at a file's beginning


class Interrupts:
    """A handler for Ctrl-C that ignores a second one within half a second: a key held down must not lose the answer that
    it stopped."""

    def __init__(self) -> None:
        self.last = -math.inf

    def __call__(self, *_: object) -> None:
        now = time.monotonic()
        if now - self.last > 0.5:
            self.last = now
            raise KeyboardInterrupt


def piped_lines() -> Iterator[str]:
    """The lines of stdin, whatever its bytes are; files from Windows begin with a mark, also behind one another."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        begin = sys.stdin.buffer.peek(3) if isinstance(sys.stdin.buffer, io.BufferedReader) else b""
        encoding = next((encoding for mark, encoding in MARKS.items() if begin.startswith(mark)), None)
        sys.stdin.reconfigure(encoding=encoding, errors="replace")
    yield from (line.lstrip("\ufeff") for line in sys.stdin or ())


def lines(at_terminal: bool) -> Iterator[str]:
    """What the user types: at a terminal with editing and history, from a pipe line by line."""
    if not at_terminal:
        yield from piped_lines()
        return
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory

    class KeptHistory(FileHistory):
        def store_string(self, string: str) -> None:
            with suppress(OSError):  # a full disk is no reason to end the conversation
                super().store_string(string)

    try:
        history = Path.home() / ".decode_chat_history"
        history.open("ab").close()
        session = PromptSession(history=KeptHistory(str(history)))
    except (OSError, RuntimeError):  # no home, or none that can be written
        session = PromptSession()
    while True:
        try:
            yield session.prompt("> ")
        except KeyboardInterrupt:
            continue  # Ctrl-C clears the line
        except EOFError:
            return


def note(text: str) -> None:
    """Tell the user something that is not part of an answer."""
    report(f"[{text}]")


def show(pieces: Generator[str], bar: "tqdm") -> float | None:
    """Print an answer's pieces as they come; returns the time.perf_counter() at which the first one came."""
    first, lines = None, Wrapped(sys.stdout)
    with closing(pieces):
        try:
            for piece in pieces:
                first = first or time.perf_counter()
                bar.clear()
                print(lines.add(piece), end="", flush=True)
        finally:
            if first:
                print(lines.rest(), flush=True)
    return first
