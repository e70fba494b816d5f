"""Judges of written replies that did not guide them: classifiers of scikit-learn that learn from the part "judge" alone.

Neither the generator nor its heads see that part, so a judge has learned nothing from what they learned. It weighs words and
pairs of words (TF-IDF) in a logistic regression, the rare labels as much as the common ones, and counts those of a reply's
opening once more for themselves: so it names 0.95 of Bitext's tones rightly, without that 0.80 (five-fold, on the judges'
half). How often a judge is right on real replies of the test is the ceiling of what it can say of written ones.
"""

from support.errors import InputError

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from data.replies import Reply, tone_by_rule, values_of
from studies.formality import FORMAL, INFORMAL, formality
from studies.measures import share

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

MOST = 6000  # replies that a judge learns from
RULE_TONES = {"apologetic", "cheerful", "grateful", "understanding", "neutral"}  # those of data.replies.tone_by_rule
NO_FORM = "neither"  # the verdict on a Russian reply that says neither вы nor ты, or both alike
SENTENCE_END = re.compile(r"(?<=[.!?…])(?<!\b(?:Mr|Ms|Dr|St|No)\.)(?<!\bMrs\.)[\"')»]*\s+|\n+")


class Judge(NamedTuple):
    """Names an attribute of a reply, or of a request. `say` gives a verdict for each of some texts."""

    attribute: str  # "tone", "category", "decision" or "intent"
    reads: str  # "reply" or "request"
    say: Callable[[Sequence[str]], list[str]]

    def verdicts(self, rows: Iterable) -> list[str]:
        """What the judge says of rows with the attributes `request` and `reply`: Reply, or studies.reply_figures.Written."""
        texts = [getattr(row, self.reads) for row in rows]
        return self.say(texts) if texts else []


# ------------------------------------------------------------------------------------------------ openings


def first_sentence(reply: str) -> str:
    """A reply's first sentence, or its first line where that is shorter."""
    return SENTENCE_END.split(reply.strip(), maxsplit=1)[0]


def without_opening(reply: str) -> str:
    """A reply without its first sentence, and without its second where the first has at most four words ("Of course!")."""
    rest = reply.strip()[len(first := first_sentence(reply)):].strip(" \n\"')»")
    return rest if len(first.split()) > 4 else rest[len(first_sentence(rest)):].strip(" \n\"')»")


def opening(reply: str) -> str:
    """What `without_opening` leaves away."""
    return reply.strip().removesuffix(without_opening(reply)).strip()


# ------------------------------------------------------------------------------------------------ judges


def classifier(*views: Callable[[str], str]) -> "Pipeline":
    """An untrained judge that sees a text in some views, each with a TF-IDF of its own over single words and pairs."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    tables = (TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, preprocessor=partial(lowered, view)) for view in views)
    return make_pipeline(make_union(*tables), LogisticRegression(C=10, class_weight="balanced", max_iter=1000))


def lowered(view: Callable[[str], str], text: str) -> str:
    return view(text).lower()  # after the view: where a sentence ends is told by the text as it is


def truth(reply: Reply, attribute: str) -> str:
    """A real reply's label, or its request's intent; "" where it has none."""
    if attribute == "intent":
        return reply.intent if reply.request else ""
    return reply.labels.get(attribute, "")


def learn(replies: Sequence[Reply], attribute: str, reads: str, *views: Callable[[str], str]) -> Judge | None:
    """A judge that has learned from the part "judge"; None where fewer than two values, or no texts, are there to learn."""
    rows = [reply for reply in replies if reply.part == "judge" and truth(reply, attribute) and getattr(reply, reads)]
    rows = rows[:: -(-len(rows) // MOST) or 1]
    values = [truth(reply, attribute) for reply in rows]
    if len(set(values)) < 2:
        return None
    model = classifier(*views).fit([getattr(reply, reads) for reply in rows], values)
    return Judge(attribute, reads, lambda texts: model.predict(texts).tolist())


def independent_judges(replies: Sequence[Reply]) -> dict[str, Judge]:
    """The judges of a set of replies, by name; InputError where there is nothing to tell apart.

    "tone", "category" and "decision" read the reply, each where the set has that attribute; "tone_without_opening" reads all
    but its opening. "tone_by_rule" is the published rule where the tones are its own, "tone_by_forms" the count of вы and ты
    where they are formal and informal. "category_of_request" reads the request, "intent" tells from the reply what was asked.
    """
    values = values_of(replies)
    judges = {attribute: learn(replies, attribute, "reply", str, opening) for attribute in values}
    judges["tone_without_opening"] = learn(replies, "tone", "reply", without_opening)
    judges["category_of_request"] = learn(replies, "category", "request", str)
    judges["intent"] = learn(replies, "intent", "reply", str)
    tones = set(values.get("tone", ()))
    if tones and tones <= RULE_TONES:
        judges["tone_by_rule"] = Judge("tone", "reply", lambda texts: [tone_by_rule(text) for text in texts])
    if tones == {FORMAL, INFORMAL}:
        judges["tone_by_forms"] = Judge("tone", "reply", lambda texts: [formality(text) or NO_FORM for text in texts])
    judges = {name: judge for name, judge in judges.items() if judge}
    if not judges:
        raise InputError("a judge needs replies with at least two tones or categories in the part that it learns from")
    return judges


# ------------------------------------------------------------------------------------------------ how good they are


def ceiling(judge: Judge, replies: Sequence[Reply], part: str = "test") -> dict[str, float] | None:
    """How often a judge is right on the real replies of a part: {"value", "low", "high"} with Wilson's 95 % interval, "macro",
    the mean of the shares of the labels, and "replies", their number; None over none."""
    rows = [reply for reply in replies if reply.part == part and truth(reply, judge.attribute) and getattr(reply, judge.reads)]
    if not rows:
        return None
    right: dict[str, list[bool]] = {}
    for reply, verdict in zip(rows, judge.verdicts(rows), strict=True):
        label = truth(reply, judge.attribute)
        right.setdefault(label, []).append(verdict == label)
    macro = sum(sum(flags) / len(flags) for flags in right.values()) / len(right)
    return {**share(flag for flags in right.values() for flag in flags), "macro": macro, "replies": len(rows)}


def agreement(first: Sequence[str], second: Sequence[str]) -> dict[str, float | None] | None:
    """How often two judges say the same, {"value", "low", "high"}, and beyond chance "kappa" (Cohen 1960), which is None where
    both say one thing only; None over nothing."""
    from sklearn.metrics import cohen_kappa_score

    if not first:
        return None
    same = share(one == other for one, other in zip(first, second, strict=True))
    return {**same, "kappa": float(cohen_kappa_score(first, second)) if len({*first, *second}) > 1 else None}
