"""The tokenizers: nothing is lost, nothing is out of range, and transformers opens what is saved."""

import itertools
import json
import re
import unicodedata
from pathlib import Path

from data.corpus import training_documents
from data.tokenizer import CONTROL_TOKENS, UNKNOWN, id_count, make_tokenizer, train_bpe
from models.checkpoint import save_checkpoint
from models.transformer import Transformer, TransformerConfig
from tests.helpers import ROOT

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

QWEN = ROOT.parent / "shared" / "data" / "qwen2.5-tokenizer"
KINDS = ("bpe", "char", "word")
TRICKY = [
    "", " ", "\n",
    "  two  spaces\n\n\ttabs \r\n", "Ёжик по имени Соник нашёл яблоко — и съел его.",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽",
    "\x00\x01\x1f\x7f\u200b\u2028\ufeff\ufffd", "e\u0301 É ﬁ ½ ² ٣ ৩",
    "日本語とHànzì", "\U0010ffff", "don't can't 'tis",
    "McDonald's iPhone USA \"Sonic\" (Sonic) 1,000.50$", "İstanbul ǅ ß ẞ",
]
quick = settings(max_examples=150, deadline=None, derandomize=True)
any_text = st.text(st.characters(exclude_categories=["Cs"]))


def documents(count):
    return [document.prompt + document.answer for document in itertools.islice(training_documents(3), count)]


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: make_tokenizer(kind, documents(150), 700) for kind in KINDS}


@pytest.fixture(scope="module")
def bpe(tokenizers):
    return tokenizers["bpe"]


@pytest.fixture(scope="module")
def checkpoint_tokenizer(bpe, tmp_path_factory):
    """AutoTokenizer's for a whole checkpoint, whose config.json says qwen2."""
    folder = tmp_path_factory.mktemp("checkpoint")
    config = TransformerConfig(vocab_size=700, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                               num_attention_heads=2, bos_token_id=0, eos_token_id=2)
    save_checkpoint(Transformer(config, bpe), folder, torch.float32)
    return AutoTokenizer.from_pretrained(folder)


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


# ------------------------------------------------------------------------------------------------------------ bpe


def test_three_merges_by_hand():
    """Oracle: Sennrich et al. 2016, section 3.2, algorithm 1: the most frequent pair of symbols becomes a symbol.

    By hand: "low low lower" is cut into "low", " low" and " lower"; a space is written as Ġ. The pairs l+o and o+w occur
    three times each, and the one whose symbols have the lower ids comes first: lo. Now lo+w occurs three times: low. Then
    Ġ+low twice, all others once: Ġlow. The three follow the 3 control tokens and the 256 bytes: ids 259, 260, 261.
    """
    tokenizer = train_bpe(["low low lower"], 3 + 256 + 3)
    assert [tokenizer.id_to_token(i) for i in (259, 260, 261)] == ["lo", "low", "Ġlow"]
    assert tokenizer.encode("lower low").tokens == ["low", "e", "r", "Ġlow"]


@pytest.mark.parametrize("text", TRICKY)
def test_bpe_gives_back_tricky_texts(bpe, text):
    """Russian, emoji of several code points, control characters, combining marks: not normalised, nothing dropped."""
    assert bpe.decode(ids(bpe, text), skip_special_tokens=False) == text


@quick
@given(text=any_text)
def test_bpe_gives_back_any_text(bpe, text):
    """Byte-level: every text can be written with it."""
    assert bpe.decode(ids(bpe, text), skip_special_tokens=False) == text


def test_bpe_holds_every_byte(bpe):
    """Also bytes that the training text never had."""
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= set(bpe.get_vocab())


def test_bpe_takes_digits_one_by_one(bpe):
    """A sum must be copied digit by digit, so no token holds two digits, or a digit and something else."""
    assert all(len(token) == 1 for token in bpe.get_vocab() if any(c.isascii() and c.isdigit() for c in token))
    assert bpe.encode(" 1234.50").tokens == ["Ġ", "1", "2", "3", "4", ".", "5", "0"]


@pytest.mark.parametrize("name", ["Mike", "Sonic", "Blovina", "Соник", "Élodie", "X"])
def test_a_name_is_the_same_ids_wherever_it_stands(bpe, name):
    """After a space, a quote, at a line's start: copying a name from a request into a JSON is copying ids."""
    alone = ids(bpe, name)
    for before in (" ", '"', "\n", "to ", ': "', "("):
        assert ids(bpe, before + name) == ids(bpe, before) + alone
        assert ids(bpe, before + name + '"') == ids(bpe, before) + alone + ids(bpe, '"')


# ------------------------------------------------------------------------------------------------------ all kinds


@pytest.mark.parametrize("kind", KINDS)
def test_control_tokens_are_single_ids(tokenizers, kind):
    """The frame of a request, and the EOS, whatever is next to them; plain decoding leaves them out."""
    tokenizer = tokenizers[kind]
    assert [ids(tokenizer, token) for token in CONTROL_TOKENS] == [[0], [1], [2]]
    a, line_end = ids(tokenizer, "a"), ids(tokenizer, "\n")
    assert ids(tokenizer, "a<|im_end|>\n<|im_start|>a") == [*a, 2, *line_end, 1, *a]
    assert tokenizer.decode([1, *ids(tokenizer, " short"), 2]).strip() == "short"


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_of_the_training_comes_back(tokenizers, kind):
    """Of known characters and words nothing is lost, including spaces and line ends."""
    text = "Transfer 100.50 rubles to"
    assert tokenizers[kind].decode(ids(tokenizers[kind], text)) == text
    for document in documents(20):
        encoding = tokenizers[kind].encode(document, add_special_tokens=False)
        if UNKNOWN not in encoding.tokens:
            assert tokenizers[kind].decode(encoding.ids, skip_special_tokens=False) == document


@quick
@given(text=any_text)
@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_always_in_range(tokenizers, kind, text):
    """No None and no index past the embedding, and a text is never silently dropped."""
    found = ids(tokenizers[kind], text)
    assert all(isinstance(i, int) and 0 <= i < 700 for i in found)
    assert bool(found) == bool(text)


@pytest.mark.parametrize(("kind", "text", "count"), [
    ("char", "Ж", 1), ("char", "ЖЫ", 2), ("char", "\x00", 1), ("word", "quibblefax", 1),
    ("word", " Ёжик", 1), ("word", "☃☃", 2),
])
def test_the_unknown_is_the_unknown_token(tokenizers, kind, text, count):
    """One unknown token for each character or word that training did not show."""
    unknown = tokenizers[kind].token_to_id(UNKNOWN)
    assert unknown is not None and ids(tokenizers[kind], text) == [unknown] * count


@pytest.mark.parametrize(("kind", "size"), [
    ("bpe", 259), ("bpe", 400), ("char", 20), ("char", 700), ("word", 5), ("word", 700),
])
def test_the_vocabulary_keeps_its_limit(kind, size):
    """The model's embedding is as large as was asked for: a token more would be an index error."""
    tokenizer = make_tokenizer(kind, documents(30), size)
    assert tokenizer.get_vocab_size() <= size
    assert sorted(tokenizer.get_vocab().values()) == list(range(tokenizer.get_vocab_size()))


# --------------------------------------------------------------------------------------------------- transformers


@pytest.mark.parametrize("kind", KINDS)
def test_auto_tokenizer_opens_a_saved_tokenizer(tokenizers, kind, tmp_path):
    """The file alone, with the class named beside it: the same ids for corpus and tricky texts."""
    tokenizers[kind].save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    opened = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TRICKY, *documents(20)]:
        assert opened.encode(text, add_special_tokens=False) == ids(tokenizers[kind], text)


def test_auto_tokenizer_gives_a_checkpoints_ids_for_the_corpus(bpe, checkpoint_tokenizer):
    """AutoTokenizer uses Qwen2's pre-tokenizer for a model of type qwen2; our BPE must give the same ids with it."""
    for text in documents(200):
        assert checkpoint_tokenizer.encode(text, add_special_tokens=False) == ids(bpe, text)


def test_a_checkpoint_says_what_its_model_takes(checkpoint_tokenizer):
    """`model.generate(**tokenizer(text))` failed in transformers 4.57: the tokenizer added token_type_ids."""
    settings = json.loads((Path(checkpoint_tokenizer.name_or_path) / "tokenizer_config.json").read_text("utf-8"))
    assert settings["model_input_names"] == ["input_ids", "attention_mask"] == list(checkpoint_tokenizer("a"))


@quick
@given(text=any_text)
def test_auto_tokenizer_gives_a_checkpoints_ids_for_any_nfc_text(bpe, checkpoint_tokenizer, text):
    """Qwen2's tokenizer normalises to NFC and cuts 't off 'the (as in don't); ours does not. Otherwise the ids are the same."""
    text = unicodedata.normalize("NFC", text)
    assume(not re.search(r"'(?:[stmd]|re|ve|ll)", text, re.IGNORECASE))
    assert checkpoint_tokenizer.encode(text, add_special_tokens=False) == ids(bpe, text)


# -------------------------------------------------------------------------------------------------- existing files


def test_an_existing_tokenizer_gains_the_missing_control_tokens(tmp_path):
    """Any tokenizer.json will do: its own ids stay, the control tokens come behind them."""
    plain = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.save(str(tmp_path / "tokenizer.json"))
    tokenizer = make_tokenizer(str(tmp_path / "tokenizer.json"), [], 10)
    assert ids(tokenizer, "a b c") == [0, 1, 2]
    assert sorted(ids(tokenizer, token)[0] for token in CONTROL_TOKENS) == [3, 4, 5]
    assert ids(tokenizer, "a<|im_end|>b") == [0, tokenizer.token_to_id("<|im_end|>"), 1]


def test_our_own_saved_tokenizer_is_unchanged(bpe, tmp_path):
    """Control tokens that are there already are not added again."""
    bpe.save(str(tmp_path / "tokenizer.json"))
    again = make_tokenizer(str(tmp_path / "tokenizer.json"), [], 700)
    assert again.get_vocab() == bpe.get_vocab()


@pytest.mark.slow
@pytest.mark.skipif(not QWEN.is_dir(), reason="Qwen2.5's tokenizer is not here")
def test_qwens_own_tokenizer_keeps_its_ids(tmp_path):
    """A real tokenizer of another maker."""
    AutoTokenizer.from_pretrained(QWEN).backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokenizer = make_tokenizer(str(tmp_path / "tokenizer.json"), [], 151_936)
    assert [tokenizer.token_to_id(token) for token in CONTROL_TOKENS] == [151_643, 151_644, 151_645]
    assert tokenizer.decode(ids(tokenizer, "Ёжик 👍🏽 100.50")) == "Ёжик 👍🏽 100.50"


@pytest.mark.parametrize("content", [None, "", "{}", "[1", "a novel", "\x00\x01", '{"model": {"type": "Magic"}}'])
def test_a_file_that_is_no_tokenizer_is_a_one_line_value_error(tmp_path, content):
    """Missing, empty, JSON of another kind, text, bytes: the message names the file."""
    path = tmp_path / "some.json"
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(ValueError) as error:
        make_tokenizer(str(path), [], 700)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [-1, 0, 4])
def test_a_vocabulary_that_cannot_hold_the_alphabet_is_a_one_line_value_error(kind, size):
    """Not a tokenizer of more tokens than were asked for."""
    with pytest.raises(ValueError, match=f"^--vocab-size {size} cannot hold .*$"):
        make_tokenizer(kind, ["a story"], size)


def test_truncation_and_padding_saved_with_a_tokenizer_are_off(bpe, tmp_path):
    """Bug: they silently dropped text, or trained on padding. A piece of a book is far longer than any such limit."""
    limited = Tokenizer.from_str(bpe.to_str())
    limited.enable_truncation(4)
    limited.enable_padding(length=64)
    limited.save(str(tmp_path / "tokenizer.json"))
    text = "Once upon a time there was a hedgehog."
    assert make_tokenizer(str(tmp_path / "tokenizer.json"), [], 1).encode(text).ids == bpe.encode(text).ids


def test_ids_with_a_gap_all_get_an_embedding():
    """Bug: the vocabulary's size was taken for the highest id, so the ids of a foreign file with a gap were out of range."""
    assert id_count(Tokenizer(models.WordLevel({"a": 0, "b": 7}, unk_token="a"))) == 8
