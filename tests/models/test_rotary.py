"""Rotary factors that change with the length of a text: what is cached before does not hold behind it."""

import copy
import json

from chat import Conversation
from common import context_of, decode
from models.chatml import Message
from models.loading import Loaded, on_engine
from models.rotary import keys_hold
from strategies import continue_ids
from task1_greedy import greedy
from task5_beam import beam_search
from tests.helpers import brute_force_beams, neutral_generate, small_tokenizer

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config

BORDER = 12
SHAPE = {"vocab_size": 320, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 2, "initializer_range": 0.4, "pad_token_id": 0}  # fmt: skip
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0, 8.0, 16.0, 32.0],
        "original_max_position_embeddings": BORDER}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
KINDS = {
    "longrope": lambda: Phi3Config(**SHAPE, max_position_embeddings=100, original_max_position_embeddings=BORDER,
                                   rope_parameters=LONG),
    "dynamic": lambda: LlamaConfig(**SHAPE, max_position_embeddings=BORDER, rope_parameters=DYNAMIC),
}


def make(kind):
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(KINDS[kind]()).eval()


class Fresh(torch.nn.Module):
    """A model that reads every text from its beginning, with factors that no earlier text has changed."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.unused = kind, make(kind)

    def forward(self, ids):
        return copy.deepcopy(self.unused)(ids, use_cache=False)


@pytest.fixture(scope="module", params=KINDS)
def models(request):
    """(the model as it is loaded, the same without a cache)"""
    return on_engine(make(request.param), None), Fresh(request.param)


@pytest.fixture
def prompt():
    return torch.tensor([[3, 4, 5, 6, 7, 8, 9, 10]])


def test_greedy_is_that_of_the_model_without_a_cache(models, prompt):
    """Oracle: the whole text read again at every step; for LongRoPE transformers.generate, too. Bug: keys with the factors of
    short texts stayed in the cache, and the text parted from generate's behind the border.

    By hand, with the border at 12 and a prompt of 8: tokens 1 to 5 are chosen after 8 to 12 tokens, token 6 after 13, for
    which all are read again.
    """
    model, fresh = models
    ids = prompt
    for _ in range(14):
        with torch.no_grad():
            ids = torch.cat([ids, fresh(ids).logits[:, -1].argmax(-1)[:, None]], dim=1)
    expected = ids[0, prompt.shape[1]:].tolist()
    assert [token for _, token, _ in decode(model, prompt, greedy, {}, {0}, 14)] == expected
    if fresh.kind == "longrope":
        assert expected == neutral_generate(make("longrope"), prompt, 14, 0)
    long = torch.arange(3, 3 + BORDER + 4)[None]  # a longer text leaves nothing behind
    assert next(decode(model, long, greedy, {}, {0}, 1))[1] == fresh(long).logits[0, -1].argmax()
    assert [token for _, token, _ in decode(model, prompt, greedy, {}, {0}, 14)] == expected


def test_beams_are_those_of_the_model_without_a_cache(models, prompt):
    """Oracle: beam search by lists, no cache."""
    model, fresh = models
    ended, cut = brute_force_beams(fresh, prompt[0].tolist(), 2, {0}, 7)
    found = beam_search(model, prompt, 2, frozenset([0]), 7)
    assert [candidate.ids for candidate in found] == [ids for ids, _ in ended + cut]


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 1.0, "seed": 3}, {"temperature": 0, "num_beams": 2}])
def test_a_conversation_across_the_border(models, settings):
    """Oracle: continue_ids from the same ids with nothing cached; one turn ends before the border, the next behind it."""
    model = models[0]
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    loaded = Loaded(model, small_tokenizer("bytes", chat_template=template), frozenset([0]), {})
    conversation = Conversation(loaded, "")
    for text in ("a fox", "b", "cc"):
        user = Message("user", text)
        ids, _ = conversation.fitted(conversation.turns, user, 5)
        list(conversation.reply(conversation.turns, user, ids, lambda *step: None, max_new_tokens=5, **settings))
        fresh = continue_ids(model, torch.tensor([ids]), loaded.eos_ids, max_new_tokens=5, **settings)
        assert list(conversation.turns[-1][1].ids) == [token for token in fresh if token]


def test_when_keys_hold():
    """By hand, with the border at 12: LongRoPE has two sets of factors, dynamic scaling one for each length behind it."""
    config = KINDS["longrope"]()
    assert [keys_hold(config, read, length) for read, length in ((0, 13), (5, 12), (12, 13), (5, 99), (13, 99))] == [
        True, True, False, False, True]
    config = KINDS["dynamic"]()
    assert [keys_hold(config, read, length) for read, length in ((0, 13), (5, 12), (12, 13), (13, 14))] == [
        True, True, False, False]
    assert keys_hold(LlamaConfig(**SHAPE), 5, 10**6) and context_of(make("dynamic")) == 4 * BORDER


def test_the_token_page_sees_what_a_token_was_chosen_from(models, prompt):
    """Oracle: the model without a cache, for each beginning of the text."""
    from studies.token_page import logits_along

    model, fresh = models
    tokens = list(range(20, 29))
    found = torch.cat(list(logits_along(model, prompt, tokens)))
    whole = torch.cat([prompt, torch.tensor([tokens])], dim=1)
    with torch.no_grad():
        expected = torch.cat([fresh(whole[:, :prompt.shape[1] + i]).logits[:, -1] for i in range(len(tokens))])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_each_kind_of_layer_may_have_its_own(tmp_path):
    """Gemma 3 has rotary parameters for its windows and others for the rest."""
    from transformers import Gemma3TextConfig

    ropes = {"full_attention": DYNAMIC, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
    config = Gemma3TextConfig(**SHAPE, head_dim=8, max_position_embeddings=BORDER, rope_parameters=ropes, sliding_window=8,
                              layer_types=["sliding_attention", "full_attention"])  # fmt: skip
    config = json.loads(config.to_json_string(use_diff=False))
    model = on_engine(AutoModelForCausalLM.from_config(Gemma3TextConfig(**config)).eval(), None)
    assert context_of(model) == 4 * BORDER and not keys_hold(model.config, 3, BORDER + 1)
    ids = torch.arange(3, 3 + BORDER + 2)[None]
    with torch.no_grad():
        before = model(ids).logits
        model(torch.arange(3, 3 + 2 * BORDER)[None])
        assert torch.equal(model(ids).logits, before)
