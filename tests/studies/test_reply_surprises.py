"""The perplexity of replies: against transformers' own loss, and by hand."""

import math

from models.control import Controlled, Labels, asked_ids, reply_end
from models.loading import load_model
from studies.reply_surprises import Reader, open_reader, perplexity
from tests.reply_models import save_model

import pytest
import torch


def test_a_reply_costs_what_transformers_says(model_folder):
    """The loss of GPT-2's and Llama's own forward pass over the reply and its end, prompt not counted."""
    loaded = load_model(str(model_folder), "cpu", "float32", engine="transformers")
    reader = Reader(loaded._replace(model=Controlled(loaded.model, Labels({"tone": ("firm",)}), "none").eval()), 50)
    nats, count = reader.surprise("My lamp.", "It is mended.", {"tone": "firm"})
    prompt = asked_ids(loaded.tokenizer, "My lamp.")
    reply = [*loaded.tokenizer("It is mended.").input_ids, reply_end(loaded.tokenizer)]
    ids = torch.tensor([[*prompt, *reply]])
    with torch.no_grad():
        loss = loaded.model(input_ids=ids, labels=torch.tensor([[*[-100] * len(prompt), *reply]])).loss
    assert count == len(reply) and nats / count == pytest.approx(loss.item(), rel=1e-5)


def test_a_cut_reply_has_no_end_and_labels_count(bpe, tmp_path):
    reader = open_reader(str(save_model(tmp_path / "token", bpe)), 4)
    assert reader.surprise("a", "bcdefgh", {})[1] == 4 == reader.surprise("a", "bcdefgh", {}, ended=False)[1]
    assert reader.surprise("a", "b", {})[1] == 2 and reader.surprise("a", "b", {}, ended=False)[1] == 1
    assert reader.surprise("a", "", {}, ended=False) == (0, 0)
    of_tone = {tone: reader.surprise("a", "b", {"tone": tone, "unknown": "x"})[0] for tone in ("firm", "official")}
    assert len(set(of_tone.values())) == 2


def test_a_perplexity_is_over_tokens():
    """By hand: e to 6 nats over 4 tokens. The mistake: a mean of each reply's perplexity."""
    found = perplexity([(2.0, 1), (4.0, 3)], ["x", "y"])
    assert found["value"] == pytest.approx(math.exp(6 / 4)) and found["low"] <= found["value"] <= found["high"]
    assert perplexity([(2.0, 1), (4.0, 3)], ["x", "x"])["low"] == pytest.approx(math.exp(6 / 4))
    assert perplexity([], []) is None is perplexity([(0.0, 0)], ["x"])
