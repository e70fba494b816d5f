"""GGUF files: a small one, written here with the gguf package, and SmolLM2-135M-Instruct's, quantised to Q4_1."""

from support.errors import InputError

import hashlib
import json
import os
from pathlib import Path

from common import PROMPTS, context_of, decode, prompt_ids
from models.chatml import CHAT_TEMPLATE, CONTROL_TOKENS, END_OF_TEXT, IM_END
from models.family import own_decoder
from models.gguf import open_tokenizer
from models.loading import load_model
from models.packing import pack
from task1_greedy import greedy
from tests.helpers import logits, neutral_generate, tokens

import pytest
import torch

NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "model.embed_tokens": "token_embd",
         "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk"}  # fmt: skip


def gguf_name(name):
    for old, new in NAMES.items():
        name = name.replace(old, new)
    return name


def interleaved(weight, heads):
    """llama.cpp turns neighbours of a query or key, transformers its two halves: rows 0, n/2, 1, n/2 + 1, ... of a head."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).transpose(0, 2, 1, 3).reshape(weight.shape)


def write_gguf(path, pre="gpt-2", architecture="llama", without=()):
    """A random Llama with a byte tokenizer, its matrices in Q8_0; returns the same model as transformers has it."""
    import gguf
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import LlamaConfig, LlamaForCausalLM

    vocabulary = [*CONTROL_TOKENS, *sorted(ByteLevel.alphabet()), "ĊĊ"]
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2000, initializer_range=0.4)).eval()  # fmt: skip
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(2000)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(vocabulary) - 3))
    writer.add_token_merges(["Ċ Ċ"])
    writer.add_eos_token_id(CONTROL_TOKENS.index(END_OF_TEXT))
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, weight in model.state_dict().items():
        values, kind = weight.numpy(), gguf.GGMLQuantizationType.F32
        if weight.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            weight.copy_(torch.from_numpy(gguf.dequantize(gguf.quantize(values, kind), kind)))
            heads = 4 if "q_proj" in name else 2 if "k_proj" in name else None
            values = gguf.quantize(interleaved(values, heads) if heads else values, kind)
        if gguf_name(name) not in without:
            writer.add_tensor(gguf_name(name), values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(path, the model as transformers has it)"""
    path = tmp_path_factory.mktemp("gguf") / "Small-1M.Q8_0.gguf"
    return path, write_gguf(path)


def test_its_weights_tokenizer_template_and_identity(small):
    """Oracle: transformers' Llama with the dequantised weights. Q8_0 keeps 32 weights as one scale d, their largest absolute
    value over 127, and whole numbers: of (1.27, 0.503, 0, ...) d is 0.01, and 0.503 becomes 50 d = 0.50. Source: ggml-quants.c.
    """
    path, model = small
    loaded = load_model(str(path))
    ids = tokens(9, vocab=260)
    torch.testing.assert_close(logits(loaded.model, ids), logits(model, ids), atol=1e-4, rtol=1e-4)
    assert loaded.identity == {
        "name": "Small-1M.Q8_0", "revision": "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()[:16],
        "quantization": "Q8_0", "parameters": sum(weight.numel() for weight in model.parameters()), "engine": "own"}
    assert loaded.tokenizer.chat_template == CHAT_TEMPLATE and context_of(loaded.model) == 2000
    assert loaded.eos_ids == {CONTROL_TOKENS.index(IM_END), loaded.tokenizer.eos_token_id}
    assert loaded.tokenizer.decode(prompt_ids(loaded.tokenizer, "json")[0]) == PROMPTS["json"]
    assert next(load_model(str(path), dtype="bfloat16").model.parameters()).dtype == torch.bfloat16


def test_what_lies_beside_the_file_is_not_the_files(small, model_folder, tmp_path):
    """transformers takes a tokenizer.json beside a GGUF file for the file's own tokenizer."""
    path, model = small
    beside = tmp_path / path.name
    beside.write_bytes(path.read_bytes())
    for other in model_folder.glob("*.json"):
        (tmp_path / other.name).write_bytes(other.read_bytes())
    loaded, alone = load_model(str(beside), engine="transformers"), load_model(str(path), engine="transformers")
    assert loaded.tokenizer.get_vocab() == alone.tokenizer.get_vocab() and loaded.identity == alone.identity
    assert loaded.model.generation_config.to_dict() == alone.model.generation_config.to_dict()


@pytest.mark.parametrize(("pre", "expected"), [("smollm", ["a", "ĊĊ", "1", "2"]), ("gpt-2", ["a", "Ċ", "Ċ", "1", "2"])])
def test_how_it_splits_text(pre, expected, tmp_path):
    """By hand: GPT-2's splitting keeps the last white space before a number apart, so the two line ends never meet; SmolLM2's
    cuts the digits out first, and then both line ends are one piece. Source: the pre_tokenizer of SmolLM2's tokenizer.json,
    Digits(individual_digits) before ByteLevel."""
    write_gguf(tmp_path / "a.gguf", pre)
    assert open_tokenizer(tmp_path / "a.gguf").tokenize("a\n\n12") == expected


def cut(length):
    return lambda path: os.truncate(path, length if length > 0 else path.stat().st_size + length)


@pytest.mark.parametrize(("breaks", "message"), [
    (Path.unlink, "there is no file .*Broken.gguf"),
    (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "is a pointer of Git LFS"),
    (lambda path: path.write_text("<!doctype html>"), "is not a GGUF file"),
    (lambda path: path.write_bytes(b""), "is not a GGUF file"),
    (cut(10), "is cut off or damaged"), (cut(1000), "is cut off or damaged"), (cut(-1000), "is cut off or damaged"),
    (lambda path: write_gguf(path, architecture="gptzero"), "GGUF model with architecture gptzero is not supported"),
    (lambda path: write_gguf(path, without=["blk.1.ffn_up.weight"]), "do not fill the model: .*up_proj.weight is missing"),
])  # fmt: skip
def test_a_file_that_cannot_be_opened(breaks, message, small, tmp_path):
    path = tmp_path / "Broken.gguf"
    path.write_bytes(small[0].read_bytes())
    breaks(path)
    with pytest.raises(InputError, match=message) as caught:
        load_model(str(path))
    assert "\n" not in str(caught.value)


def test_a_task_saves_under_the_files_name(small, run_script, tmp_path):
    code, printed, errors = run_script("task1_greedy.py", "--model", str(small[0]), "--prompt", "json")
    path = tmp_path / "results" / "Small-1M.Q8_0" / "task1_greedy.json"
    assert not code and "=== json" in printed and errors == f"1 texts saved in {path}\n"
    assert json.loads(path.read_text("utf-8"))["model"]["quantization"] == "Q8_0"


@pytest.mark.slow
def test_the_real_model_writes_what_transformers_does(monkeypatch):
    """Oracle: transformers.generate, without penalties, on SmolLM2-135M-Instruct as transformers reads the same file, for both
    engines; our own decoder has its logits. By hand: the JSON below has a key too many, and another currency than asked for."""
    path = Path(os.environ.get("SMOLLM2_GGUF", ""))
    if not path.is_file():
        assert "SMOLLM2_GGUF" not in os.environ and os.environ.get("CI") != "true", "SMOLLM2_GGUF names no file"
        pytest.skip("SMOLLM2'S WEIGHTS ARE NOT HERE, NOTHING WAS COMPARED: SMOLLM2_GGUF must name the file (docs/models.md)")
    monkeypatch.setattr("models.loading.pack", lambda model: None)  # logits to compare, before packing rounds otherwise
    loaded = load_model(str(path), engine="transformers")  # read once: it takes seconds
    assert loaded.identity == {"name": "SmolLM2-135M-Instruct.Q4_1", "revision": loaded.identity["revision"],
                               "quantization": "Q4_1", "parameters": 134_515_008, "engine": "transformers"}
    ours = own_decoder(loaded.model)
    for prompt in PROMPTS:
        ids = prompt_ids(loaded.tokenizer, prompt)
        assert (logits(ours, ids) - logits(loaded.model, ids)).abs().max() <= 1e-4, prompt
    pack(ours)
    for prompt, limit in {"hedgehog": 10, "json": 40}.items():
        ids = prompt_ids(loaded.tokenizer, prompt)
        expected = neutral_generate(loaded.model, ids, limit, *loaded.eos_ids)
        for model in (ours, loaded.model):
            assert [token for _, token, _ in decode(model, ids, greedy, {}, loaded.eos_ids, limit)] == expected, prompt
    assert loaded.tokenizer.decode(expected) == ('{\n  "contractor": "Mike",\n  "sum": 100,\n  "currency": "USD",\n'
                                                 '  "currencyCode": "MXP"\n}<|im_end|>')  # fmt: skip
