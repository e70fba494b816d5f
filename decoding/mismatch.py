"""What is done where a reply is judged not to be as it was asked: steps, which run in the order in which they are named.

    case = Case("My street is dark", {"tone": "firm"})
    answer(case, Ways(replier, ["retry", "tell"]), {"guidance": 1.0, "seed": 0, "temperature": 0.7, "top_p": 0.95, ...})
    case.kept()      # the replies; case.notes: what the user is to be told

Nothing here knows how a reply is written or judged: a `Replier` (replier.py) does both.
"""

from support.errors import InputError, first_line

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data.replies import Reply, safe_reply
from support.files import writing
from support.terminal import note

if TYPE_CHECKING:
    from replier import Replier, Written

HOTTEST, NARROWEST, MOST_GUIDED = 1.2, 0.8, 4.0  # where retries end: beyond them a text falls apart before it is as asked
ADVICE = {
    "tone": "say it in a sentence or two, about one matter, or choose more --candidates or --guidance",
    "category": "name the thing that it is about, or choose another --category",
    "decision": "ask for one thing that can be granted or refused, or leave --decision out",
}


class Ways(NamedTuple):
    """What there is to go on with: who writes and judges, which steps, how many retries, where misses are logged, and the
    replies among which safe answers are (None: the built-in ones)."""

    replier: "Replier"
    steps: Sequence[str]
    tries: int = 3
    log: Path = Path("runs/missed_replies.jsonl")
    replies: list[Reply] | None = None


class Attempt(NamedTuple):
    """A reply that was written in try `number`, from 1, and the attributes in which it is judged not to be as asked."""

    written: "Written"
    missed: list[str]
    number: int
    settings: dict[str, Any]

    def worth(self) -> tuple[int, float]:
        """Greater for a reply that misses less: fewer attributes, or with less certainty."""
        return -len(self.missed), -sum(self.written.probs[attribute] for attribute in self.missed)

    def judged(self) -> dict[str, dict[str, Any]]:
        """What the heads say of it: {"tone": {"value": "firm", "probability": 0.98}}."""
        return {attribute: {"value": value, "probability": round(self.written.probs[attribute], 4)}
                for attribute, value in self.written.judged.items()}


@dataclass
class Case:
    """A request, the labels asked for its `num` replies, and what has been written and said so far."""

    request: str
    asked: dict[str, str]
    num: int = 1
    attempts: list[Attempt] = field(default_factory=list)
    safe: Attempt | None = None  # the safe answer, where it stands for what missed
    notes: list[str] = field(default_factory=list)

    def attempt(self, written: "Written", number: int, settings: dict[str, Any]) -> Attempt:
        missed = [attribute for attribute, value in self.asked.items() if written.judged.get(attribute, value) != value]
        return Attempt(written, missed, number, settings)

    def hits(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if not attempt.missed]

    def misses(self) -> list[Attempt]:
        """What missed least comes first."""
        return sorted((attempt for attempt in self.attempts if attempt.missed), key=Attempt.worth, reverse=True)

    def lacking(self) -> int:
        """How many replies are not yet as asked."""
        return self.num - len(self.hits())

    def kept(self) -> list[Attempt]:
        """The replies: those that are as asked; in the place of the others the safe answer, or what missed least."""
        return [*self.hits(), *([self.safe] if self.safe else self.misses())][: self.num]

    def tries(self) -> int:
        return max(attempt.number for attempt in self.attempts)

    def why(self, kept: Attempt) -> str:
        """Why a reply is kept."""
        if kept is self.safe:
            return f"the safe answer: {counted(self.tries())} missed"
        if kept.missed:
            return f"it missed least in {counted(self.tries())}"
        if not self.asked:
            return "nothing was asked of it"
        return f"try {kept.number} is as asked" if kept.written.judged else "the model has no heads that could judge it"

    def described(self, attempt: Attempt) -> str:
        """What a reply missed, in words."""
        return " and ".join(
            f"{attribute} {self.asked[attribute]} (judged to be {attempt.written.judged[attribute]}, "
            f"{attempt.written.probs[attribute]:.2f})" for attribute in attempt.missed)


def counted(tries: int) -> str:
    return "1 try" if tries == 1 else f"{tries} tries"


def answer(case: Case, ways: Ways, settings: dict[str, Any]) -> None:
    """Write the replies of a case, and take the steps. `settings` are those of `Replier.write` but num, with a seed."""
    write(case, ways, 1, settings)
    if len(case.attempts) < case.num:
        case.notes.append(f"of {case.num} replies there are {len(case.attempts)}: where nothing is drawn, no more are written")
        case.num = len(case.attempts)
    for step in ways.steps:
        STEPS[step](case, ways)


def write(case: Case, ways: Ways, number: int, settings: dict[str, Any]) -> None:
    """Try `number`: as many replies as are lacking."""
    written = ways.replier.write(case.request, case.asked, num=case.lacking(), **settings)
    case.attempts += [case.attempt(one, number, settings) for one in written]


# -------------------------------------------------------------------------------------------------------------- the steps


def retry(case: Case, ways: Ways) -> None:
    """Write again what is lacking, at most `tries` times."""
    first = case.attempts[0].settings
    for again in range(1, ways.tries + 1):
        if not case.lacking():
            return
        write(case, ways, again + 1, changed(first, again))


def changed(settings: dict[str, Any], again: int) -> dict[str, Any]:
    """The settings of a retry, from 1. The first has another seed alone, where anything is drawn; the others have more
    guidance, too, and draw hotter from a smaller nucleus."""
    drawn = settings["temperature"] > 0
    times = again - drawn
    new = settings | {"seed": (settings["seed"] + again) % 2**63,
                      "guidance": max(settings["guidance"], min(settings["guidance"] + times, MOST_GUIDED))}  # fmt: skip
    if drawn:
        new["temperature"] = max(settings["temperature"], min(settings["temperature"] * 1.2**times, HOTTEST))
    if settings["top_p"] < 1:
        new["top_p"] = min(settings["top_p"], max(settings["top_p"] - 0.05 * times, NARROWEST))
    return new


def log(case: Case, ways: Ways) -> None:
    """A warning, and every miss so far as a line of the file, also where a later try is as asked: it is to be learned from."""
    misses = case.misses()
    if not misses:
        return
    entries = [{"request": case.request, "asked": case.asked, "judged": miss.written.judged, "probs": miss.written.probs,
                "text": miss.written.text, "settings": miss.settings} for miss in misses]  # fmt: skip
    with writing(ways.log), ways.log.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))
    note(f"warning: {len(misses)} of {len(case.attempts)} written missed {case.described(misses[0])}; logged in {ways.log}")


def default(case: Case, ways: Ways) -> None:
    """A safe answer in the place of what missed."""
    if not case.lacking():
        return
    try:
        text = safe_reply(case.asked, ways.replies)
    except InputError as error:  # a set need not have one for every category
        case.notes.append(f"there is no safe answer: {first_line(error)}")
        return
    judged = ways.replier.judge(text)
    written = case.attempts[0].written._replace(
        text=text, token_ids=[], judged={name: value for name, (value, _) in judged.items()},
        probs={name: prob for name, (_, prob) in judged.items()})
    case.safe = case.attempt(written, 0, {})


def tell(case: Case, ways: Ways) -> None:
    """Say what could not be done, and how to ask instead."""
    if not case.lacking():
        return
    best = case.misses()[0]
    which = "the reply" if case.num == 1 else f"{case.lacking()} of {case.num} replies"
    instead = ", so that a safe answer stands in its place" if case.safe else ""
    advice = "; ".join(ADVICE[attribute] for attribute in best.missed)
    case.notes.append(f"{which} missed {case.described(best)} in {counted(case.tries())}{instead}. What may help: {advice}")


STEPS: dict[str, Callable[[Case, Ways], None]] = {"retry": retry, "log": log, "default": default, "tell": tell}
