"""Evaluator.evaluate: writers whose figures are known beforehand, and a small model."""

from data.replies import Reply
from replier import Replier
from studies import reply_evaluator
from studies.reply_cases import record, write_real
from studies.reply_evaluator import Evaluator, Row
from studies.reply_judges import Judge
from studies.reply_surprises import open_reader
from studies.row_file import RowFile
from tests.reply_models import LETTERS, save_model

import pytest

TONES, CATEGORIES = ("firm", "kind"), ("roads", "taxes", "health")
REPLIES = [Reply(f"request {number}", f"{TONES[number % 2]} {CATEGORIES[number % 3]} no{number}.",
                 {"tone": TONES[number % 2], "category": CATEGORIES[number % 3]}, "test", f"intent{number % 3}")
           for number in range(12)]  # fmt: skip


def word(place):
    """A judge that says a word of the reply."""
    return lambda texts: [text.split()[place] for text in texts]


@pytest.fixture
def evaluator(monkeypatch):
    judges = {"tone": Judge("tone", "reply", word(0)), "category": Judge("category", "reply", word(1))}
    monkeypatch.setattr(reply_evaluator, "independent_judges", lambda replies: judges)
    return Evaluator(REPLIES)


def obedient(cases):
    """Writes what is asked, of what it is not asked "firm roads"; its head says that all is firm."""
    return [record(f"{case.asked.get('tone', 'firm')} {case.asked.get('category', 'roads')} {case.number}.",
                   judged={"tone": "firm"}) for case in cases]  # fmt: skip


def deaf(cases):
    """Writes what the request is about, whatever is asked."""
    return [record(case.real.reply if case.request else "firm roads .") for case in cases]


def shares(found):
    return {name: found[name]["value"] for name in ("all", "fits", "differs", "alone") if found[name]}


def test_who_does_as_asked_is_told_from_who_does_as_the_request_says(evaluator):
    """By hand. The mistake: labels of the real reply alone were asked, and who cannot be controlled was right."""
    found = evaluator.evaluate(Row({}, obedient))
    assert shares(found["control"]["tone"]) == {"all": 1, "fits": 1, "differs": 1}
    assert shares(found["control"]["category"]) == {"all": 1, "fits": 1, "differs": 1, "alone": 1}
    assert shares(found["heads"]["tone"]) == {"all": 0.5, "fits": 0.5, "differs": 0.5}  # what guides is not what judges
    found = evaluator.evaluate(Row({}, deaf))
    assert shares(found["control"]["tone"]) == {"all": 0.5, "fits": 1, "differs": 0}
    assert shares(found["control"]["category"]) | {"all": 0} == {"all": 0, "fits": 1, "differs": 0,
                                                                 "alone": pytest.approx(1 / 3)}  # fmt: skip


def test_real_replies_are_asked_for_what_they_are(evaluator):
    found = evaluator.evaluate(Row({}, write_real, fitting=True))
    assert shares(found["control"]["tone"]) == {"all": 1, "fits": 1}
    assert found["overlap"]["ROUGE-L"]["value"] < 1 and found["replies"]["tones"] == 12  # nothing is its own reference
    assert found["perplexity"] == dict.fromkeys(("right", "wrong", "none", "written")) and found["seconds"] is None


def test_replies_are_kept_as_they_are_written(evaluator, tmp_path):
    header, asked = {"model": "x"}, []

    def counting(cases):
        asked.extend(cases)
        return obedient(cases)

    first = evaluator.evaluate(Row({}, counting), RowFile(tmp_path / "x.json", header))
    count = len(asked)
    assert evaluator.evaluate(Row({}, counting), RowFile(tmp_path / "x.json", header)) == first and len(asked) == count
    fewer = Evaluator(REPLIES, 5).evaluate(Row({}, counting), RowFile(tmp_path / "x.json", header))
    assert fewer["replies"]["tones"] == 10 and len(asked) == count


@pytest.mark.slow
def test_a_model_is_evaluated(bpe, tmp_path, monkeypatch):
    """What another model reads of real replies is what that model itself says of them without labels: here they are one."""
    monkeypatch.setattr(reply_evaluator, "TIMED", 1)
    monkeypatch.setattr(reply_evaluator, "independent_judges",
                        lambda replies: {"tone": Judge("tone", "reply", lambda texts: ["firm"] * len(texts))})
    folder = save_model(tmp_path / "token", bpe)
    evaluator = Evaluator(LETTERS, 2, open_reader(str(folder), 5))
    row = Row.of(Replier.load(folder), candidates=2, max_new_tokens=5)
    found = evaluator.evaluate(row)
    assert found["replies"] == {"tones": 8, "against": 2, "alone": 2, "decisions": found["replies"]["decisions"]}
    assert found["perplexity"]["right"]["value"] != found["perplexity"]["none"]["value"] and found["seconds"]["value"] > 0
    real = evaluator.evaluate(Row({}, write_real, fitting=True))
    assert real["perplexity"]["written"]["value"] == pytest.approx(found["perplexity"]["none"]["value"])
    assert row.at_once == 32 and found["heads"].keys() == {"tone", "category", "decision"}
