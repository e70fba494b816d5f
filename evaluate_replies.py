"""Compare models that write replies with a wanted tone and category, by judges that guided none of them.

    python evaluate_replies.py --models token=runs/token token-g2=runs/token token-n8=runs/token      # the built-in letters
    python evaluate_replies.py --text replies.csv --models none=runs/none token=runs/token --other smollm2

A row NAME-gX is written with guidance X, NAME-nY is the best of Y candidates by the model's own heads; both may be there.
Beside the models stand the real replies, of which the judges are as sure as they can be, and the safe reply of the labels
asked, which knows nothing of the request. --text is what the models were trained on: requests of its test part are answered,
and the judges learn from the part that neither generator nor heads saw. The requests are taken in the order of their hashes, so
the first 60 are the same for every model. Replies are kept in results/replies/rows as they are written, so that an interrupted
evaluation goes on, and a later one adds rows; evaluation.json and .md beside that hold the figures.
"""

from support.errors import InputError, one_line_errors

import argparse
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data.replies import Reply, citizen_replies, read_replies
from models.control_folder import read_settings
from replier import Replier
from studies.reply_cases import REAL, SAFE, write_real, write_safe
from studies.reply_evaluator import REQUESTS, SETTINGS, Evaluator, Row
from studies.reply_surprises import open_reader
from studies.reply_tables import page
from studies.row_file import RowFile, read_rows
from support.files import check_writable, write_text
from support.flags import COUNT, DTYPES, RULES, Parser, add_results_flag, checked, number, some_name, some_path, some_text
from support.results import run_facts, write_json

LETTERS = 15_000  # of the built-in writer: some 6,000 for the judges to learn from, 1,500 to answer
NAME = re.compile(r"(\w[\w.]*(?:-(?!g[\d.]|n\d)\w[\w.]*)*)(?:-g(\d[\d.]*))?(?:-n(\d+))?")


class Asked(NamedTuple):
    """A row of --models: its name, the same without settings, and these."""

    name: str
    base: str
    folder: Path
    guidance: float
    candidates: int


def asked_row(text: str) -> Asked:
    """An argparse type: NAME=FOLDER, where NAME may end with -gX, -nY or -gX-nY."""
    name, _, folder = text.partition("=")
    match = NAME.fullmatch(name)
    if not match or not folder.strip():
        raise argparse.ArgumentTypeError(f"must be NAME=FOLDER, as token-g2-n8=runs/token, not {text!r}")
    if name in (REAL, SAFE):
        raise argparse.ArgumentTypeError(f"{name} is taken: choose another name")
    try:
        guidance, candidates = checked(RULES["guidance"], match[2] or "1"), checked(COUNT, match[3] or "1")
    except InputError as error:
        raise argparse.ArgumentTypeError(f"{name}: guidance and candidates {error}") from error
    return Asked(name, match[1], Path(folder), guidance, candidates)


def rows_of(asked: list[Asked], replies: list[Reply], built_in: bool, settings: dict, device: str,
            dtype: str) -> Iterator[tuple[dict, Row]]:  # fmt: skip
    """What tells a row from others, and the row, ready to be measured; rows of one folder that follow each other open it once.

    Replies of which none has a safe one beside it have no such row.
    """
    data = {"name": "the replies themselves"}
    yield {"row": REAL, "base": REAL, "guidance": None, "candidates": None}, Row(data, write_real, fitting=True)
    if built_in or any(reply.default for reply in replies):
        write = partial(write_safe, None if built_in else replies)
        yield {"row": SAFE, "base": SAFE, "guidance": None, "candidates": None}, Row(data, write)
    opened, replier = None, None
    for row in asked:
        if row.folder != opened:
            opened, replier = row.folder, Replier.load(row.folder, device, dtype)
        header = {"row": row.name, "base": row.base, "guidance": row.guidance, "candidates": row.candidates}
        yield header, Row.of(replier, row.guidance, row.candidates, **settings)


def summary_of(content: dict, evaluator: Evaluator) -> dict:
    """A row's line: what it is, and its figures, of its records."""
    facts = {name: content[name] for name in ("model", "base", "guidance", "candidates")}
    return {**facts, "parameters": content["model"].get("parameters"), "figures": evaluator.figures(content)}


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--models", type=asked_row, nargs="+", default=[], metavar="NAME=FOLDER",
                        help="a row and the folder of its model, which train_replies.py wrote")
    parser.add_argument("--text", type=some_path, metavar="FILE",
                        help="what the models were trained on: a CSV with requests and replies, or with formal and informal "
                             "sentences (default: the built-in letters)")
    parser.add_argument("--other", type=some_text, metavar="NAME",
                        help="a model by which the written replies have a perplexity: a folder, smollm2, ...")
    parser.add_argument("--num-requests", type=number(COUNT), default=REQUESTS, metavar="N",
                        help="requests to answer, each with every tone (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=number(COUNT), default=SETTINGS["max_new_tokens"], metavar="N",
                        help="where a reply is cut (default: %(default)s)")
    for name in ("temperature", "top_p", "seed"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=number(RULES[name]), default=SETTINGS[name], metavar="N",
                            help=f"{RULES[name].words} (default: %(default)s)")
    parser.add_argument("--name", type=some_name, default="replies", metavar="NAME",
                        help="the folder in --results: another for other replies or settings (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: %(default)s)")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="(default: %(default)s)")
    add_results_flag(parser)
    return parser.parse_args()


def main() -> None:
    with one_line_errors():
        args = parse_arguments()
        folder = args.results / args.name
        check_writable(folder / "rows")
        if len({row.name for row in args.models}) < len(args.models):
            raise InputError("two rows have one name")
        for row in args.models:  # what is missing is better known before the work
            read_settings(row.folder)
        settings = {name: getattr(args, name) for name in SETTINGS}
        replies = citizen_replies(LETTERS) if args.text is None else read_replies(args.text)
        other = open_reader(args.other, args.max_new_tokens, args.device, args.dtype) if args.other else None
        evaluator, names = Evaluator(replies, args.num_requests, other), []
        facts = {"replies": evaluator.identity, "settings": settings}
        for header, row in rows_of(args.models, replies, args.text is None, settings, args.device, args.dtype):
            names.append(header["row"])
            file = RowFile(folder / "rows" / f"{header['row']}.json", {**header, "model": row.identity, **facts}, "reply")
            file.content |= run_facts(args.device, args.dtype)
            evaluator.measure(row, file)
        contents = read_rows(folder / "rows", names, facts, "seconds")
        summary = {**run_facts(args.device, args.dtype), **facts, "num_requests": len(evaluator.tests),
                   "other": other and other.loaded.identity, "judges": evaluator.judged(),
                   "rows": {name: summary_of(content, evaluator) for name, content in contents.items()}}
        write_json(folder / "evaluation.json", summary)
        write_text(folder / "evaluation.md", page(summary))
        print(page(summary))


if __name__ == "__main__":
    main()
