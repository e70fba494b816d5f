"""Tokenizers for a decoder of our own: byte-level BPE, characters, words, or one that already exists.

All are `tokenizers.Tokenizer` objects, saved as tokenizer.json, and hold the three control tokens of ChatML. BPE
(Sennrich et al. 2016, section 3.2; over bytes, Radford et al. 2019, section 2.2) encodes any text without loss;
characters and words that training did not show become `<|unk|>`.
"""

from support.errors import InputError, first_line

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from models.chatml import CONTROL_TOKENS

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

UNKNOWN = "<|unk|>"

# A small-letter word keeps its space, as in GPT-2. A capitalised word does not: so a name is the same tokens after a
# space, after a quote and at the start of a line, and copying it from a request into a JSON is copying ids.
# Digits are split one by one, so that sums can be copied digit by digit.
PIECES = Regex(r"\p{N}| ?[\p{Ll}\p{Lo}\p{Lm}\p{M}]+|[\p{Lu}\p{Lt}][\p{Ll}\p{M}]*| ?[^\s\p{L}\p{M}\p{N}]+|\s")


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE with the whole byte alphabet, so that no text is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(PIECES, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_units(texts: Iterable[str], vocab_size: int, unit: str) -> Tokenizer:
    """A vocabulary of the most frequent matches of the regular expression `unit`; all others are UNKNOWN.

    Raises InputError where `vocab_size` leaves no room for any.
    """
    if vocab_size <= len(CONTROL_TOKENS) + 1:
        raise InputError(f"--vocab-size {vocab_size} cannot hold the control tokens, {UNKNOWN} and more")
    splitter = pre_tokenizers.Split(Regex(unit), "isolated")
    counts = Counter(piece for text in texts for piece, _ in splitter.pre_tokenize_str(text))
    kept = [piece for piece, _ in counts.most_common(vocab_size - len(CONTROL_TOKENS) - 1)]
    vocabulary = {piece: i for i, piece in enumerate((*CONTROL_TOKENS, UNKNOWN, *kept))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer, tokenizer.decoder = splitter, decoders.Fuse()
    return tokenizer


def make_tokenizer(kind: str, texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """The tokenizer that `--tokenizer` names: "bpe", "char" and "word" are trained on `texts`, any other name is a file.

    Raises InputError where the file is missing, is no tokenizer.json, or `vocab_size` cannot hold the alphabet.
    """
    if kind == "bpe":
        if vocab_size < 256 + len(CONTROL_TOKENS):
            raise InputError(f"--vocab-size {vocab_size} cannot hold the 256 bytes and {len(CONTROL_TOKENS)} control tokens")
        tokenizer = train_bpe(texts, vocab_size)
    elif kind == "char":
        tokenizer = train_units(texts, vocab_size, r"[\s\S]")
    elif kind == "word":
        tokenizer = train_units(texts, vocab_size, r"\p{N}| ?\p{L}[\p{L}\p{M}']*|[^\p{L}\p{N}]")
    else:
        tokenizer = read_tokenizer(kind)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    return tokenizer


def read_tokenizer(path: str) -> Tokenizer:
    """A tokenizer.json of any maker. Raises InputError where there is none, or the file is something else."""
    if not Path(path).is_file():
        raise InputError(f"--tokenizer is bpe, char, word or a tokenizer.json: there is no file {path}")
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{path} is no tokenizer.json: {first_line(error)}") from error
    tokenizer.no_truncation()  # either setting, saved with a tokenizer, would drop text or train on padding
    tokenizer.no_padding()
    return tokenizer


def id_count(tokenizer: Tokenizer) -> int:
    """How many rows an embedding needs: one more than the highest id, since the ids of a foreign file may have gaps."""
    return max(tokenizer.get_vocab().values()) + 1
