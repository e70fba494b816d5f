"""What a user types: at a terminal with editing and history, from a pipe line by line; and Ctrl-C in a conversation."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


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


def lines(at_terminal: bool) -> Iterator[str]:
    """What the user types: at a terminal with editing and history, from a pipe line by line."""
    if not at_terminal:
        yield from sys.stdin or ()
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
