"""Renew the shipped snapshot: results/<model>/ -> results/shipped/<model>/, and the documents that quote it.

    python -m studies.ship
    python -m studies.ship --model qwen

Files that are missing in results/<model>/ stay as they are in the snapshot. Everything is read and checked, and every
document filled in memory, before the first file is written. Texts of other prompts than the exercise's are not shipped.
"""

from support.errors import ROOT, InputError, one_line_errors

import re
from pathlib import Path

from common import PROMPTS
from models.places import CHECKPOINT, revision
from studies.doc_tables import SHIPPED, Snapshot
from studies.fill_docs import filled_pages, write_pages
from support.files import make_folder, write_aside
from support.flags import Parser, add_results_flag
from support.results import model_folder, read_json, read_task

KINDS = {".json", ".jsonl", ".md", ".png", ".svg", ".html"}
TEXT = {".json", ".md", ".html"}
# A slur that the shipped decoder spelt by accident, as a name among the beam's losers. What ships shows its first letter.
SLUR = re.compile(rb"\b(K)ike\b")


def results_to_ship(folder: Path) -> list[Path]:
    """The results files in a model's folder, but those kept aside (.old1) or half written. Raises InputError for none."""
    found = sorted(path for path in folder.glob("*") if path.is_file() and path.suffix in KINDS
                   and not path.name.startswith(".") and ".old" not in path.name)
    if not found:
        raise InputError(f"there are no results in {folder}: run the scripts that write them first")
    return found


def check_prompts(files: list[Path]) -> None:
    """Raises InputError for a task's results that hold a text of another prompt than the exercise's."""
    for path in files:
        if path.match("task*.json"):
            for result in read_task(path)["runs"]:
                if result["prompt"] not in PROMPTS:
                    raise InputError(f"{path} holds a text of another prompt than the exercise's: move the file, and run its "
                                     "script again")


def check_weights(files: list[Path], weights: str) -> None:
    """Raises InputError for a results file that other weights than these wrote, or that is corrupt."""
    for path in files:
        if path.suffix == ".json":
            model = read_json(path).get("model")  # a training benchmark names none
            if model is not None and (not isinstance(model, dict) or model.get("revision") != weights):
                raise InputError(f"{path} was written by other weights than those in checkpoint/: run its script again")


def ship(folder: Path, shipped: Path = SHIPPED, root: Path = ROOT) -> None:
    """Copy the results in a model's folder into the snapshot, and fill the documents below `root`. Raises InputError."""
    files = results_to_ship(folder)
    check_prompts(files)
    if folder.name == "generator":
        check_weights(files, revision(CHECKPOINT))
    pages = filled_pages(Snapshot(shipped, {f"{folder.name}/{path.name}": path for path in files}), root)
    target = shipped / folder.name
    make_folder(target)
    for path in files:
        content = SLUR.sub(rb"\1***", path.read_bytes()) if path.suffix in TEXT else path.read_bytes()
        write_aside(target / path.name, lambda aside, content=content: aside.write_bytes(content))
    print(f"{len(files)} files shipped to {target}")
    write_pages(pages, root)


def main() -> None:
    with one_line_errors():
        parser = Parser(__doc__)
        parser.add_argument("--model", default="generator", metavar="NAME",
                            help="whose results: the name that the scripts were given (default: %(default)s)")
        add_results_flag(parser)
        args = parser.parse_args()
        ship(model_folder(args.results, args.model))


if __name__ == "__main__":
    main()
