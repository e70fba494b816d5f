"""The rows of a comparison, each in a file of its own that is written as it is measured: an interrupted evaluation goes on.

A row's file holds what its model is and what it was measured on, and in "columns" a list of records for each kind of measuring.
"""

from support.errors import InputError

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from support.files import write_text
from support.results import read_json, set_aside

from tqdm import tqdm

SAVE_EVERY = 30  # seconds
Item = TypeVar("Item")


def hash_of(texts: Iterable[str]) -> str:
    """What tells these texts from others, whatever their order."""
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:16]


class RowFile:
    """The records of one row, in a file of their own that is written as they come."""

    def __init__(self, path: Path, header: dict, unit: str = "message") -> None:
        """A file of other weights, texts or settings than its `header` states, or a broken one, is kept aside."""
        self.path, self.unit, self.saved, old = path, unit, time.monotonic(), {}
        if path.exists():
            with suppress(InputError):
                old = read_json(path)
            if not header.items() <= old.items():
                set_aside(path, "is of another model, of other texts or settings, or broken")
                old = {}
        self.content = {**header, "columns": {}, **old}

    def save(self) -> None:
        write_text(self.path, json.dumps(self.content, ensure_ascii=False) + "\n")
        self.saved = time.monotonic()

    def fill(self, column: str, items: Sequence[Item], measure: Callable[[Sequence[Item]], list], at_once: int) -> None:
        """Measure the items that a column has no records of yet, `at_once` at a time."""
        records = self.content["columns"].setdefault(column, [])
        with tqdm(total=len(items), initial=min(len(records), len(items)), desc=f"{self.path.stem}, {column}",
                  unit=self.unit, disable=None) as bar:
            try:
                while len(records) < len(items):
                    part = items[len(records):len(records) + at_once]
                    records += measure(part)
                    bar.update(len(part))
                    if time.monotonic() - self.saved > SAVE_EVERY:
                        self.save()
            finally:
                self.save()


def read_rows(folder: Path, names: Sequence[str], facts: dict, last: str) -> dict[str, dict]:
    """What the files of these rows hold, and then those of all others that were measured on the same, and to their end: that
    hold `last`, which is measured last."""
    others = sorted(path.stem for path in folder.glob("*.json") if path.stem not in names)
    contents = {name: read_json(folder / f"{name}.json") for name in (*names, *others)}
    return {name: content for name, content in contents.items() if facts.items() <= content.items() and last in content}
