"""A training's folder: what it holds while the training lasts, how it is begun, left and found again.

    runs/lstm_lm-20260101-120000/                 the output folder: the model as it was best, its figures
    runs/lstm_lm-20260101-120000/training_state/  WORK: what --resume needs; deleted at the end
"""

from support.errors import FAILED, INTERRUPTED, InputError, first_line, report, undisturbed

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from support.flags import command

from torch import nn

WORK, STATE, SETTINGS = "training_state", "state.pt", "arguments.json"  # the last two are in WORK
Kind = TypeVar("Kind")


def unfinished(runs: Path, names: str) -> Path:
    """The folder, of those whose name fits the pattern, of the training that was saved last.

    Raises InputError where there is none.
    """
    states = sorted(runs.glob(f"{names}/{WORK}/{STATE}"), key=lambda path: path.stat().st_mtime)
    if not states:
        raise InputError(f"{runs} holds no unfinished training to resume: name its folder by --output")
    return states[-1].parent.parent


def read_settings(work: Path, kind: type[Kind]) -> tuple[Kind, dict]:
    """The settings of the training that was stopped, of that class, and the facts of its data.

    Raises InputError where there is none, or the file is damaged.
    """
    if not (work / STATE).exists():
        raise InputError(f"{work.parent} holds no unfinished training to resume")
    try:
        saved = json.loads((work / SETTINGS).read_text("utf-8"))
        return kind(**saved["settings"]), saved["facts"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{work / SETTINGS} cannot be read: {first_line(error)}") from error


def check_free(output: Path, *others: str) -> None:
    """Raises InputError where a folder holds a training, or a file that one would write over: weights, or one of `others`."""
    begun = (output / WORK / STATE).exists()
    left = any((output / name).exists() for name in others) and not (output / WORK).exists()
    if begun or left or any(output.glob("*.safetensors")):
        way = "go on with --resume" if begun else "it is finished"
        raise InputError(f"{output} holds a training already: {way}, or choose another --output")


def discard(output: Path, *others: str) -> None:
    """Remove a training that cannot go on, with `others` of its files, and its output folder if that holds nothing else."""
    shutil.rmtree(output / WORK, ignore_errors=True)
    for name in others:
        (output / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        output.rmdir()


@contextlib.contextmanager
def all_or_nothing(output: Path, *others: str) -> Iterator[None]:
    """Leave nothing of a training that fails, or is interrupted, before its first state is saved."""
    try:
        yield
    except BaseException:
        with undisturbed():
            discard(output, *others)
        raise


@contextlib.contextmanager
def stopped_in_words(script: str, output: Path) -> Iterator[None]:
    """Ctrl-C, or an output that cannot be written, ends the script with a line that says how to go on."""
    try:
        yield
    except (KeyboardInterrupt, OSError) as error:
        if not (output / WORK / STATE).exists():
            raise
        cause = f": {error}" if str(error) else ""
        report(f"\nstopped{cause}; go on with: {command(script, '--output', output, '--resume')}")
        sys.exit(INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED)


def num_parameters(model: nn.Module, trained: bool = False) -> int:
    """The number of a model's weights, or of those that are trained."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad or not trained)


def without_folder(argument: str) -> str:
    """An argument of the command line; of a path from the root its last part, since all else tells of one machine alone."""
    return Path(argument).name if Path(argument).is_absolute() else argument
