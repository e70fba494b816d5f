"""Judges of replies: on replies of our own whose labels show in one word, against scikit-learn's own pipeline, and by hand."""

from support.errors import InputError

from types import SimpleNamespace

from data.replies import Reply
from studies.reply_judges import (
    agreement,
    ceiling,
    first_sentence,
    independent_judges,
    learn,
    opening,
    without_opening,
)

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

THINGS = ("lamp", "bin", "bus", "tax", "bench", "gate", "tree", "pipe")
WORDS = {"firm": "We decline", "friendly": "We love"}  # the tone shows in the opening alone


def reply(tone, thing, part="judge", category="roads"):
    """A reply whose opening shows the tone, and whose request the category."""
    return Reply(f"my {category} {thing}", f"{WORDS[tone]} to hear of the {thing}. The office will look at it on Monday.",
                 {"tone": tone, "category": category}, part, intent=f"ask_{category}")  # fmt: skip


def some(part="judge"):
    return [reply(tone, thing, part, category) for thing in THINGS for tone in WORDS for category in ("roads", "taxes")]


@pytest.mark.parametrize(("text", "first", "rest"), [
    ("We are sorry about the lamp. It will be mended.", "We are sorry about the lamp.", "It will be mended."),
    ("Of course! I will gladly help you. Go to the office.", "Of course!", "Go to the office."),
    ("Certainly!", "Certainly!", ""),
    ("Dear Ms. Gray from St. Anne Street, hello. Come in.", "Dear Ms. Gray from St. Anne Street, hello.", "Come in."),
    ("Here is what to do about it:\n\n1. Go there.\n2. Wait.", "Here is what to do about it:", "1. Go there.\n2. Wait."),
    ("", "", ""),
])  # fmt: skip
def test_an_opening_is_the_first_sentence_and_a_second_behind_a_short_one(text, first, rest):
    assert first_sentence(text) == first
    assert without_opening(text) == rest
    assert opening(text) + rest == text.replace(f" {rest}", rest).replace(f"\n\n{rest}", rest)


def test_a_judge_learns_from_its_own_part_alone():
    """The mistake: a judge that learned from what the generator learned from. Labels turned round elsewhere change nothing."""
    turned = [one._replace(labels={**one.labels, "tone": "firm" if one.labels["tone"] == "friendly" else "friendly"}, part=part)
              for one in some() for part in ("train", "validation", "test")]  # fmt: skip
    judge = independent_judges([*turned, *some()])["tone"]
    assert judge.verdicts([reply("firm", "road"), reply("friendly", "road")]) == ["firm", "friendly"]


def test_a_judge_of_whole_texts_is_scikit_learns_pipeline():
    rows = some()
    judge = learn(rows, "tone", "reply", str)
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
                          LogisticRegression(C=10, class_weight="balanced", max_iter=1000))  # fmt: skip
    model.fit([row.reply for row in rows], [row.labels["tone"] for row in rows])
    texts = ["We love the gate.", "decline decline", "to hear of it We", "nothing known"]
    assert judge.say(texts) == model.predict(texts).tolist()


def test_the_judge_without_the_opening_cannot_see_it():
    """The mistake: control that writes a stock opening and nothing else passes for control of the whole reply."""
    judges = independent_judges(some())
    pair = [reply("firm", "road"), reply("friendly", "road")]
    assert len(set(judges["tone"].verdicts(pair))) == 2
    assert len(set(judges["tone_without_opening"].verdicts(pair))) == 1


def test_the_category_is_judged_of_the_request_and_the_intent_of_the_reply():
    judges = independent_judges([one._replace(reply=f"{one.reply} {one.labels['category']}") for one in some()])
    rows = [SimpleNamespace(request=request, reply=reply) for request, reply in (
        ("a taxes thing", "The roads office."), ("roads", "taxes"))]  # fmt: skip
    assert judges["category_of_request"].verdicts(rows) == ["taxes", "roads"]
    assert judges["category"].verdicts(rows) == ["roads", "taxes"]
    assert judges["intent"].verdicts(rows) == ["ask_roads", "ask_taxes"]
    assert judges["intent"].verdicts([]) == []


def test_second_judges_of_the_tone_are_there_where_their_tones_are():
    assert not {"tone_by_rule", "tone_by_forms"} & independent_judges(some()).keys()
    bitext = [one._replace(labels={"tone": tone}) for one, tone in zip(some(), ["grateful", "neutral"] * 20, strict=False)]
    rule = independent_judges(bitext)["tone_by_rule"]
    assert rule.verdicts([SimpleNamespace(reply="Thank you for writing to us today.")]) == ["grateful"]
    russian = [one._replace(request="", labels={"tone": tone})
               for one, tone in zip(some(), ["formal", "informal"] * 20, strict=False)]  # fmt: skip
    judges = independent_judges(russian)
    forms = judges["tone_by_forms"]
    assert forms.verdicts([SimpleNamespace(reply=text) for text in ("Вы правы.", "Ты прав.", "Верно.")]) == [
        "formal", "informal", "neither"]  # fmt: skip
    assert not {"category_of_request", "intent"} & judges.keys(), "there is no request"


def test_nothing_to_tell_apart_is_refused():
    with pytest.raises(InputError, match="at least two tones or categories"):
        independent_judges([one._replace(labels={"tone": "firm"}, intent="") for one in some()])


def test_the_ceiling_counts_rare_labels_as_much_as_common_ones():
    """By hand: 3 of 3 firm and 0 of 1 friendly replies of the test are 0.75 of the replies and 0.5 of the labels."""
    judge = learn(some(), "tone", "reply", str)._replace(say=lambda texts: ["firm"] * len(texts))
    test = [reply(tone, "gate", "test") for tone in ("firm", "firm", "firm", "friendly")]
    found = ceiling(judge, [*some(), *test])
    assert (found["value"], found["macro"], found["replies"]) == (0.75, 0.5, 4)
    assert found["low"] < 0.75 < found["high"]
    assert ceiling(judge, some()) is None


def test_agreement_by_hand():
    """Cohen's kappa: 3 of 4 the same, by chance 1/2 * 3/4 + 1/2 * 1/4 = 1/2, so (3/4 - 1/2) / (1 - 1/2)."""
    found = agreement(["a", "a", "b", "b"], ["a", "a", "b", "a"])
    assert found["value"] == 0.75
    assert found["kappa"] == pytest.approx(0.5)
    assert agreement(["a"], ["a"])["kappa"] is None and agreement([], []) is None
