"""LSTMLM: continuations as the exercise's snippet asks for them, each row for itself, and opening a folder."""

from support.errors import InputError

from data.messages import encode, learn_tokenizer
from lstm import LSTMLM, load_lstm_lm
from models.loading import load_model
from models.lstm import LSTMConfig

import pytest
import torch

TEXTS = ["i am so tired today", "good morning everyone", "cant wait for the weekend"] * 3
BOS, EOS = 0, 2


@pytest.fixture(scope="module")
def model():
    """A random LSTM with peaked distributions, to which the end is likely enough to come."""
    tokenizer = learn_tokenizer(TEXTS, 290)
    torch.manual_seed(0)
    model = LSTMLM(LSTMConfig(len(tokenizer), 8, 16, 1, BOS, EOS), tokenizer).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.5)
        model.lm_head.bias[EOS] = 2.0
    return model


def by_hand(model, row, limit=20):
    """Greedy, the whole text read again for every token."""
    text = row if row[0] == BOS else [BOS, *row]
    written = []
    with torch.no_grad():
        while len(written) < limit and EOS not in written:
            written.append(model(torch.tensor([text + written])).logits[0, -1].argmax().item())
    return row + written


def rows(seed=0, count=9):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 290, (1 + i % 4,), generator=generator).tolist() for i in range(count)]


def test_the_snippet_of_the_exercise(model, tmp_path):
    """Guards its names: load_lstm_lm, and generate with a prefix of a tensor, which comes back with its continuation."""
    model.save_checkpoint(tmp_path)
    tokenizer, loaded, pad_id, eos_id = load_lstm_lm(tmp_path, "cpu")
    assert (pad_id, eos_id) == (BOS, EOS)
    prefix_ids = tokenizer("i am so", return_tensors="pt").input_ids
    found = loaded.generate(prefix_ids, max_new_tokens=20, eos_id=eos_id)
    assert found[0].tolist() == by_hand(model, prefix_ids[0].tolist())
    assert tokenizer.decode(found[0], skip_special_tokens=True).startswith(" i am so")


def test_rows_of_any_lengths_are_each_what_they_are_alone(model):
    """Oracle: greedy over the whole text, row by row. Bugs of published solutions: pads in front of a shorter row were read,
    and what follows a row's end was part of its text."""
    found = model.generate(rows(), eos_id=EOS)
    assert found == [by_hand(model, row) for row in rows()]
    assert any(EOS in text for text in found)
    for row, text in zip(rows(), found, strict=True):
        assert text[:len(row)] == row and EOS not in text[len(row):-1]


def test_a_tensor_comes_back_as_a_tensor_with_nothing_behind_an_end(model):
    """Oracle: the same rows as a list. Behind its end a row of the tensor holds ends alone."""
    prefixes = [row for row in rows(count=40) if len(row) == 2]
    found = model.generate(torch.tensor(prefixes), eos_id=EOS)
    texts = model.generate(prefixes, eos_id=EOS)
    assert found.shape == (len(prefixes), max(map(len, texts))) and len({len(text) for text in texts}) > 1
    for row, text in zip(found.tolist(), texts, strict=True):
        assert row == text + [EOS] * (len(row) - len(text))


def test_it_stops_when_all_rows_have_ended(model, monkeypatch):
    """Bug: a batch went on to its limit when the last row had ended long before."""
    calls, forward = [], LSTMLM.forward
    monkeypatch.setattr(LSTMLM, "forward", lambda self, *args, **how: calls.append(1) or forward(self, *args, **how))
    text, = model.generate([[5]], max_new_tokens=500, eos_id=EOS)
    assert len(calls) == len(text) - 1 < 500


def test_without_an_end_it_writes_to_the_limit(model):
    assert [len(text) for text in model.generate([[5], [5, 6]], max_new_tokens=7)] == [8, 9]


def test_bos_is_read_but_not_written(model):
    """Guards prefixes of tokenizers that put no BOS: the text is the same with it and without."""
    ids = encode(model.tokenizer, ["good morning"])[0]
    with_it, without = model.generate([[BOS, *ids], ids], eos_id=EOS)
    assert with_it == [BOS, *without]


@pytest.mark.parametrize("settings", [{"temperature": 1.5, "top_k": 30}, {"temperature": 1.5, "top_p": 0.8}])
def test_drawn_rows_depend_on_the_seed_and_their_ids_alone(model, settings):
    """Guards sampling: the same seed, the same texts, in whatever batch; another seed, others."""
    found = model.generate(rows(), eos_id=EOS, seed=1, **settings)
    assert found == [model.generate([row], eos_id=EOS, seed=1, **settings)[0] for row in rows()]
    assert found != model.generate(rows(), eos_id=EOS, seed=2, **settings)


def test_top_k_of_one_is_greedy(model):
    assert model.generate(rows(), eos_id=EOS, temperature=1.0, top_k=1, seed=0) == model.generate(rows(), eos_id=EOS)


@pytest.mark.parametrize("prefix, settings, words", [
    ([], {}, "nothing to continue"), ([[5], []], {}, "nothing to continue"), ([[-1]], {}, "token -1"),
    ([[290]], {}, "token 290 is not among the model's 290"), (torch.tensor([5, 6]), {}, r"must be \(rows, T\), not \(2,\)"),
    (torch.tensor([[0, 5, 6], [0, 5, 0]]), {}, "rows of different lengths as a list"),
    ([[5]], {"max_new_tokens": 0}, "max_new_tokens must be"), ([[5]], {"top_p": 0}, "top_p must be"),
    ([[5]], {"temperature": -1}, "temperature must be"),
])  # fmt: skip
def test_what_cannot_be_continued_is_one_line(model, prefix, settings, words):
    """Guards bad input, ids of another model's vocabulary among it. Bug: rows padded to a tensor were written on behind their
    pads, which are beginnings."""
    with pytest.raises(InputError, match=words):
        model.generate(prefix, **settings)


@pytest.mark.parametrize("size", [280, 330])
def test_a_tokenizer_that_does_not_fit_is_one_line(model, tmp_path, size):
    """Guards a model with the tokenizer of another vocabulary. Bug: a smaller one was taken, and the texts were gibberish."""
    model.save_checkpoint(tmp_path)
    learn_tokenizer([*TEXTS, *"another vocabulary with many other words".split()] * 9, size).save_pretrained(tmp_path)
    for load in (load_lstm_lm, lambda folder: load_model(str(folder))):
        with pytest.raises(InputError, match=f"a tokenizer of {size} tokens for a model of 290"):
            load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="has a tokenizer that cannot be read"):
        load_lstm_lm(tmp_path)
