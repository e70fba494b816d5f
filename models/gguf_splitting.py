"""How llama.cpp is to split a text into pieces before the merges of a byte-level BPE: a name, for a GGUF file.

llama.cpp has a list of named splittings, and takes no regular expression from a file. Three are those of well-known models. Any
other tokenizer gets `superbpe`, which takes out the numbers and splits nothing else. That gives the same tokens where no merge
can join what the tokenizer itself keeps apart; where one can, the tokenizer is refused.
"""

from support.errors import InputError

import itertools
import json
import unicodedata
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer, pre_tokenizers

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
GPT2 = {**BYTES, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
UNKNOWN = "llama.cpp cannot split texts as this tokenizer does"
WAY_OUT = "a decoder trained with GPT-2's or Qwen2's tokenizer.json can be exported"


def splitting(tokenizer: Tokenizer) -> str:
    """The name of the splitting with which llama.cpp gives the tokenizer's own ids. Raises InputError where there is none."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    content = json.loads(tokenizer.to_str())
    model, steps = content["model"], steps_of(content["pre_tokenizer"])
    if model["type"] != "BPE" or not steps or steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        raise InputError("a GGUF file holds byte-level BPE alone, no characters or words: train with --tokenizer bpe")
    if content["normalizer"] not in (None, {"type": "NFC"}) or model["ignore_merges"] or tokenizer.encode("").ids:
        raise InputError("a GGUF file cannot hold what this tokenizer does to a text before or after its merges")
    qwen2 = {"type": "Split", "pattern": {"Regex": PRETOKENIZE_REGEX}, "behavior": "Isolated", "invert": False}
    for name, known in {"gpt-2": [GPT2], "smollm": [DIGITS, GPT2], "qwen2": [qwen2, BYTES]}.items():
        if steps == known:
            return name
    spelled = {letter: byte for byte, letter in bytes_to_unicode().items()}
    merges = [tuple(bytes(spelled[letter] for letter in part) for part in merge) for merge in model["merges"]]
    alphabet = sorted({character for merge in merges for character in b"".join(merge).decode(errors="ignore")}
                      | set(map(chr, range(128))))  # fmt: skip
    check_numbers(tokenizer.pre_tokenizer, alphabet)
    check_merges(tokenizer.pre_tokenizer, merges, [character.encode() for character in alphabet])
    return "superbpe"


def steps_of(pre_tokenizer: dict | None) -> list[dict]:
    """The steps of a pre-tokenizer in tokenizer.json, without a field that changes no token."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer] * (pre_tokenizer is not None))
    return [{name: value for name, value in step.items() if name != "trim_offsets"} for step in steps]


def check_numbers(pieces: pre_tokenizers.PreTokenizer, alphabet: Iterable[str]) -> None:
    """Raises InputError where the tokenizer does not split on both sides of every number, as `superbpe` does."""
    numbers = [character for character in alphabet if unicodedata.category(character)[0] == "N"]
    for number, other in itertools.product(numbers, alphabet):
        for text in (number + other, other + number):
            if not splits(pieces, text, 1):
                raise InputError(f"{UNKNOWN}: it would split {text!r}; {WAY_OUT}")


def check_merges(pieces: pre_tokenizers.PreTokenizer, merges: Iterable[tuple[bytes, bytes]], alphabet: list[bytes]) -> None:
    """Raises InputError where a merge could join what the tokenizer keeps apart, in a text of the alphabet."""
    for first, second in merges:
        for left, right in whole(first, second, alphabet):
            for before in ("", "A"):  # what begins with a capital letter may be split otherwise
                if splits(pieces, before + left + right, len(before + left)):
                    raise InputError(f"{UNKNOWN}: it would not split {before + left + right!r}; {WAY_OUT}")


def splits(pieces: pre_tokenizers.PreTokenizer, text: str, place: int) -> bool:
    """Whether a piece begins at a place of the text."""
    return any(start == place for _, (start, _) in pieces.pre_tokenize_str(text))


def whole(first: bytes, second: bytes, alphabet: list[bytes]) -> Iterator[tuple[str, str]]:
    """The texts in which the bytes of a merge's two parts meet between characters: what is cut off is completed.

    By hand: "о" = D0 BE and D0 meet in "о" + "д" (D0 B4), "о" + "Д" (D0 94), ...; 20 D0 and BE only within a character.
    """
    if 0x80 <= second[0] < 0xC0:  # not the first byte of a character
        return
    cut = len(first) - len(first.lstrip(bytes(range(0x80, 0xC0))))
    tail = second[len(second.decode(errors="ignore").encode()):]
    heads = [c[:-cut] for c in alphabet if c.endswith(first[:cut]) and len(c) > cut] if cut else [b""]
    tails = [c[len(tail):] for c in alphabet if c.startswith(tail) and len(c) > len(tail)] if tail else [b""]
    for head in heads:
        for rest in tails:
            yield (head + first).decode(), (second + rest).decode()
