"""Checkpoints: plain Hugging Face folders, in both directions; broken ones are one line; a failed save loses nothing."""

from support.errors import InputError

import json
from dataclasses import asdict

from generator import GeneratorTransformer
from models import checkpoint
from tests.helpers import logits, randomise, shape, tokens

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM


def theirs(config):
    return Qwen2ForCausalLM(Qwen2Config(**asdict(config), attn_implementation="eager"))


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_opens_a_saved_folder_with_nothing_missing(bpe, tmp_path, tied):
    """The folder is a plain Hugging Face folder: no key too few or too many, and the same logits.

    By hand, for a tied head, which no file holds: the logit of a token is the final vector times its embedding, (1, 2) · (3, 0)
    = 3.
    """
    ours = randomise(GeneratorTransformer(shape(tied=tied, theta=1e6), bpe), 5)
    ours.save_checkpoint(tmp_path)
    reference, info = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert isinstance(reference, Qwen2ForCausalLM)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(logits(ours, tokens(19)), logits(reference, tokens(19)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_that_transformers_wrote_opens(bpe, tmp_path, tied):
    """Transformers 5 keeps rope_theta elsewhere and leaves out tied weights: both must be understood."""
    reference = randomise(theirs(shape(tied=tied, theta=1e6)), 6)
    reference.save_pretrained(tmp_path)
    bpe.save(str(tmp_path / "tokenizer.json"))
    ours = GeneratorTransformer.load_from_checkpoint(tmp_path)
    assert ours.config.rope_theta == 1e6
    torch.testing.assert_close(logits(ours, tokens(19)), logits(reference, tokens(19)), atol=1e-4, rtol=0)


def test_a_folder_without_bos_still_continues_a_plain_text(model_folder):
    """Qwen2Config names no BOS unless told to: then a text begins with itself."""
    ours = GeneratorTransformer.load_from_checkpoint(model_folder)
    assert ours.config.bos_token_id is None
    assert isinstance(ours.generate("Once", max_out_tokens=3, seed=1), str)


def test_a_bfloat16_folder_holds_the_rounded_weights(decoder, tmp_path):
    """Saved in bfloat16, loaded in float32: rounded once and nothing else lost.

    By hand: between 1 and 2 bfloat16 has steps of 1/128, so 1.005 = 128.64/128 becomes 129/128 = 1.0078125.
    """
    decoder.save_checkpoint(tmp_path, torch.bfloat16)
    ours = GeneratorTransformer.load_from_checkpoint(tmp_path)
    for name, weight in decoder.state_dict().items():
        assert ours.state_dict()[name].dtype == torch.float32
        assert torch.equal(ours.state_dict()[name], weight.bfloat16().float()), name
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(logits(ours, tokens(9)), logits(reference, tokens(9)), atol=1e-4, rtol=0)


def edit_config(folder, **changes):
    content = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**content, **changes}), "utf-8")


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


NORM = "model.norm.weight"
SPOILERS = {
    "no config": lambda folder: (folder / "config.json").unlink(),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "truncated weights": lambda folder: cut(folder / "model.safetensors"),
    "empty weights": lambda folder: cut(folder / "model.safetensors", 0),
    "truncated tokenizer": lambda folder: cut(folder / "tokenizer.json"),
    "truncated config": lambda folder: cut(folder / "config.json"),
    "generation config is a list": lambda folder: (folder / "generation_config.json").write_text("[]"),
    "config is a list": lambda folder: (folder / "config.json").write_text("[]"),
    "wrong shape": lambda folder: edit_weights(folder, lambda w: w.update({NORM: torch.ones(3)})),
    "missing weight": lambda folder: edit_weights(folder, lambda w: w.pop(NORM)),
    "missing tied weight": lambda folder: edit_weights(folder, lambda w: w.pop("model.embed_tokens.weight")),
    "unknown weight": lambda folder: edit_weights(folder, lambda w: w.update({"extra": torch.ones(3)})),
    "vocabulary below the tokenizer": lambda folder: edit_config(folder, vocab_size=200),
    "vocabulary above the weights": lambda folder: edit_config(folder, vocab_size=301),
    "more layers": lambda folder: edit_config(folder, num_hidden_layers=3),
    "fewer layers": lambda folder: edit_config(folder, num_hidden_layers=1),
    "another model": lambda folder: edit_config(folder, model_type="llama"),
    "another activation": lambda folder: edit_config(folder, hidden_act="gelu"),
    "scaled positions": lambda folder: edit_config(folder, rope_scaling={"type": "linear", "factor": 2.0}),
    "sliding window": lambda folder: edit_config(folder, use_sliding_window=True),
    "heads and width": lambda folder: edit_config(folder, num_attention_heads=3, num_key_value_heads=3),
    "kv heads and heads": lambda folder: edit_config(folder, num_key_value_heads=3),
    "no heads": lambda folder: edit_config(folder, num_attention_heads=0),
    "negative width": lambda folder: edit_config(folder, hidden_size=-16),
    "size is text": lambda folder: edit_config(folder, hidden_size="wide"),
}


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
def test_a_broken_checkpoint_is_a_one_line_value_error(folder, spoil):
    """Never a traceback of a library, never random weights in place of missing ones."""
    spoil(folder)
    with pytest.raises(InputError) as error:
        GeneratorTransformer.load_from_checkpoint(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_folder_is_a_one_line_value_error(tmp_path):
    """The message names the folder."""
    with pytest.raises(InputError, match="nowhere is no checkpoint"):
        GeneratorTransformer.load_from_checkpoint(tmp_path / "nowhere")


def test_a_save_that_fails_halfway_leaves_the_old_checkpoint(decoder, bpe, folder, monkeypatch):
    """A full disk must cost neither the old decoder nor leave half a file behind."""
    names = sorted(path.name for path in folder.iterdir())

    def full_disk(weights, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(InputError, match="No space left") as error:
        randomise(GeneratorTransformer(shape(), bpe), 8).save_checkpoint(folder)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in folder.iterdir()) == names
    loaded = GeneratorTransformer.load_from_checkpoint(folder)
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in decoder.state_dict().items())


def test_who_may_read_a_checkpoint_may_read_its_weights(folder):
    """safetensors lets nobody but the owner read a file, so a server under another user could not open the folder."""
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def test_a_checkpoint_gives_back_the_model_and_its_texts(decoder, folder):
    """Saved and loaded: the same configuration, weights and continuation, and no dropout."""
    loaded = GeneratorTransformer.load_from_checkpoint(folder, dropout=0.5)
    assert loaded.config == decoder.config and not loaded.training
    assert loaded.generate("Once", seed=1, max_out_tokens=9) == decoder.generate("Once", seed=1, max_out_tokens=9)
