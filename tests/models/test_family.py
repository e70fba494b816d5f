"""Our own decoder for models of the Llama and Qwen2 family: their logits and texts, and what it leaves to transformers."""

from support.errors import InputError

import copy

from common import decode
from models.cache import growing_cache
from models.family import IMPLEMENTED, family_config, own_decoder
from models.loading import load_model
from models.transformer import PART, Transformer, TransformerConfig
from task1_greedy import greedy
from tests.helpers import logits, neutral_generate, randomise, tokens

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

SHAPE = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.4}  # fmt: skip
MEMBERS = {
    "Qwen2.5": {"model_type": "qwen2", "rope_theta": 1e6, "tie_word_embeddings": True},
    "SmolLM2": {"model_type": "llama", "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 36,
                "rope_theta": 1e5, "rms_norm_eps": 1e-5, "tie_word_embeddings": True},
    "TinyLlama": {"model_type": "llama", "rms_norm_eps": 1e-5},
    "Llama of explicit heads": {"model_type": "llama", "head_dim": 12},
    "Qwen2 of explicit heads": {"model_type": "qwen2", "head_dim": 6},
    "Mistral Nemo": {"model_type": "mistral", "sliding_window": None, "head_dim": 16, "rope_theta": 1e6},
}  # fmt: skip


def reference(seed=0, attention="eager", **fields):
    torch.manual_seed(seed)
    config = AutoConfig.for_model(**{**SHAPE, **fields})
    return randomise(AutoModelForCausalLM.from_config(config, attn_implementation=attention).float(), seed)


@pytest.mark.parametrize("fields", MEMBERS.values(), ids=MEMBERS)
def test_logits_and_greedy_texts_are_theirs(fields):
    """Oracle: transformers' own models. Logits in float32 within 1e-4, or twice the distance between its two attentions.

    By hand, what a Llama lacks: for x = (1, 2) a query of weight (3, 1) is 3·1 + 1·2 = 5; with Qwen2's bias 0.5 it is 5.5.
    Source: the configurations and models of transformers 5.23.
    """
    theirs, ids = reference(**fields), tokens(50, rows=2)
    ours = own_decoder(theirs)
    sdpa = copy.deepcopy(theirs)
    sdpa.set_attn_implementation("sdpa")
    bound = max(1e-4, 2 * (logits(sdpa, ids) - logits(theirs, ids)).abs().max())
    assert (logits(ours, ids) - logits(theirs, ids)).abs().max() <= bound
    assert sum(weight.numel() for weight in ours.parameters()) == sum(weight.numel() for weight in theirs.parameters())
    written = [token for _, token, _ in decode(ours, ids[:1, :10], greedy, {}, frozenset(), 50)]
    assert written == neutral_generate(theirs, ids[:1, :10], 50, None)


OTHER_VALUES = {
    "hidden_act": "gelu", "layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8, "head_dim": 12,
    "use_sliding_window": True, "num_key_value_heads": 1, "rms_norm_eps": 1e-2, "initializer_range": 0.1, "dtype": "float16",
    "tie_word_embeddings": True, "id2label": {0: "A"}, "label2id": {"A": 0}, "problem_type": "regression",
    "architectures": ["Other"], "_name_or_path": "other", "transformers_version": "4.0.0",
    "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}  # fmt: skip


def another_value(name, value):
    """A value of the same kind, off its default."""
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    if isinstance(value, bool):
        return not value
    return 5 if value is None else value * 2 if value else 0.5


@pytest.mark.parametrize("kind", ["qwen2", "llama", "mistral"])
def test_a_field_off_its_default_is_computed_or_refused_by_name(kind):
    """Oracle: transformers' logits, for every field that a configuration of the kind has. What is not refused must be right.

    By hand: rotary positions scaled by 2 turn the pair of position 4 as position 2 is turned; who ignores the field is wrong
    by half of every angle.
    """
    base = {"model_type": kind, **SHAPE, "sliding_window": None} if kind == "mistral" else {"model_type": kind, **SHAPE}
    refused = set()
    for name, value in AutoConfig.for_model(**base).to_dict().items():
        if name == "model_type":
            continue
        changed = {**base, name: another_value(name, value)}
        if name in ("layer_types", "sliding_window") and kind == "qwen2":
            changed |= {"use_sliding_window": True, "max_window_layers": 1}
        try:
            family_config(AutoConfig.for_model(**changed))
        except InputError as error:
            refused.add(name)
            assert str(error).startswith("our own decoder does not know")
            continue
        theirs, ids = reference(**changed), tokens(40)
        torch.testing.assert_close(logits(own_decoder(theirs), ids), logits(theirs, ids), atol=1e-4, rtol=0, msg=name)
    needed = {"qwen2": {"layer_types", "sliding_window", "use_sliding_window"}, "mistral": {"sliding_window"},
              "llama": {"attention_bias", "mlp_bias"}}  # fmt: skip
    assert refused >= needed[kind] | {"hidden_act", "rope_parameters", "attention_dropout"}
    assert not refused & (IMPLEMENTED - {"rope_parameters"})


@pytest.mark.parametrize("rope", [{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                   "original_max_position_embeddings": 32}, {"rope_type": "dynamic", "factor": 2.0},
                                  {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}])  # fmt: skip
def test_scaled_rotary_positions_are_for_transformers(rope):
    """Llama 3.1 and long-context models; both ways in which a config.json writes it."""
    for fields in ({"rope_parameters": {"rope_theta": 1e4, **rope}}, {"rope_scaling": rope, "rope_theta": 1e4}):
        with pytest.raises(InputError, match="does not know rope_parameters"):
            family_config(AutoConfig.for_model("llama", **SHAPE, **fields))


@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "gemma", "phi3", "olmo2"])
def test_another_kind_is_for_transformers(kind):
    with pytest.raises(InputError, match=f"not {kind}"):
        family_config(AutoConfig.for_model(kind))


def test_the_engine_is_chosen_and_named(model_folder, tmp_path):
    """model_folder holds a small Qwen2."""
    assert load_model(str(model_folder)).identity["engine"] == "own"
    assert isinstance(load_model(str(model_folder), engine="own").model, Transformer)
    theirs = load_model(str(model_folder), engine="transformers")
    assert theirs.identity["engine"] == "transformers" and not isinstance(theirs.model, Transformer)
    reference(model_type="llama", attention_bias=True).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((model_folder / name).read_bytes())
    assert load_model(str(tmp_path)).identity["engine"] == "transformers"
    with pytest.raises(InputError, match="attention_bias=True: leave --engine out"):
        load_model(str(tmp_path), engine="own")


def test_both_engines_run_the_shipped_decoder():
    """By hand: its folder is of type qwen2, so transformers computes the same logits from it."""
    ours, theirs, ids = load_model("generator"), load_model("generator", engine="transformers"), tokens(30)
    assert (ours.identity["engine"], theirs.identity["engine"]) == ("own", "transformers")
    assert ours.identity["revision"] == theirs.identity["revision"]
    torch.testing.assert_close(logits(ours.model, ids), logits(theirs.model, ids), atol=1e-4, rtol=0)


class Sizes(TorchDispatchMode):
    """The bytes of the largest tensor that an operation has made."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.nbytes)
        return out


def test_a_long_prompt_takes_no_large_tensor():
    """The scores of 4,096 tokens were one tensor. By hand: 9 heads · 4,096² · 4 bytes = 604 MB; 512 queries at a time 75 MB."""
    config = TransformerConfig(vocab_size=100, hidden_size=576, intermediate_size=1536, num_hidden_layers=1,
                               num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192)  # fmt: skip
    model = Transformer(config).eval()
    with torch.inference_mode(), Sizes() as sizes:
        model(tokens(4096, vocab=100), growing_cache(), logits_to_keep=1)
    assert 1_000_000 < sizes.largest <= 100_000_000


@pytest.mark.parametrize("pieces", [[2 * PART + 70], [100, PART + 70, PART - 100]])
def test_a_long_prompt_has_their_logits(pieces):
    """Oracle: transformers, for a text longer than what attends at a time, whole and in pieces on a cache.

    By hand, for 1,094 tokens: the parts have 512, 512 and 70 queries, and see 512, 1,024 and 1,094 keys.
    """
    theirs = reference(model_type="llama", max_position_embeddings=2048, initializer_range=0.2)
    ids = tokens(sum(pieces))
    ours, cache = own_decoder(theirs), growing_cache()
    got = torch.cat([logits(ours, piece, past_key_values=cache) for piece in ids.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(got, logits(theirs, ids), atol=1e-4, rtol=0)
