"""Errors that the user can fix, reported in one line; and Ctrl-C, which is no error.

Scripts import this module before torch, whose import takes seconds: from then on Ctrl-C is "interrupted".
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent  # the project's folder
FAILED, INTERRUPTED = 2, 130  # exit codes


class InputError(ValueError):
    """Something that the user asked for cannot be done; the message is one line for the user."""


def first_line(error: BaseException) -> str:
    """An exception's message without what follows its first line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What a script's main function runs in: errors become one line and exit code 2, Ctrl-C exit code 130.

    InputError, and what the machine refuses: a full disk or missing memory (RuntimeError is torch's error for it). A reader
    that closes the pipe (`| head -1`) is exit code 1 without a line.
    """
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except InputError as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        sys.exit(FAILED)
    except (OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, OSError) and sys.stdout:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit would fail again
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        print(f"error: cannot go on: {first_line(error)}", file=sys.stderr)
        sys.exit(FAILED)


def leave(number: int, frame: FrameType | None) -> None:
    """The answer to Ctrl-C while a script is still importing its modules, and there is nothing to lose; later the usual one."""
    called = None  # by the script itself, outside of its functions
    while frame is not None and (frame.f_globals.get("__name__"), frame.f_code.co_name) != ("__main__", "<module>"):
        called, frame = frame, frame.f_back
    if called is not None and called.f_code.co_filename.startswith("<frozen importlib"):
        os.write(2, b"interrupted\n")
        os._exit(INTERRUPTED)
    raise KeyboardInterrupt


def is_our_script() -> bool:
    """Whether this process runs one of the project's scripts, rather than a notebook or pytest that imports them."""
    main = Path(getattr(sys.modules["__main__"], "__file__", None) or "/").resolve()  # a notebook's has no file
    return ROOT in main.parents and "site-packages" not in main.parts


if is_our_script() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, leave)
