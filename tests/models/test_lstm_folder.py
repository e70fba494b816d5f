"""The folder of an LSTM language model: what is in it, who opens it, and what is wrong with a broken one."""

from support.errors import InputError

import json
import sys

import chat
from data.messages import encode, learn_tokenizer
from models.loading import load_model
from models.lstm import LSTM, LSTMConfig
from models.lstm_folder import load_lstm, save_lstm
from strategies import continue_ids

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

FILES = ["config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]


@pytest.fixture(scope="module")
def tokenizer():
    return learn_tokenizer(["i am so tired today", "good morning everyone"] * 3, 290)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    return LSTM(LSTMConfig(len(tokenizer), 8, 16, 1, 0, 2)).eval()


@pytest.fixture
def folder(model, tokenizer, tmp_path):
    save_lstm(model, tokenizer, tmp_path / "lstm", torch.float32)
    return tmp_path / "lstm"


def test_what_is_saved_is_loaded(model, tokenizer, folder):
    """Guards the folder: its files, the same weights, the same tokens by AutoTokenizer, a token a line in vocab.txt."""
    assert sorted(path.name for path in folder.iterdir()) == FILES
    loaded = load_lstm(folder)
    assert loaded.config == model.config and not loaded.training
    for (name, weight), other in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name
    opened = AutoTokenizer.from_pretrained(folder)
    assert opened("i am so").input_ids == tokenizer("i am so").input_ids
    assert (opened.bos_token_id, opened.eos_token_id, opened.pad_token_id) == (0, 2, 0)
    tokens = (folder / "vocab.txt").read_text("utf-8").split("\n")[:-1]
    assert tokens == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))


def test_sixteen_bits_are_half_as_many(model, tokenizer, tmp_path):
    """Guards the shipped file: two bytes a weight, the head not stored beside the embedding."""
    save_lstm(model, tokenizer, tmp_path, torch.bfloat16)
    weights = load_file(tmp_path / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert sum(map(torch.numel, weights.values())) == sum(weight.numel() for weight in model.parameters())
    assert load_lstm(tmp_path).embed_tokens.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_opens_as_any_model(model, tokenizer, folder, dtype):
    """Guards load_model: the packed LSTM gives the logits of the plain one, and ends with its own end alone."""
    loaded = load_model(str(folder), dtype=dtype)
    ids = torch.tensor([[0, *encode(tokenizer, ["i am so"])[0]]])
    with torch.no_grad():
        assert torch.allclose(loaded.model(ids).logits.float(), model(ids).logits, atol=1e-5 if dtype == "float32" else 0.05)
    assert loaded.eos_ids == {2}
    assert loaded.identity["engine"] == "own"
    assert loaded.identity["parameters"] == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("script", ["task1_greedy.py", "task2_sampling.py", "task3_temperature.py", "task4_nucleus.py",
                                    "task5_beam.py"])  # fmt: skip
def test_every_task_runs_on_it(script, model, tokenizer, folder, run_script, tmp_path, recwarn):
    """Guards the five strategies on an LSTM, unchanged: its prompt is BOS and the text, and nothing else. Bug: a context
    without limit made torch warn of a slice that long."""
    code, out, errors = run_script(script, "--model", str(folder), "--prompt", "i am so")
    assert code == 0, errors
    assert not [warning for warning in recwarn if "slice" in str(warning.message)]
    results = json.loads((tmp_path / "results" / "lstm" / script.replace(".py", ".json")).read_text("utf-8"))
    assert all(run["token_ids"] for run in results["runs"])
    if script == "task1_greedy.py":
        ids = tokenizer("i am so", return_tensors="pt").input_ids
        text = continue_ids(model, ids, frozenset([2]), temperature=0, max_new_tokens=8)
        assert results["runs"][0]["token_ids"] == list(text)


def test_a_chat_with_it_is_refused_in_one_line(folder, monkeypatch, capsys):
    """Guards a memory that cannot be cut back, as a conversation needs it."""
    monkeypatch.setattr(sys, "argv", ["chat.py", "--model", str(folder), "--once", "hello"])
    with pytest.raises(SystemExit) as stop:
        chat.main()
    errors = capsys.readouterr().err
    assert stop.value.code == 2 and "an LSTM's memory cannot be cut back" in errors and errors.count("\n") == 1


def change(folder, **fields):
    content = {**json.loads((folder / "config.json").read_text("utf-8")), **fields}
    (folder / "config.json").write_text(json.dumps(content), "utf-8")


def lose(folder, name):
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize("spoil, words", [
    (lambda folder: (folder / "model.safetensors").unlink(), "holds no model.safetensors"),
    (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "cannot be read"),
    (lambda folder: (folder / "config.json").write_text("{"), "does not say model_type"),
    (lambda folder: change(folder, model_type="llama"), "does not say model_type"),
    (lambda folder: change(folder, hidden_size=17), r"weight lstm.weight_ih_l0 is \(64, 8\), the configuration says \(68, 8\)"),
    (lambda folder: change(folder, hidden_size=-1), "hidden_size must be above 0"),
    (lambda folder: lose(folder, "projection.bias"), "weight projection.bias is None"),
    (lambda folder: lose(folder, "embed_tokens.weight"), "weight embed_tokens.weight is None"),
])  # fmt: skip
def test_a_broken_folder_is_one_line(folder, spoil, words):
    spoil(folder)
    with pytest.raises(InputError, match=words):
        load_lstm(folder)


@pytest.mark.parametrize("spoil", [
    lambda folder: (folder / "model.safetensors").unlink(),
    lambda folder: (folder / "tokenizer.json").unlink(),
    lambda folder: change(folder, hidden_size=17),
])  # fmt: skip
def test_a_broken_folder_is_one_line_in_a_task(folder, spoil, run_script):
    spoil(folder)
    code, _, errors = run_script("task1_greedy.py", "--model", str(folder), "--prompt", "i am so")
    assert code == 2 and errors.startswith("error: ") and errors.count("\n") == 1
