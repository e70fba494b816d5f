"""Errors that the user can fix, reported in one line; and Ctrl-C and other polite kills, which are no errors.

Scripts import this module before torch, whose import takes seconds: from then on Ctrl-C is "interrupted".
"""

import atexit
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from support.streams import leave_streams, open_streams, visible

ROOT = Path(__file__).resolve().parent.parent  # the project's folder
FAILED, INTERRUPTED = 2, 130  # exit codes
KILLS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP


class InputError(ValueError):
    """Something that the user asked for cannot be done; the message is one line for the user."""


def first_line(error: BaseException) -> str:
    """An exception's message without what follows its first line, or its second, where the first ends with a colon."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return " ".join(line.strip() for line in lines[:2 if lines[0].rstrip().endswith(":") else 1])[:200]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What a script's main function runs in: errors become one line and exit code 2, Ctrl-C exit code 130.

    InputError, and what the machine refuses: a full disk or missing memory (RuntimeError is torch's error for it). A reader
    that closes the pipe (`| head -1`) is exit code 1 without a line. SIGTERM and SIGHUP, a closed terminal's, raise SystemExit
    with 128 + their number, so that what is done is saved; under nohup SIGHUP stays without effect.
    """
    open_streams()
    atexit.register(ignore_signals)  # all is done then, and a second Ctrl-C would be a traceback
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    taken = [number for number in KILLS if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    except KeyboardInterrupt:
        report("interrupted")
        sys.exit(INTERRUPTED)
    except InputError as error:
        report(f"error: {' '.join(str(error).splitlines())}")
        sys.exit(FAILED)
    except BrokenPipeError:
        sys.exit(1)
    except (OSError, MemoryError, RuntimeError) as error:
        report(f"error: cannot go on: {first_line(error)}")
        sys.exit(FAILED)
    finally:
        for number in taken:
            if signal.getsignal(number) is end:  # or a training has taken it
                signal.signal(number, signal.SIG_DFL)
        leave_streams()


def report(line: str) -> None:
    """Print a line to stderr, if it can be written: a closed terminal's cannot."""
    with suppress(OSError):
        print(visible(line, sys.stderr), file=sys.stderr)


def end(number: int, frame: FrameType | None) -> None:
    """The answer to SIGTERM and SIGHUP."""
    sys.exit(128 + number)


def ignore_signals() -> None:
    """From now on Ctrl-C and kills have no effect."""
    for number in (signal.SIGINT, *KILLS):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def undisturbed() -> Iterator[None]:
    """What must not be lost, such as saving after Ctrl-C, runs in this: a second one has no effect meanwhile, nor have the
    several SIGHUP of a terminal that is closed."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *KILLS)}
    ignore_signals()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


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
