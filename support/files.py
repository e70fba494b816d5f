"""Files that are whole or not there: written under a temporary name, then moved into place."""

from support.errors import InputError, first_line

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_aside(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside `path`, and move what it wrote into place once it is on the disk.

    Raises InputError where that fails, say for a full disk.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(aside)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except Exception as error:  # torch, safetensors and tokenizers each raise an error of their own
        raise InputError(f"cannot write {path}: {reason(error)}") from error
    finally:
        with suppress(OSError):  # it was moved into place, or never written
            aside.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file in one move. Raises InputError where that fails."""
    write_aside(path, lambda aside: aside.write_text(text, "utf-8"))


def make_folder(path: Path) -> None:
    """Create a folder and those above it, if need be. Raises InputError where that fails."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def check_writable(folder: Path) -> None:
    """Create a folder and write a file into it: better known before the work. Raises InputError where that fails."""
    make_folder(folder)
    probe = folder / f".probe.{os.getpid()}"
    write_text(probe, "")
    probe.unlink()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write into an InputError that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What went wrong, in the system's words where it has some."""
    return getattr(error, "strerror", None) or first_line(error)
