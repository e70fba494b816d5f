"""decoding/mismatch.py: the ways to go on where a reply is not as asked, one by one and in the order in which they are named.

The model is a `FakeReplier`: what it writes and how it judges that is given, so that every expectation is worked out by hand.
"""

from support.errors import InputError

import json

from data.replies import Reply, safe_reply
from decoding.mismatch import HOTTEST, MOST_GUIDED, NARROWEST, Case, Ways, answer, changed
from tests.helpers import FakeReplier
from training.reply_data import read_failures

import pytest

SETTINGS = {"guidance": 1.0, "candidates": 1, "temperature": 0.7, "top_p": 0.95, "top_k": 0, "seed": 5}
SORRY, FIRM, CALM = ("Sorry.", "apologetic", 0.9), ("No.", "firm", 0.8), ("Noted.", "official", 0.6)


def answered(written, steps, asked=("apologetic", "roads"), num=1, settings=SETTINGS, **ways):
    """The case of a request for a tone and a category to which `written` is written, and the calls of the model."""
    replier = FakeReplier(written)
    case = Case("My street is dark", dict(zip(("tone", "category"), asked, strict=False)), num)
    answer(case, Ways(replier, steps, **ways), settings)
    return case, replier.calls


def texts(case):
    return [kept.written.text for kept in case.kept()]


def logged(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# -------------------------------------------------------------------------------------------------------------- one by one


def test_a_reply_that_is_as_asked_is_kept_and_no_step_does_anything(tmp_path):
    case, calls = answered([SORRY], ["retry", "log", "default", "tell"], log=tmp_path / "log")
    assert texts(case) == ["Sorry."] and len(calls) == 1 and not case.notes and not list(tmp_path.iterdir())
    assert case.why(case.kept()[0]) == "try 1 is as asked"


def test_retry_ends_at_the_first_reply_that_is_as_asked():
    case, calls = answered([FIRM, CALM, SORRY, SORRY], ["retry"])
    assert texts(case) == ["Sorry."] and [call["seed"] for call in calls] == [5, 6, 7]
    assert case.why(case.kept()[0]) == "try 3 is as asked"


def test_retries_are_counted_and_what_missed_least_is_kept():
    """By hand: three tries at most two retries long, all wrong; "Noted." is the least sure to be wrong."""
    case, calls = answered([FIRM, CALM, FIRM, SORRY], ["retry"], tries=2)
    assert len(calls) == 3 and texts(case) == ["Noted."]
    assert case.why(case.kept()[0]) == "it missed least in 3 tries"


def test_a_reply_with_one_wrong_label_misses_less_than_one_with_two():
    """However sure the one is, and unsure the two are."""
    wrong_street = ("No tax.", "firm", 0.3, "taxes", 0.3)
    case, _ = answered([wrong_street, ("No.", "firm", 0.99)], ["retry"], tries=1)
    assert texts(case) == ["No."] and [attempt.missed for attempt in case.attempts] == [["tone", "category"], ["tone"]]


def test_what_is_not_asked_cannot_be_missed():
    case, calls = answered([FIRM], ["retry", "tell"], asked=())
    assert texts(case) == ["No."] and len(calls) == 1 and not case.notes
    assert case.why(case.kept()[0]) == "nothing was asked of it"


def test_a_model_without_heads_judges_nothing():
    case, calls = answered([("No.",)], ["retry", "tell"])
    assert texts(case) == ["No."] and len(calls) == 1 and "no heads" in case.why(case.kept()[0])


def test_a_retry_first_has_another_seed_then_other_settings_within_bounds():
    """By hand: 0.7 * 1.2 = 0.84, 0.95 - 0.05 = 0.9, 1 + 1 = 2 in the second; far on, the bounds."""
    assert changed(SETTINGS, 1) == SETTINGS | {"seed": 6}
    second = changed(SETTINGS, 2)
    assert second == SETTINGS | {"seed": 7, "guidance": 2.0, "temperature": pytest.approx(0.84), "top_p": pytest.approx(0.9)}
    last = changed(SETTINGS, 50)
    assert (last["guidance"], last["temperature"], last["top_p"]) == (MOST_GUIDED, HOTTEST, NARROWEST)
    wild = SETTINGS | {"guidance": 9.0, "temperature": 3.0, "top_p": 0.5, "seed": 2**63 - 1}
    assert changed(wild, 3) == wild | {"seed": 2}  # what is beyond a bound already is left alone


def test_where_nothing_is_drawn_a_retry_changes_more_than_the_seed():
    """Mistake avoided: greedy and beams would write the same text again."""
    greedy = SETTINGS | {"temperature": 0.0, "top_p": 1.0}
    assert changed(greedy, 1) == greedy | {"seed": 6, "guidance": 2.0}


def test_the_log_holds_every_miss_with_what_repeats_it_and_is_appended_to(tmp_path, capsys):
    """Also the misses before a retry that was as asked: they are there to be learned from."""
    path = tmp_path / "log.jsonl"
    path.write_text("{}\n", "utf-8")
    case, calls = answered([FIRM, ("Не так.", "official", 0.6), SORRY], ["retry", "log"], log=path)
    assert texts(case) == ["Sorry."]
    _, first, second = logged(path)
    assert first == {"request": "My street is dark", "asked": {"tone": "apologetic", "category": "roads"},
                     "judged": {"tone": "official", "category": "roads"}, "probs": {"tone": 0.6, "category": 0.9},
                     "text": "Не так.", "settings": SETTINGS | {"seed": 6}}  # fmt: skip
    assert second["text"] == "No." and second["settings"] == SETTINGS
    err = capsys.readouterr().err
    assert err.startswith("[warning: 2 of 3 written missed tone apologetic (judged to be official, 0.60); logged in ")
    assert err.count("\n") == 1


def test_what_is_logged_is_what_train_replies_learns_from(tmp_path):
    """The fifth way to go on: the file of the step log is that of --failures; two misses of one request are one lesson."""
    path = tmp_path / "log.jsonl"
    answered([FIRM, CALM], ["retry", "log"], log=path, tries=1)
    assert read_failures(path) == [("My street is dark", {"tone": "apologetic", "category": "roads"})]


def test_a_log_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        answered([FIRM], ["log"], log=tmp_path)


def test_default_is_the_safe_answer_of_the_category_and_tone():
    """Oracle: the answer of the built-in letters, which is judged as any text is."""
    case, _ = answered([FIRM], ["default"])
    assert texts(case) == [safe_reply({"tone": "apologetic", "category": "roads"})] != ["No."]
    assert case.why(case.kept()[0]) == "the safe answer: 1 try missed" and case.kept()[0].number == 0


def test_default_takes_the_safe_answers_of_the_models_own_replies():
    replies = [Reply("hi", "Sorry, hello.", {"tone": "apologetic", "category": "roads"}, "train", default="We are sorry.")]
    case, _ = answered([FIRM], ["default"], replies=replies)
    assert texts(case) == ["We are sorry."]


def test_where_there_is_no_safe_answer_the_written_one_stays_and_it_is_said():
    replies = [Reply("hi", "Sorry, hello.", {"tone": "apologetic", "category": "roads"}, "train")]
    case, _ = answered([FIRM], ["default"], replies=replies)
    assert texts(case) == ["No."] and case.notes[0].startswith("there is no safe answer: ")


def test_tell_says_what_could_not_be_done_and_how_to_ask_instead():
    case, _ = answered([("No tax.", "firm", 0.8, "taxes", 0.7)], ["tell"])
    assert texts(case) == ["No tax."]
    assert case.notes == ["the reply missed tone apologetic (judged to be firm, 0.80) and category roads (judged to be taxes, "
                          "0.70) in 1 try. What may help: say it in a sentence or two, about one matter, or choose more "
                          "--candidates or --guidance; name the thing that it is about, or choose another --category"]


# ------------------------------------------------------------------------------------------------------------ in their order


def test_the_steps_run_in_the_order_given(tmp_path):
    """By hand: logged before the retries, the first miss alone is in the log; told before the default, the note says nothing
    of it, and told behind it, it does."""
    path = tmp_path / "log"
    answered([FIRM, CALM], ["log", "retry"], log=path, tries=1)
    assert [entry["text"] for entry in logged(path)] == ["No."]
    before, after = (answered([FIRM], steps)[0] for steps in (["tell", "default"], ["default", "tell"]))
    assert texts(before) == texts(after) != ["No."]
    assert "safe answer" not in before.notes[0] and "a safe answer stands in its place" in after.notes[0]
    case, _ = answered([FIRM, SORRY], ["tell", "retry"])
    assert texts(case) == ["Sorry."] and case.notes  # it was true when it was said


def test_without_steps_what_was_written_is_kept():
    case, calls = answered([FIRM, SORRY], [])
    assert texts(case) == ["No."] and len(calls) == 1 and not case.notes


def test_of_several_replies_only_what_is_lacking_is_written_again():
    """By hand: three are asked for, of which two miss; of these one misses again, and then none."""
    case, calls = answered([SORRY, FIRM, CALM, SORRY, FIRM, SORRY], ["retry", "tell"], num=3)
    assert [call["num"] for call in calls] == [3, 2, 1] and texts(case) == ["Sorry."] * 3 and not case.notes
    case, _ = answered([SORRY, FIRM, CALM], ["tell"], num=3)
    assert texts(case) == ["Sorry.", "Noted.", "No."] and case.notes[0].startswith("2 of 3 replies missed tone apologetic")
    case, _ = answered([SORRY, FIRM, CALM], ["default"], num=3)
    assert texts(case) == ["Sorry.", safe_reply(case.asked)]  # once: it would be the same twice


def test_a_model_that_writes_fewer_than_asked_for_is_not_asked_again():
    """Mistake avoided: greedy decoding writes one text, and no retry a second one of the same settings."""
    replier = FakeReplier([SORRY])
    write = replier.write
    replier.write = lambda *args, num, **settings: write(*args, num=1, **settings)
    case = Case("My street is dark", {"tone": "apologetic"}, 3)
    answer(case, Ways(replier, ["retry", "default", "tell"]), SETTINGS)
    assert texts(case) == ["Sorry."] and len(replier.calls) == 1
    assert case.notes == ["of 3 replies there are 1: where nothing is drawn, no more are written"]
