"""Packed products give what the plain ones give, and a model gives its weights up for them."""

import copy

from data.tokenizer import make_tokenizer
from models import packing
from models.checkpoint import load_checkpoint, save_checkpoint
from models.packing import PackedLinear, Together, can_pack, pack
from models.transformer import Transformer, TransformerConfig
from tests.helpers import random_model

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.cache_utils import DynamicCache

needs_kernels = pytest.mark.skipif(not can_pack(torch.ones(1)), reason="no oneDNN kernels for this processor")


def decoder(seed=0, **shape):
    torch.manual_seed(seed)
    shape = {"vocab_size": 300, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
             "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64,
             "initializer_range": 0.3, **shape}  # fmt: skip
    model = Transformer(TransformerConfig(**shape)).eval()
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(weight)
    return model


def packed_copy(model):
    twin = copy.deepcopy(model)
    pack(twin)
    return twin


@torch.inference_mode()
def logits_in_parts(model, ids, parts):
    """The logits of all positions, read in parts through a cache."""
    cache = DynamicCache()
    return torch.cat([model(input_ids=part, past_key_values=cache).logits for part in ids.split(parts, dim=1)], dim=1)


@needs_kernels
@pytest.mark.parametrize("rows", [1, 3, 8, 40])
@pytest.mark.parametrize("sizes", [[7], [256, 128, 128], [704, 704], [2048]])
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_against_float64(rows, sizes, bias):
    """Oracle: F.linear in float64. By hand: x = (1, 2) and the weight's row (3, 4) with the bias 5 give 1·3 + 2·4 + 5 = 16."""
    torch.manual_seed(rows)
    layers, x = [nn.Linear(96, size, bias) for size in sizes], torch.randn(2, rows, 96)
    exact = [F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None) for layer in layers]
    found = (Together(*layers) if len(layers) > 1 else PackedLinear(*layers))(x)
    torch.testing.assert_close(found, torch.cat(exact, dim=-1).float(), atol=1e-5, rtol=1e-5)


@needs_kernels
def test_a_product_in_parts():
    torch.manual_seed(0)
    layers, x = [nn.Linear(96, 24) for _ in range(2)], torch.randn(5, 96)
    expected = tuple(layer(x).detach() for layer in layers)
    torch.testing.assert_close(Together(*layers, parts=2)(x), expected, atol=1e-5, rtol=1e-5)


@needs_kernels
@pytest.mark.parametrize("parts", [[17], [9, 1, 1, 1, 5]])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("make", [
    decoder, lambda: decoder(1, num_key_value_heads=6), lambda: decoder(2, tie_word_embeddings=False),
    *(lambda seed=seed: random_model(seed) for seed in range(6))])  # fmt: skip
def test_a_packed_model_gives_the_same_logits(make, rows, parts):
    model = make()
    ids = torch.randint(12, (rows, 17))
    plain, packed = (logits_in_parts(m, ids, parts) for m in (model, packed_copy(model)))
    torch.testing.assert_close(packed, plain, atol=1e-4, rtol=1e-5)


@pytest.mark.skipif(not can_pack(torch.ones(1).bfloat16()), reason="no 16-bit kernels for this processor")
def test_a_packed_model_of_16_bits_gives_the_same_logits():
    """Both round every product to 16 bits: the logits lie no further from float32's than the plain ones'."""
    exact, ids = decoder(), torch.randint(12, (3, 17))
    plain = copy.deepcopy(exact).bfloat16()
    expected, without, packed = (logits_in_parts(m, ids, [16, 1]).float() for m in (exact, plain, packed_copy(plain)))
    assert 0 < (packed - expected).std() < 1.5 * (without - expected).std()


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_keeps_its_weight_in_blocks_alone(dtype):
    """And gives it back bit for bit: Mamba, which multiplies by a layer's weight itself, went on with wrong numbers."""
    torch.manual_seed(0)
    layer, x = nn.Linear(33, 97).to(dtype), torch.randn(5, 33).to(dtype)
    packed = PackedLinear(layer)
    assert [name for name, _ in packed.named_parameters()] == ["bias"]
    assert torch.equal(packed.weight, layer.weight) and torch.equal(x @ packed.weight.T, x @ layer.weight.T)


@needs_kernels
def test_a_packed_model_can_be_packed_again_and_saved(tmp_path):
    """Its checkpoint is what the model's was; once it was one without weights."""
    model = decoder(bos_token_id=0, eos_token_id=2)
    model.tokenizer = make_tokenizer("char", ["a tiny hedgehog"], 300)
    save_checkpoint(model, tmp_path / "plain")
    pack(model), pack(model)
    assert isinstance(model.lm_head, PackedLinear) and isinstance(model.model.layers[0].mlp.project, Together)
    save_checkpoint(model, tmp_path / "packed")
    plain, packed = (load_checkpoint(tmp_path / name).state_dict() for name in ("plain", "packed"))
    assert plain.keys() == packed.keys() and all(torch.equal(plain[name], packed[name]) for name in plain)


@needs_kernels
def test_each_layer_is_packed_by_its_own_dtype():
    """A head of another dtype than the first layer's, of which oneDNN has no kernels, stays as it is."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8).double())
    pack(model)
    assert [type(layer) for layer in model] == [PackedLinear, nn.Linear]


@pytest.mark.parametrize("lacking", ["processor", "kernels", "dtype"])
def test_nothing_changes_where_the_kernels_are_not(lacking, monkeypatch):
    model, ids = decoder(), torch.randint(12, (2, 9))
    if lacking == "processor":
        monkeypatch.setattr(packing.platform, "machine", lambda: "arm64")
    elif lacking == "kernels":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    else:
        model = model.half()
    assert torch.equal(logits_in_parts(packed_copy(model), ids, [8, 1]), logits_in_parts(model, ids, [8, 1]))
