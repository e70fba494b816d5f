"""What is asked of models that write replies: held-out requests, and the labels that a reply to each must show.

    tones       each request with each tone, its category as it is: a tone may fit the real reply or differ from it
    against     each request with a category that it is not about
    alone       the category of each request, without the request
    decisions   each request with each decision that its category knows

Cases come in the order of the requests, so that those of fewer requests are the first of those of more.
"""

from support.errors import InputError

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from data.replies import Reply, safe_reply, values_of
from studies.reply_figures import Written, references_of

if TYPE_CHECKING:
    from replier import Replier

COLUMNS = ("tones", "against", "alone", "decisions")
REAL, SAFE = "real", "safe"  # the rows beside those of models


class Case(NamedTuple):
    """Labels asked of the reply to a request, "" for none; `real` is a reply that has them, or one to the same request."""

    number: int  # among those of its column
    request: str
    asked: dict[str, str]
    real: Reply
    references: tuple[str, ...]  # the real reply and others of its intent

    @property
    def fits(self) -> bool:
        """Whether the real reply has all labels that are asked."""
        return self.asked.items() <= self.real.labels.items()


def held_out(replies: Sequence[Reply]) -> list[Reply]:
    """The replies of the part "test" by the hash of request and reply, whatever their order in the file.

    Raises InputError where there are none.
    """
    tests = [reply for reply in replies if reply.part == "test"]
    if not tests:
        raise InputError("the replies have no part to judge on: more of them are needed")
    return sorted(tests, key=lambda reply: hashlib.sha256(f"{reply.request}\n{reply.reply}".encode()).digest())


def cases_of(replies: Sequence[Reply], most: int | None = None) -> dict[str, list[Case]]:
    """The cases of each of COLUMNS, of the first `most` held-out replies; a set without categories or decisions has none in
    theirs. Raises InputError as `held_out` does."""
    tests, values, found = held_out(replies), values_of(replies), {column: [] for column in COLUMNS}
    decided = {(reply.labels.get("category"), reply.labels.get("decision")) for reply in replies}
    for place, (real, references) in enumerate(list(zip(tests, references_of(tests), strict=True))[:most]):
        category = {name: value for name, value in real.labels.items() if name == "category" and real.request}
        others = [other for other in values.get("category", ()) if category and other != category["category"]]
        asked = {
            "tones": [(real.request, {"tone": tone, **category}) for tone in values["tone"]],
            "against": [(real.request, {"category": others[place % len(others)]})] if others else [],
            "alone": [("", category)] if category else [],
            "decisions": [(real.request, {"tone": real.labels["tone"], **category, "decision": decision})
                          for decision in values.get("decision", ()) if (category.get("category"), decision) in decided],
        }
        for column, pairs in asked.items():
            for request, labels in pairs:
                found[column].append(Case(len(found[column]), request, labels, real, references))
    return found


def written(cases: Sequence[Case], records: Sequence[dict], real: bool = False) -> list[Written]:
    """Cases with what was written to the first of them, as the figures take it; `real`: the real replies themselves.

    References go with replies that were asked to be as the real one: against others a reply that does as it is told would seem
    worse. The real one is none of its own.
    """
    return [Written(case.request, record["reply"], case.asked, case.real.labels, case.real.intent,
                    case.references[real:] if case.request and case.fits else (), record["ended"])
            for case, record in zip(cases, records, strict=False)]  # fmt: skip


# ------------------------------------------------------------------------------------------------ who writes

Write = Callable[[Sequence[Case]], list[dict]]


def write_real(cases: Sequence[Case]) -> list[dict]:
    """The real reply to each request: what a judge says of it is the ceiling."""
    return [record(case.real.reply) for case in cases]


def write_safe(replies: Sequence[Reply] | None, cases: Sequence[Case]) -> list[dict]:
    """The safe reply of the labels asked, which knows nothing of the request; built-in ones where no replies are given."""
    return [record(safe_reply(case.asked, replies)) for case in cases]


def record(reply: str, ended: bool = True, judged: dict[str, str] | None = None) -> dict:
    """A reply as it is kept: its text, whether it ended by itself, and what the heads that may have chosen it say of it."""
    return {"reply": reply, "ended": ended, "judged": judged or {}}


class Author(NamedTuple):
    """A model that writes with some settings, those of `Replier.write_many`."""

    replier: "Replier"
    settings: dict

    def __call__(self, cases: Sequence[Case]) -> list[dict]:
        """A record of each case. Labels that the model has not are not asked of it; equal cases are written to with different
        seeds, in rounds."""
        asked = [(case.request, known_labels(self.replier, case.asked)) for case in cases]
        rounds = [asked[:place].count(one) for place, one in enumerate(asked)]
        texts, eos_ids = {}, self.replier.loaded.eos_ids
        for number in range(max(rounds) + 1):
            places = [place for place, of in enumerate(rounds) if of == number]
            settings = {**self.settings, "seed": self.settings["seed"] + cases[0].number + number}
            texts |= zip(places, self.replier.write_many([asked[place] for place in places], **settings), strict=True)
        return [record(text.text, text.token_ids[-1] in eos_ids, text.judged) for _, text in sorted(texts.items())]


def known_labels(replier: "Replier", labels: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if name in replier.labels.values}
