"""What is asked of models that write replies: by hand, and of the built-in letters."""

from support.errors import InputError

from types import SimpleNamespace

from data.replies import Reply
from models.control import Labels
from replier import Written as Text
from studies.reply_cases import Author, cases_of, held_out, record, write_real, write_safe, written
from tests.reply_models import LETTERS

import pytest

LAMP = Reply("a lamp", "Soon.", {"tone": "firm", "category": "lamps"}, "test", "light", "We will see.")
BUS = Reply("a bus", "Never.", {"tone": "kind", "category": "buses"}, "test", "light")
CASES = cases_of([LAMP, BUS])


def test_each_request_with_each_tone_and_a_category_with_without_and_against_it():
    """By hand."""
    found = {column: [(case.request, case.asked) for case in cases if case.real is LAMP] for column, cases in CASES.items()}
    assert found == {"tones": [("a lamp", {"tone": tone, "category": "lamps"}) for tone in ("firm", "kind")],
                     "against": [("a lamp", {"category": "buses"})], "alone": [("", {"category": "lamps"})], "decisions": []}


def test_a_reply_fits_where_the_real_one_has_all_labels_asked():
    """References go with those alone: the mistake is a BLEU that falls as the control gets better."""
    rows = written(CASES["tones"], write_real(CASES["tones"]))
    assert [(row.asked["tone"] == row.real["tone"]) == bool(row.references) for row in rows] == [True] * 4
    assert all(set(row.references) in ({"Soon.", "Never."}, set()) for row in rows)
    assert not any(row.references for row in written(CASES["alone"], write_real(CASES["alone"])))


def test_the_cases_of_fewer_requests_are_the_first_of_those_of_more():
    few, more = cases_of(LETTERS, 3), cases_of(LETTERS, 9)
    for column, cases in few.items():
        assert [case._replace(real=None) for case in cases] == [case._replace(real=None) for case in more[column][: len(cases)]]
    assert {case.real.part for case in more["tones"]} == {"test"} and len(more["tones"]) == 36


def test_no_decision_is_asked_that_the_category_does_not_know():
    """The built-in answer to a request about something else is always that it is not the city's."""
    asked = {case.asked["decision"] for case in cases_of(LETTERS)["decisions"] if case.real.labels["category"] == "none"}
    assert asked == {"negative"}


def test_the_safe_reply_knows_the_labels_and_nothing_of_the_request():
    case = next(case for case in cases_of(LETTERS)["tones"])
    assert write_safe(None, [case]) == write_safe(None, [case._replace(request="something else")])
    assert write_safe(LETTERS, [case])[0]["reply"] in {reply.default for reply in LETTERS}


def test_replies_without_a_test_part_are_refused():
    with pytest.raises(InputError, match="no part to judge on"):
        held_out([LAMP._replace(part="train")])


class Echo:
    """Writes its seed, and what it was asked."""

    labels, loaded = Labels({"tone": ("firm", "kind")}), SimpleNamespace(eos_ids={0})

    def write_many(self, requests, *, seed, **settings):
        return [Text(f"{seed} {request} {labels}", [1, 0 if labels else 1], labels, {"tone": "firm"}, {})
                for request, labels in requests]  # fmt: skip


def test_equal_cases_are_different_draws_and_labels_that_the_model_has_not_are_not_asked():
    """Bug: replies to no request, of which all draws were the same text, counted as many."""
    kind = next(case for case in CASES["tones"] if case.real is LAMP and case.asked["tone"] == "kind")
    alone = CASES["alone"][0]._replace(number=4)
    found = Author(Echo(), {"seed": 7})([alone, kind, alone])
    assert [one["reply"] for one in found] == ["11  {}", "11 a lamp {'tone': 'kind'}", "12  {}"]
    assert found[1] == record("11 a lamp {'tone': 'kind'}", True, {"tone": "firm"}) and not found[0]["ended"]
