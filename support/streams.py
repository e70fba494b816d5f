"""What scripts print: a stream takes any text and tells it at once, and a terminal gets no control characters of it."""

import io
import os
import re
import sys
from typing import TextIO

CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line end


def open_streams() -> None:
    """Let stdout and stderr take any text, line by line, also where they are closed.

    Their encoding need not hold every character: a log on Windows is cp1252, the C locale's is ASCII. What it does not hold is
    written as \\u0416.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed: `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)


def leave_streams() -> None:
    """Let go of a stream that cannot be written: Python flushes both at its end, and would fail once more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def visible(text: str, stream: TextIO | None = None) -> str:
    """A text for `stream` (None: stdout): a terminal would obey the control characters in it, so it gets a \ufffd for each."""
    return CONTROL_CHARACTERS.sub("\ufffd", text) if (stream or sys.stdout).isatty() else text
