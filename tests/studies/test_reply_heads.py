"""What heads can tell: the token that they read, and the command."""

import json
import sys

from data.replies import Reply
from replier import Replier
from studies import reply_heads
from studies.reply_heads import hidden_states, main, measure, new_head, own_head, reply_ids, training_of
from tests.reply_models import LETTERS, save_model, write_csv

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def replier(bpe, tmp_path_factory):
    return Replier.load(save_model(tmp_path_factory.mktemp("heads") / "token", bpe))


def test_heads_that_read_the_first_token_of_a_causal_model_know_nothing(replier):
    """The mistake of the notes: all replies are one there, and the commonest label is all that can be said."""
    replies = [reply.reply for reply in LETTERS[:8]]
    states = hidden_states(replier, [replier.plain.encode(text, add_special_tokens=False).ids[:20] for text in replies])
    assert np.allclose(states["first"], states["first"][0], atol=1e-6)
    assert np.abs(states["last"] - states["last"][0]).max(1)[1:].min() > 1e-3
    labels = ["firm"] * 5 + ["official"] * 3
    assert new_head(states["first"], labels, states["first"], labels)["value"] == 5 / 8
    assert new_head(states["last"], labels, states["last"], labels)["value"] > 5 / 8


def test_the_state_of_the_last_token_is_what_the_model_s_own_head_reads(replier):
    """Rows of different lengths, read together and padded, against each alone."""
    ids = reply_ids(replier, LETTERS[:3], 12)
    ids[1] = ids[1][:5]
    scores = replier.model.heads["tone"](torch.tensor(hidden_states(replier, ids)["last"])).log_softmax(-1)
    assert torch.allclose(scores, torch.cat([replier.judge_ids([row])["tone"] for row in ids]), atol=1e-5)
    wanted = [replier.labels.values["tone"][int(row.argmax())] for row in scores]
    assert own_head(replier, "tone", ids, wanted)["value"] == 1


def test_replies_without_requests_have_no_head_that_reads_them(replier):
    replies = [Reply("", f"{tone} words {number}", {"tone": tone}, "test") for number in range(3)
               for tone in ("firm", "official")]  # fmt: skip
    found = measure(replier, replies, replies, 16)
    assert found["request"] is None and list(found["new"]) == ["tone"] and list(found["read"]["tone"]) == ["8", "16"]
    assert found["majority"]["tone"]["value"] == 0.5 and found["perplexity"]["right"]["value"] > 1


def test_what_a_training_left_is_told(tmp_path):
    assert training_of(tmp_path) == {"seconds": None, "tune": None, "freeze": None, "heads": None}
    (tmp_path / "meta.json").write_text('{"seconds": 60, "settings": {"tune": "lora"}}', "utf-8")
    assert training_of(tmp_path) == {"seconds": 60, "tune": "lora", "freeze": None, "heads": None}


@pytest.mark.slow
def test_the_command(bpe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reply_heads, "LEARNED", 30)
    first = save_model(tmp_path / "first", bpe, pooling="first")
    flags = ["--text", str(write_csv(tmp_path / "letters.csv")), "--num-replies", "6", "--max-tokens", "20"]
    for models, code in (([f"first={first}"], None), ([f"first={first}"] * 2, 2), (["first"], 2), (["x=/nowhere"], 2)):
        monkeypatch.setattr(sys, "argv", ["heads", "--models", *models, *flags, "--results", str(tmp_path)])
        if code is None:
            main()
            continue
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == code and capsys.readouterr().err.count("\n") == 1
    row = json.loads((tmp_path / "replies" / "heads.json").read_text("utf-8"))["rows"]["first"]
    assert row["control"]["pooling"] == "first" and len({figure["value"] for figure in row["read"]["tone"].values()}) == 1
    assert row["request"]["value"] <= 1
