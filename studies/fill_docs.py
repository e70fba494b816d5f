"""Write the derived parts of the documents, tables, texts and code, anew from results/shipped/ and the source.

    python -m studies.fill_docs

A derived part stands between `<!-- filled: name -->` and `<!-- end -->`; the names are those of PARTS below, and `code of
module.function` or `loop of module.function` for any function. Nothing in it is written by hand, and a test fails when a
document is stale.
"""

from support.errors import ROOT, InputError, one_line_errors

import re
from functools import partial
from pathlib import Path

from studies.autocomplete_tables import (
    ABLATION,
    COSTS,
    ENDS,
    RESTS,
    SHORT,
    WORDS,
    comparison,
    learning_table,
    pairs_table,
    remembered_table,
)
from studies.doc_tables import (
    Snapshot,
    beams_table,
    candidates_table,
    draws_table,
    evaluation_table,
    held_out_beams_table,
    speed_table,
    top_p_table,
    training_table,
)
from studies.doc_texts import excerpts, jsons, loop, printed, source, stories
from studies.labels import JSON_COLUMNS, MESSAGE_PAIRS, SOUND_COLUMNS, VARIED_COLUMNS
from support.files import write_text
from support.flags import Parser
from task3_temperature import SETTINGS as TEMPERATURES
from task4_nucleus import SETTINGS as NUCLEI
from task5_beam import SETTINGS as BEAMS

ENGLISH, RUSSIAN = 0, 1  # the place of a language in the (English, Russian) pairs of studies/labels.py
PAGES = {"README.md": ENGLISH, "README.ru.md": RUSSIAN, "docs/answers.md": ENGLISH, "docs/answers.ru.md": RUSSIAN,
         "docs/autocomplete.md": ENGLISH, "docs/autocomplete.ru.md": RUSSIAN, "docs/decoder.md": ENGLISH,
         "docs/speed.md": ENGLISH}
PART = re.compile(r"(<!-- filled: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)

DRAWN = {"greedy": [{"temperature": 0.0}], "sampling": [{}], "temperature": TEMPERATURES, "nucleus": NUCLEI}
COLUMNS = {"JSON": JSON_COLUMNS, "soundness": SOUND_COLUMNS, "variety": VARIED_COLUMNS}
TASKS = {"task1_greedy": [{}], "task2_sampling": [{}], "task3_temperature": TEMPERATURES, "task4_nucleus": NUCLEI,
         "task5_beam": BEAMS}
SHOWN = {"task2_sampling": {}, "task3_temperature": TEMPERATURES[2], "task4_nucleus": NUCLEI[0],
         "task5_beam": BEAMS[1]}  # the setting whose story the README shows; task 1's stands in what it prints
PARTS = {
    **{f"{name}, {kind}": partial(draws_table, settings=settings, columns=columns)
       for name, settings in DRAWN.items() for kind, columns in COLUMNS.items()},
    **{f"JSON of {task}": partial(jsons, task=task, settings=settings) for task, settings in TASKS.items()},
    **{f"stories of {task}": partial(stories, task=task, settings=settings) for task, settings in TASKS.items()},
    **{f"excerpts of {task}": partial(excerpts, task=task, settings=TASKS[task], shown=shown) for task, shown in SHOWN.items()},
    "what task 1 prints": printed,
    "sweep of top_p": top_p_table,
    "beams": partial(beams_table, settings=BEAMS),
    "beams, held-out": partial(held_out_beams_table, settings=BEAMS),
    "candidates of eight beams": partial(candidates_table, setting=BEAMS[4]),
    **{f"messages, {kind}": partial(comparison, name="autocomplete", columns=columns)
       for kind, columns in (("short", SHORT), ("words", WORDS), ("rests", RESTS), ("ends", ENDS), ("costs", COSTS))},
    "messages, ablation": partial(comparison, name="autocomplete-ablation", columns=ABLATION),
    "messages, Russian": partial(comparison, name="autocomplete-ru", columns=WORDS),
    "messages, differences": partial(pairs_table, name="autocomplete", pairs=MESSAGE_PAIRS),
    "messages, learning": partial(learning_table, name="autocomplete"),
    "messages, remembered": partial(remembered_table, name="autocomplete"),
    "evaluation": evaluation_table,
    "speed": speed_table,
    "training on books": partial(training_table, name="books/training.jsonl"),
}


def part(name: str, snapshot: Snapshot, language: int) -> str:
    """The text of a derived part. Raises InputError for an unknown name, and where results are missing."""
    kind, _, function = name.partition(" of ")
    if kind in ("code", "loop"):
        return (source if kind == "code" else loop)(function)
    if name not in PARTS:
        raise InputError(f"there is no part called {name}")
    return PARTS[name](snapshot, language=language)


def filled(page: str, snapshot: Snapshot, language: int) -> str:
    """The page with its derived parts made anew."""
    return PART.sub(lambda match: match[1] + part(match[2], snapshot, language) + match[3], page)


def filled_pages(snapshot: Snapshot, root: Path = ROOT) -> dict[str, str]:
    """All documents below `root` as they should be: name -> text."""
    return {page: filled((root / page).read_text("utf-8"), snapshot, language) for page, language in PAGES.items()}


def write_pages(pages: dict[str, str], root: Path = ROOT) -> None:
    """Write the documents that have changed, and say what became of each."""
    for page, text in pages.items():
        changed = (root / page).read_text("utf-8") != text
        if changed:
            write_text(root / page, text)
        print(f"{page} {'is filled anew' if changed else 'was up to date'}")


def main() -> None:
    with one_line_errors():
        Parser(__doc__).parse_args()
        write_pages(filled_pages(Snapshot()))


if __name__ == "__main__":
    main()
