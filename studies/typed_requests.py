"""Answer requests as people type them, and count: category read right, reply judged right, others answered honestly, tone.

    python -m studies.typed_requests
    python -m studies.typed_requests --model runs/replies --replies replies.jsonl

The requests are a file of one JSON object a line, {"request": ..., "category": ...}, "none" for those that are about none of
the model's categories. They were written by people who had not seen the templates, and whoever writes templates does not read
them: printed are totals alone. The category is read from the request by the model, as reply.py does without --category; the
tones asked take turns. What the reply is about and its tone are said by judges that guided no model. With --replies the replies
are written to a file, to be judged one by one. Writes results/replies/typed.json.
"""

from support.errors import ROOT, InputError, one_line_errors

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data.replies import citizen_replies
from replier import Replier
from studies.measures import share
from studies.reply_judges import Judge, independent_judges
from support.files import check_writable, write_text
from support.flags import COUNT, RULES, Parser, add_results_flag, number, some_name, some_path
from support.results import run_facts, write_json

REQUESTS = ROOT / "data" / "replies" / "typed_requests.jsonl"
NONE = "none"  # the category of a request about none of the others, and of an honest answer
LETTERS = 15_000  # of the built-in writer, for the judges


class Typed(NamedTuple):
    """A request as it was typed, and what it is about."""

    request: str
    category: str


class Answer(NamedTuple):
    """What became of a request. `judged` is what independent judges say of the reply."""

    typed: Typed
    read: str  # the category that the model read from the request
    tone: str  # asked for
    reply: str
    judged: dict[str, str]


def read_typed(path: Path) -> list[Typed]:
    """The requests of a file. Raises InputError, which quotes none of them, for one that is missing, broken or empty."""
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
        typed = [Typed(line["request"], line["category"]) for line in lines]
    except OSError as error:
        raise InputError(f"there is no file {path}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f'{path} must hold a line of {{"request": ..., "category": ...}} for each request') from error
    if not typed:
        raise InputError(f"{path} holds no requests")
    return typed


def check_typed(typed: Sequence[Typed], replier: Replier) -> None:
    """Raises InputError where a category is none of the model's, or the model reads none from a request."""
    known = replier.labels.values.get("category", ())
    unknown = sorted({one.category for one in typed} - {*known})
    if unknown:
        raise InputError(f"the model has no category {unknown[0]!r}: it has {', '.join(known) or 'none at all'}")
    if not replier.category_of(typed[0].request)[0]:
        raise InputError("the model has no head that reads the category from a request: train one with --heads joint")


def answered(typed: Sequence[Typed], replier: Replier, judges: dict[str, Judge], settings: dict) -> list[Answer]:
    """An answer to each request: its category as the model reads it, the tones in turn."""
    tones = replier.labels.values["tone"]
    asked = [(one.request, {"tone": tones[place % len(tones)], "category": replier.category_of(one.request)[0]})
             for place, one in enumerate(typed)]
    replies = [written.text for written in replier.write_many(asked, **settings)]
    said = {name: judges[name].say(replies) for name in ("category", "tone")}
    return [Answer(one, labels["category"], labels["tone"], reply, {name: verdicts[place] for name, verdicts in said.items()})
            for place, (one, (_, labels), reply) in enumerate(zip(typed, asked, replies, strict=True))]


def totals(answers: Sequence[Answer]) -> dict[str, dict]:
    """Shares with their intervals, "right" and "of": of requests about a category how often it was "category_read" and is the
    one of the "reply"; of the "others" how often they were read as such and their reply is judged to be an honest one; of all,
    the "tone"."""
    about = [answer for answer in answers if answer.typed.category != NONE]
    others = [answer for answer in answers if answer.typed.category == NONE]
    flags = {
        "category_read": [answer.read == answer.typed.category for answer in about],
        "reply": [answer.judged["category"] == answer.typed.category for answer in about],
        "others": [answer.read == answer.judged["category"] == NONE for answer in others],
        "tone": [answer.judged["tone"] == answer.tone for answer in answers],
    }
    return {name: {**share(some), "right": sum(some), "of": len(some)} for name, some in flags.items() if some}


def to_judge(answers: Sequence[Answer]) -> str:
    """The answers as JSON, one a line, for whoever judges them one by one."""
    return "".join(json.dumps({"request": answer.typed.request, "category": answer.typed.category, "tone": answer.tone,
                               "category_read": answer.read, "reply": answer.reply}, ensure_ascii=False) + "\n"
                   for answer in answers)  # fmt: skip


def main() -> None:
    with one_line_errors():
        parser = Parser(__doc__)
        parser.add_argument("--model", type=some_path, default=ROOT / "checkpoint_replies", metavar="FOLDER",
                            help="what train_replies.py wrote, on the built-in letters (default: %(default)s)")
        parser.add_argument("--requests", type=some_path, default=REQUESTS, metavar="FILE", help="(default: %(default)s)")
        parser.add_argument("--replies", type=some_path, metavar="FILE", help="write requests and replies there")
        parser.add_argument("--guidance", type=number(RULES["guidance"]), default=1.0, metavar="N",
                            help=f"{RULES['guidance'].words} (default: %(default)s)")
        parser.add_argument("--candidates", type=number(COUNT), default=1, metavar="N",
                            help="the best of so many, by the model's heads (default: %(default)s)")
        parser.add_argument("--seed", type=number(RULES["seed"]), default=0, metavar="N", help="(default: %(default)s)")
        parser.add_argument("--name", type=some_name, default="replies", metavar="NAME",
                            help="the folder in --results (default: %(default)s)")
        add_results_flag(parser)
        args = parser.parse_args()
        path = args.results / args.name / "typed.json"
        check_writable(path.parent)
        typed, replier = read_typed(args.requests), Replier.load(args.model)
        check_typed(typed, replier)
        settings = {"guidance": args.guidance, "candidates": args.candidates, "seed": args.seed}
        answers = answered(typed, replier, independent_judges(citizen_replies(LETTERS)), settings)
        found = totals(answers)
        if args.replies:
            write_text(args.replies, to_judge(answers))
        facts = {**run_facts("cpu", "float32"), "model": replier.loaded.identity, "settings": settings}
        write_json(path, {**facts, "totals": found})
        for name, figure in found.items():
            print(f"{name.replace('_', ' ')}: {figure['right']} of {figure['of']}, "
                  f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})")


if __name__ == "__main__":
    main()
