"""Typed requests: an invented file of the same layout as the one that those who write templates do not open."""

from support.errors import InputError

import json
import sys

from data.replies import values_of
from replier import Replier
from studies import typed_requests
from studies.reply_judges import Judge
from studies.typed_requests import Answer, Typed, check_typed, main, read_typed, totals
from tests.reply_models import LETTERS, save_model

import pytest

TYPED = ({"request": "the lamp on my street is dark, since monday!!", "category": "roads"},
         {"request": "how is the weather", "category": "none"}, {"request": "my tax bill is wrong", "category": "taxes"})


@pytest.fixture
def path(tmp_path):
    (tmp_path / "typed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in TYPED), "utf-8")
    return tmp_path / "typed.jsonl"


def test_the_totals():
    """By hand: one of two categories read right, three of three replies, another request that is answered as if it were about
    the roads, two of three tones."""
    roads, taxes, none = (Typed("x", category) for category in ("roads", "taxes", "none"))
    answers = [Answer(roads, "roads", "firm", "", {"category": "roads", "tone": "firm"}),
               Answer(taxes, "roads", "firm", "", {"category": "taxes", "tone": "official"}),
               Answer(none, "none", "firm", "", {"category": "none", "tone": "firm"}),
               Answer(none, "roads", "firm", "", {"category": "none", "tone": "firm"})]  # fmt: skip
    found = {name: (figure["right"], figure["of"]) for name, figure in totals(answers).items()}
    assert found == {"category_read": (1, 2), "reply": (2, 2), "others": (1, 2), "tone": (3, 4)}
    assert "others" not in totals(answers[:2])


def test_printed_are_totals_alone(path, bpe, tmp_path, monkeypatch, capsys):
    """No request stands on the screen or in the results; the replies are in a file where one is asked for."""
    judges = {name: Judge(name, "reply", lambda texts, said=said: [said] * len(texts))
              for name, said in (("category", "none"), ("tone", "firm"))}  # fmt: skip
    monkeypatch.setattr(typed_requests, "independent_judges", lambda replies: judges)
    monkeypatch.setattr(typed_requests, "citizen_replies", lambda num: LETTERS)
    monkeypatch.setattr(sys, "argv", ["typed", "--requests", str(path), "--model", str(save_model(tmp_path / "model", bpe)),
                                      "--results", str(tmp_path), "--replies", str(tmp_path / "replies.jsonl")])
    main()
    out, written = capsys.readouterr().out, (tmp_path / "replies" / "typed.json").read_text("utf-8")
    assert "category read: " in out and "tone: " in out and out.count("\n") == 4
    assert not any(line["request"] in text for text in (out, written) for line in TYPED)
    lines = [json.loads(line) for line in (tmp_path / "replies.jsonl").read_text("utf-8").splitlines()]
    assert [line["request"] for line in lines] == [line["request"] for line in TYPED]
    assert len({line["tone"] for line in lines}) == 3 and json.loads(written)["totals"]["tone"]["of"] == 3


@pytest.mark.parametrize(("text", "why"), [(None, "there is no file"), ("", "holds no requests"), ("{", "must hold a line"),
                                           ('{"request": "secret"}', "must hold a line"), ("[1]", "must hold a line")])
def test_a_bad_file_is_one_line_that_quotes_nothing(text, why, tmp_path):
    if text is not None:
        (tmp_path / "typed.jsonl").write_text(text, "utf-8")
    with pytest.raises(InputError, match=why) as error:
        read_typed(tmp_path / "typed.jsonl")
    assert "secret" not in str(error.value)


def test_a_model_of_other_labels_or_without_the_head_is_refused(path, bpe, tmp_path):
    typed = read_typed(path)
    tones = save_model(tmp_path / "tones", bpe, values={"tone": ("firm", "kind")})
    with pytest.raises(InputError, match="no category 'none': it has none at all"):
        check_typed(typed, Replier.load(tones))
    headless = save_model(tmp_path / "headless", bpe, values=values_of(LETTERS), heads=False)
    with pytest.raises(InputError, match="no head that reads the category"):
        check_typed(typed, Replier.load(headless))
