"""Texts as tokens without loss, whatever the tokenizer.

A tokenizer without an unknown token fails at a word that it has no token for; BPE leaves the character out and says nothing.
"""

from support.errors import InputError

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from models.chatml import CONTROL_TOKENS

from tokenizers import Encoding, Tokenizer, models, pre_tokenizers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTROL = re.compile("|".join(map(re.escape, CONTROL_TOKENS)))


def encode_all(tokenizer: Tokenizer, texts: list[str]) -> list[Encoding]:
    """The encodings of the texts. Raises InputError, which names the word or the character, where one would be lost."""
    lost = None
    try:
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
        if leaves_out(tokenizer) and (word := next(words_lost(tokenizer, texts), "")):
            lost = next((character for character in word if not is_encoded(tokenizer, character)), word)
    except Exception:  # the library raises plain Exception
        lost = next(words_lost(tokenizer, texts), "a part of it")
    if lost is not None:
        raise InputError(f"the tokenizer has no token for {lost!r}, and none for the unknown: choose another --tokenizer")
    return encodings


def plain_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> Tokenizer:
    """A copy of a tokenizer that takes what looks like a control token for ordinary characters, and cuts and pads nothing."""
    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.encode_special_tokens = True
    plain.no_truncation()
    plain.no_padding()
    return plain


def leaves_out(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer may leave characters out: BPE without an unknown token that does not hold all bytes."""
    bytes_known = all(tokenizer.token_to_id(letter) is not None for letter in pre_tokenizers.ByteLevel.alphabet())
    return isinstance(tokenizer.model, models.BPE) and tokenizer.model.unk_token is None and not bytes_known


def words_lost(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[str]:
    """The words of the texts, as the tokenizer cuts them, that it cannot encode, or not wholly."""
    known = set()
    for word in (word for text in texts for part in CONTROL.split(text) for word in words_of(tokenizer, part)):
        if word not in known and not is_encoded(tokenizer, word):
            yield word
        known.add(word)


def words_of(tokenizer: Tokenizer, text: str) -> list[str]:
    """A text as the tokenizer cuts it before it looks for tokens."""
    text = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)] if tokenizer.pre_tokenizer else [text]


def is_encoded(tokenizer: Tokenizer, word: str) -> bool:
    """Whether a word's tokens hold all of it."""
    try:
        places = [token.offsets for token in tokenizer.model.tokenize(word)]  # in bytes
        return sum(end - start for start, end in places) == len(word.encode())
    except Exception:  # the library raises plain Exception
        return False
