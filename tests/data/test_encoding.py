"""Texts that a tokenizer without an unknown token cannot encode are named, and nothing is left out silently."""

from support.errors import InputError

from data.encoding import encode_all
from models.chatml import CONTROL_TOKENS

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

LETTERS = {"a": 0, "b": 1, "ж": 2}


def tokenizer(model, pre_tokenizer=None, normalizer=None):
    made = Tokenizer(model)
    if pre_tokenizer:
        made.pre_tokenizer = pre_tokenizer
    if normalizer:
        made.normalizer = normalizer
    made.add_special_tokens([AddedToken(token, special=True) for token in CONTROL_TOKENS])
    return made


WORDS = pre_tokenizers.Whitespace()
KINDS = [(models.WordLevel(LETTERS), "zz"), (models.WordPiece(LETTERS, unk_token="[UNK]"), "zz"),
         (models.Unigram([(letter, -1.0) for letter in LETTERS]), "zz"), (models.BPE(LETTERS, []), "z"),
         (models.BPE(LETTERS, [], unk_token="<unk>"), "zz")]  # fmt: skip


@pytest.mark.parametrize(("model", "named"), KINDS)
def test_what_has_no_token_is_named(model, named):
    """Bugs: a WordLevel file without an unknown token was a traceback, and BPE trained on a text with holes."""
    with pytest.raises(InputError, match=f"^the tokenizer has no token for '{named}', and none for the unknown: "):
        encode_all(tokenizer(model, WORDS), ["a b", "b a zz a"])


@pytest.mark.parametrize("model", [model for model, _ in KINDS])
def test_what_has_tokens_is_encoded(model):
    """White space that the tokenizer cuts away is not meant to become tokens; a control token is none of its words."""
    found = encode_all(tokenizer(model, WORDS), ["a ж\n b", "", "<|im_end|>a"])
    assert [encoding.tokens for encoding in found] == [["a", "ж", "b"], [], ["<|im_end|>", "a"]]


def test_bpe_that_leaves_something_out():
    """By hand: without a pre-tokenizer the space is text, and has no token; an accent that the normalizer drops is no loss;
    of the bytes of z, 7A, and of ж, D0 B6, all have tokens, but those of ю, D1 8E, have none."""
    with pytest.raises(InputError, match="no token for ' '"):
        encode_all(tokenizer(models.BPE(LETTERS, [])), ["a b"])
    accents = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    assert encode_all(tokenizer(models.BPE(LETTERS, []), WORDS, accents), ["á b"])[0].tokens == ["a", "b"]
    byte_tokens = tokenizer(models.BPE({"a": 0, "<0x7A>": 1, "<0xD0>": 2, "<0xB6>": 3}, [], byte_fallback=True), WORDS)
    assert encode_all(byte_tokens, ["aжz"])[0].tokens == ["a", "<0xD0>", "<0xB6>", "<0x7A>"]
    with pytest.raises(InputError, match="no token for 'ю'"):
        encode_all(byte_tokens, ["aжю"])
