"""The shipped LSTM completes messages that we made up."""

import json
import math

from autocomplete import MODEL, open_suggestions
from data.profanity import is_profane
from lstm import load_lstm_lm
from models.loading import load_model
from models.places import revision
from studies.completion import surprises
from studies.doc_tables import SHIPPED
from tests.helpers import ROOT

import pytest
import torch

FOLDER = ROOT / MODEL
OURS = ["good morning everybody", "i cant wait for the weekend", "thank you so much for all your help",
        "my phone died and now i am late for work", "what are you doing tonight", "happy birthday hope you have a great day"]


@pytest.fixture(scope="module")
def loaded():
    return load_model(str(FOLDER))


@pytest.fixture(scope="module")
def suggestions(loaded):
    return open_suggestions(loaded, False, False, 0.0)


def test_the_weights_fit_in_8_megabytes_and_no_message_is_beside_them():
    """Tweets belong to those who wrote them; a training's samples and its cleaned file quote them."""
    names = {path.name for path in FOLDER.iterdir()}
    assert (FOLDER / "model.safetensors").stat().st_size <= 8_000_000
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                     "vocab.txt", "meta.json", "metrics.jsonl", "loss.png", "README.md"}
    for name in ("meta.json", "metrics.jsonl"):
        assert '"sample"' not in (FOLDER / name).read_text("utf-8")


def test_the_shipped_comparison_is_of_these_weights():
    """A figure of other weights than those in the folder would be a lie."""
    for name in ("evaluation", "remembered"):
        content = json.loads((SHIPPED / "autocomplete" / f"{name}.json").read_text("utf-8"))
        model = content["rows"]["lstm"]["model"] if name == "evaluation" else content["model"]
        assert model["revision"] == revision(FOLDER), name


@pytest.mark.parametrize("typed, word", [("i am so ti", "tired"), ("happy birth", "birthday"), ("good mor", "morning"),
                                         ("thank you so ", "much"), ("i cant w", "wait"), ("what are you do", "doing")])
def test_the_first_chip_is_what_anybody_would_type(suggestions, typed, word):
    assert suggestions.chips(typed)[0].word == word


def test_a_message_is_completed_and_ends(suggestions):
    rest = suggestions.rest("thank you so mu")
    assert rest.startswith("ch") and 1 <= len(rest.split()) <= 12


def test_profanity_is_never_suggested(loaded, suggestions):
    """The tweets are full of it, so that a list that is not asked would show."""
    without_list = open_suggestions(loaded, False, True, 0.0)
    texts = ["what the f", "holy sh", "you son of a b", "kiss my a", "i am so fu"]
    assert any(is_profane(chip.word) for text in texts for chip in without_list.chips(text))
    for text in texts:
        assert not any(is_profane(word) for chip in suggestions.chips(text) for word in (chip.word,))
        assert not any(map(is_profane, (text.rpartition(" ")[2] + suggestions.rest(text)).split()))


def test_our_own_messages_cost_less_than_with_single_letters(loaded, suggestions):
    """Letters that know nothing of each other cost some 4 bits each; the whole message counts, its end too."""
    records = surprises(loaded.model, suggestions.source, OURS)
    nats = sum(sum(record["words"]) + record["end"] for record in records)
    assert nats / math.log(2) / sum(map(len, OURS)) < 1.7


def test_it_is_used_as_the_task_uses_it():
    """load_lstm_lm, then generate: prefix and continuation, greedy, ending by itself."""
    tokenizer, model, pad_id, eos_id = load_lstm_lm(FOLDER, "cpu")
    prefix_ids = tokenizer("i am so", return_tensors="pt").input_ids
    written = model.generate(prefix_ids, max_new_tokens=20, eos_id=eos_id)
    assert torch.equal(written[:, :prefix_ids.shape[1]], prefix_ids) and written[0, -1] == eos_id
    assert len(tokenizer.decode(written[0], skip_special_tokens=True).split()) > 3
