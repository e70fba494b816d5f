"""The figures of written replies: against scikit-learn, sacrebleu, rouge-score and nltk, on examples, and by hand."""

import json
import random

from data.replies import Reply
from studies.reply_figures import (
    METEOR,
    Written,
    bleu_and_chrf,
    control,
    distinct_2,
    known_placeholders,
    macro_accuracy,
    matrix,
    mean_of,
    openings,
    overlap,
    placeholders,
    references_of,
    reply_figures,
    rouge_and_meteor,
    sides,
)
from studies.reply_judges import Judge

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import balanced_accuracy_score, confusion_matrix


def written(reply="", asked="firm", real="firm", request="a lamp", **others):
    return Written(request, reply, {"tone": asked}, {"tone": real} if real else {}, **others)


# ------------------------------------------------------------------------------------------------ labels


def test_macro_accuracy_and_matrix_are_scikit_learns():
    rng = random.Random(1)
    asked = rng.choices("abc", (8, 3, 1), k=200)
    got = [want if rng.random() < 0.7 else rng.choice("abcd") for want in asked]
    found = macro_accuracy(asked, got, [str(number // 4) for number in range(200)])
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert found["value"] == pytest.approx(balanced_accuracy_score(asked, got))
    assert found["low"] < found["value"] < found["high"]
    assert matrix(asked, got) == {"asked": [*"abc"], "got": [*"abcd"],
                                  "counts": confusion_matrix(asked, got, labels=[*"abcd"])[:3].tolist()}  # fmt: skip


def test_replies_to_one_request_are_no_independent_cases():
    """The mistake: intervals over replies. Each reply counted five times, as five tones of one request, is no more certain;
    told apart, as if of five requests, it seems so."""
    asked, got = ["a"] * 40, ["a"] * 30 + ["b"] * 10
    once = macro_accuracy(asked, got, range(40))
    assert macro_accuracy(asked * 5, got * 5, [*range(40)] * 5) == pytest.approx(once)
    apart = macro_accuracy(asked * 5, got * 5, range(200))
    assert apart["high"] - apart["low"] < 0.6 * (once["high"] - once["low"])
    assert once["low"] == pytest.approx(0.75 - 1.96 * (0.75 * 0.25 / 40) ** 0.5, abs=0.03)  # the normal approximation
    assert macro_accuracy([], [], []) is None


def test_a_mean_over_requests_weighs_their_replies():
    assert mean_of([1, 0, 0, 0], ["x", "y", "y", "y"])["value"] == 0.25
    assert mean_of([], []) is None


def test_labels_that_fit_the_real_reply_are_told_from_those_that_do_not():
    """By hand. The mistake: one figure over both, to which a model without control adds what the request tells anyway."""
    rows = [written(asked="firm", real="firm"), written(asked="friendly", real="firm"), written(asked="firm", request=""),
            written(asked="friendly", real="friendly", request="a bin"), written(asked="firm", real="", request="a bus"),
            written(asked="firm", real="friendly")._replace(asked={"category": "roads"}), written(asked="any")]  # fmt: skip
    assert sides(rows, "tone") == {"fits": [0, 3], "differs": [1], "alone": [2, 4]}
    found = control(rows, "tone", ["firm", "firm", "firm", "friendly", "friendly", "firm", "firm"])
    shares = {name: found[name]["value"] for name in ("all", "fits", "differs", "alone", "real_instead")}
    assert shares == {"all": pytest.approx((2 / 3 + 1 / 2) / 2), "fits": 1, "differs": 0, "alone": 0.5, "real_instead": 1}
    assert found["matrix"]["counts"] == [[2, 1], [1, 1]]
    nothing = control(rows[:1], "category", ["roads"])
    assert nothing["all"] is None and nothing["matrix"]["counts"] == []


# ------------------------------------------------------------------------------------------------ against real replies

DOGS = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
TWO_EACH = [("The dog bit the man.", "The dog had bit the man."), ("It was not unexpected.", "No one was surprised."),
            ("The man bit him first.", "The man had bitten the dog.")]  # fmt: skip


def test_bleu_and_chrf_are_those_of_sacrebleus_manual():
    """The example of its README, and the figures printed there."""
    found = bleu_and_chrf(DOGS, TWO_EACH)
    assert found["BLEU"]["value"] == pytest.approx(48.53, abs=0.005)
    assert found["chrF"]["value"] == pytest.approx(59.73, abs=0.005)
    assert found["BLEU"]["signature"].startswith("nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert found["chrF"]["signature"].startswith("nrefs:2|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


def test_replies_may_have_different_numbers_of_references():
    fewer = [TWO_EACH[0], TWO_EACH[1][:1], TWO_EACH[2]]
    assert bleu_and_chrf(DOGS, fewer)["BLEU"]["signature"].startswith("nrefs:var|")
    assert bleu_and_chrf(DOGS, [*fewer[:1], fewer[1] * 2, *fewer[2:]])["BLEU"]["value"] == pytest.approx(
        bleu_and_chrf(DOGS, fewer)["BLEU"]["value"])  # fmt: skip


def test_rouge_is_rouge_scores_of_the_best_reference():
    found = rouge_and_meteor(DOGS, TWO_EACH)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for name, key in (("ROUGE-1", "rouge1"), ("ROUGE-2", "rouge2"), ("ROUGE-L", "rougeL")):
        best = [max(scorer.score(reference, reply)[key].fmeasure for reference in references)
                for reply, references in zip(DOGS[::2], TWO_EACH[::2], strict=True)]  # fmt: skip
        assert found[name][::2] == pytest.approx(best)


def test_rouge_reads_russian():
    """The mistake: rouge-score's own splitter keeps a to z alone, so that every Russian text scores nothing."""
    text = "Фонарь починят в среду."
    assert RougeScorer(["rouge1"]).score(text, text)["rouge1"].fmeasure == 0
    assert rouge_and_meteor([text], [(text,)])["ROUGE-1"] == [1]


@pytest.mark.parametrize(("reply", "references", "score"), [
    ("The lamp is out", ("the lamp is out!",), 1 - 0.5 * (1 / 4) ** 3),  # four words in one piece
    ("lamps", ("nothing", "lamp"), 0.5),  # by its stem, of the better reference; one word is one piece, so half is taken away
    ("car", ("automobile",), 0),  # WordNet would pair them
    ("", ("lamp",), 0),
    ("out is", ("is out",), 1 - 0.5),  # two words in two pieces
])  # fmt: skip
def test_meteor_pairs_words_and_stems_but_no_synonyms(reply, references, score):
    """By hand from Lavie and Agarwal 2007: F times 1 - 0.5 (pieces / words)^3. The mistake: a METEOR without WordNet called
    METEOR alone."""
    assert rouge_and_meteor([reply], [references])[METEOR] == [pytest.approx(score)]
    assert METEOR == "METEOR (exact + stem)"


def test_overlap_leaves_out_what_has_no_reference():
    rows = [written(reply, references=some, request=reply) for reply, some in zip(DOGS, TWO_EACH, strict=True)]
    assert overlap([*rows, written("Whatever.")]) == overlap(rows)
    assert overlap(rows)["BLEU"] == bleu_and_chrf(DOGS, TWO_EACH)["BLEU"]
    assert overlap([written("Whatever.")]) == {}


def test_references_are_the_real_reply_and_others_of_its_intent():
    texts = (("a", "x"), ("b", "y"), ("c", "x"), ("d", ""), ("e", ""), ("a", "x"), ("f", "x"))
    replies = [Reply("", text, {}, "test", intent) for text, intent in texts]
    assert references_of(replies, most=2) == [("a", "c"), ("b",), ("c", "a"), ("d",), ("e",), ("a", "c"), ("f", "a")]


# ------------------------------------------------------------------------------------------------ variety and contents


def test_openings_are_counted_in_a_hundred_replies_of_each_tone():
    rows = [written(f"We are sorry about lamp {number % 7}. Bye {number}.") for number in range(100)]
    rows += [written("Past the hundred."), written("Hello there! Bye.", asked="friendly")]
    assert openings(rows) == {"firm": {"replies": 100, "openings": 7, "beginnings": 1},
                              "friendly": {"replies": 1, "openings": 1, "beginnings": 1}}  # fmt: skip


def test_distinct_2_counts_all_replies_together():
    assert distinct_2(["a b c", "a b"]) == 2 / 3
    assert distinct_2(["a"]) == 0


@pytest.mark.parametrize(("reply", "ended", "intact", "number"), [
    ("Take {{Order Number}} to {{City}}.", True, 2, 2),
    ("Take {{Order Number}.", True, 0, 1),
    ("Take {Order Number}} and {City}.", True, 0, 2),
    ("Take {{{City}}} or {{City}}}.", True, 0, 2),
    ("Take {{Odour Number}}.", True, 0, 1),
    ("Take {{City}} and }}.", True, 1, 2),
    ("Take {{City}} and {{Ord", True, 1, 2),
    ("Take {{City}} and {{Ord", False, 1, 1),
    ("Take {{City}} and {{City}", False, 1, 1),
    ("Take {{Ord to {{City}}", False, 1, 2),
])  # fmt: skip
def test_placeholders_are_intact_if_well_formed_and_known(reply, ended, intact, number):
    known = known_placeholders([Reply("where is {{Order Number}}", "In {{City}}, {here}.", {}, "train")])
    assert known == {"{{Order Number}}", "{{City}}"}
    found = placeholders([written(reply, ended=ended)], known)
    assert (found["value"], found["written"]) == (pytest.approx(intact / number), number)


def test_no_placeholders_are_no_share():
    assert placeholders([written("None at all.")], {"{{City}}"}) is None


def test_all_figures_of_replies_are_ready_for_json():
    rows = [written("We decline. Go {{City}}.", intent="go", references=("We decline. Go.",)),
            written("We love it.", "friendly", intent="go", references=("We decline. Go.",))]  # fmt: skip
    judges = {name: Judge(attribute, reads, say) for name, attribute, reads, say in (
        ("tone", "tone", "reply", lambda texts: ["friendly" if "love" in text else "firm" for text in texts]),
        ("tone_by_rule", "tone", "reply", lambda texts: ["firm"] * len(texts)),
        ("category_of_request", "category", "request", lambda texts: ["roads"] * len(texts)),
        ("intent", "intent", "reply", lambda texts: ["go" if "Go" in text else "stay" for text in texts]))}  # fmt: skip
    found = json.loads(json.dumps(reply_figures(rows, judges, {"{{City}}"}), allow_nan=False))
    assert found["control"].keys() == {"tone", "tone_by_rule"}
    assert (found["control"]["tone"]["all"]["value"], found["control"]["tone_by_rule"]["all"]["value"]) == (1, 0.5)
    assert found["agreement"]["tone_by_rule"]["value"] == found["intent_kept"]["value"] == 0.5
    assert found["placeholders"]["written"] == 1 and found["overlap"]["ROUGE-1"]["value"] > 0
    assert reply_figures(rows, {}, set())["intent_kept"] is None
