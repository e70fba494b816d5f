"""The growing cache does what transformers' DynamicCache does, whatever is done to it, and serves models of all kinds."""

from support.errors import InputError

import random

from common import decode
from models.cache import check_cache, growing_cache
from models.growing_layer import SPARE, GrowingLayer
from models.loading import on_engine
from task1_greedy import greedy
from task5_beam import beam_search
from tests.helpers import brute_force_beams, neutral_generate

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache


def states(rows, new):
    return tuple(torch.randn(rows, 2, new, size) for size in (4, 6))


def same(ours, theirs):
    return ours.get_seq_length() == theirs.get_seq_length() and all(
        torch.equal(mine.keys, other.keys) and torch.equal(mine.values, other.values)
        for mine, other in zip(ours.layers, theirs.layers, strict=True)
    )


@pytest.mark.parametrize("seed", range(20))
def test_equals_dynamic_cache_whatever_is_done_to_it(seed):
    """Oracle: transformers' DynamicCache. Tokens added one by one and many at once, rows spread, dropped, reordered, tokens
    taken back.

    By hand: keys a, b in two rows; selecting [1, 1, 0] gives b, b, a; adding c, d, e gives bc, bd, ae, of length 2.
    """
    rng, ours, theirs, rows = random.Random(seed), growing_cache(), DynamicCache(), 1
    torch.manual_seed(seed)
    for _ in range(120):
        deed = rng.choice(["add"] * 6 + ["select", "repeat", "crop"])
        length = theirs.get_seq_length()
        if deed == "add" or not length:
            new = rng.choice([1, 1, 1, 2, SPARE + 3])
            for layer in range(2):
                given = states(rows, new)
                kept = [part.clone() for part in given]
                got, expected = ours.update(*given, layer), theirs.update(*kept, layer)
                assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
                assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))
            continue
        if deed == "select":
            chosen = torch.tensor(rng.choices(range(rows), k=rng.randint(1, 5)))
            rows, act = len(chosen), lambda cache, chosen=chosen: cache.batch_select_indices(chosen)
        elif deed == "repeat" and rows < 8:
            rows, act = 2 * rows, lambda cache: cache.batch_repeat_interleave(2)
        else:
            count = -rng.randint(0, length - 1)
            act = lambda cache, count=count: cache.crop(count)  # noqa: E731
        act(ours), act(theirs)
        assert same(ours, theirs)


def test_tokens_given_before_are_not_overwritten_by_a_copy_that_went_on():
    """Rows that were selected away go on in a room of their own: what was returned before stays as it was."""
    cache = growing_cache()
    before = [part.clone() for part in cache.update(*states(2, 3), 0)]
    kept = cache.layers[0].keys
    cache.batch_select_indices(torch.tensor([1, 0]))
    cache.update(*states(2, 1), 0)
    assert torch.equal(kept, before[0])


def test_a_token_is_written_into_the_room_and_not_copied():
    cache = growing_cache()
    cache.update(*states(1, 3), 0)
    places = set()
    for _ in range(SPARE):
        cache.update(*states(1, 1), 0)
        places.add(cache.layers[0].keys.data_ptr())
    assert len(places) == 1


# --- models whose attention is of another kind

SHAPE = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 2, "max_position_embeddings": 100, "initializer_range": 0.4, "pad_token_id": 0}  # fmt: skip
WINDOW = {"sliding_window": 6, "head_dim": 8}
LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}
MODELS = {
    "Mistral": {**SHAPE, **WINDOW},
    "Gemma3Text": {**SHAPE, **WINDOW, **LAYERS},
    "Gemma4Text": {**SHAPE, **WINDOW, "layer_types": 2 * LAYERS["layer_types"], "num_hidden_layers": 4, "global_head_dim": 8,
                   "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 60},
    "Llama4Text": {**SHAPE, "head_dim": 8, "attention_chunk_size": 6, "num_local_experts": 2, "intermediate_size_mlp": 24,
                   "layer_types": ["chunked_attention", "full_attention"], "no_rope_layers": [1, 0]},
    "GPTNeo": {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_layers": 2, "num_heads": 2, "window_size": 6,
               "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 100, "initializer_range": 0.4},
    "DeepseekV32": {**SHAPE, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
                    "n_group": 1, "topk_group": 1, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
                    "first_k_dense_replace": 1, "index_head_dim": 8, "index_n_heads": 2, "index_topk": 8},  # with an index
    "OpenAIGPT": {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 100, "initializer_range": 0.4},
}  # fmt: skip


def make(kind, fields):
    torch.manual_seed(2)
    return AutoModelForCausalLM.from_config(getattr(transformers, f"{kind}Config")(**fields)).eval()


@pytest.mark.parametrize(("kind", "fields"), MODELS.items(), ids=MODELS)
def test_texts_longer_than_a_window_are_those_of_generate(kind, fields):
    """Oracle: transformers.generate, far behind a window of 6; for beams, lists and no cache. Bug: a model that keeps an index
    beside its keys and values was a ValueError about GrowingLayer.

    By hand, with a window of 6: the token after 10 sees the last 6, though the cache holds all 10; the mask hides the others.
    """
    model, ids = on_engine(make(kind, fields), "transformers"), torch.tensor([[3, 4, 5, 6, 7, 8, 9, 10]])
    theirs = neutral_generate(model, ids, 10, 0)
    assert [token for _, token, _ in decode(model, ids, greedy, {}, {0}, 10)] == theirs
    ended, cut = brute_force_beams(model, ids[0].tolist(), 2, {0}, 3)
    assert [candidate.ids for candidate in beam_search(model, ids, 2, frozenset([0]), 3)] == [ids for ids, _ in ended + cut]


def test_layers_of_their_own_stay_and_the_others_grow():
    kinds = {type(layer).__name__ for layer in growing_cache(make("DeepseekV32", MODELS["DeepseekV32"]).config).layers}
    assert kinds == {"DynamicIndexedLayer"}
    cache = growing_cache(make("Mistral", MODELS["Mistral"]).config)
    assert cache.layer_class_to_replicate is GrowingLayer


@pytest.mark.parametrize(("kind", "says"), [("Mamba", "running state"), ("Mamba2", "running state"), ("Lfm2", "running state"),
                                            ("Bamba", "running state"), ("CpmAnt", "cannot be decoded here")])
def test_models_that_keep_something_else_are_refused_in_one_line(kind, says):
    """Bug: CPM-Ant, which counts a prompt of its own into every mask, was a RuntimeError about the sizes of tensors."""
    fields = {"CpmAnt": {"vocab_size": 60, "hidden_size": 16, "num_attention_heads": 2, "dim_head": 8, "dim_ff": 16,
                         "num_hidden_layers": 1, "prompt_types": 2, "prompt_length": 4},
              "Mamba": {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4},
              "Mamba2": {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "num_heads": 4,
                         "head_dim": 8, "n_groups": 1, "expand": 2},
              "Lfm2": {**SHAPE, "layer_types": ["conv", "full_attention"]},
              "Bamba": {**SHAPE, "mamba_d_state": 4, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1,
                        "attn_layer_indices": [1]}}[kind]  # fmt: skip
    with pytest.raises(InputError, match=says) as error:
        check_cache(make(kind, fields))
    assert "\n" not in str(error.value)
