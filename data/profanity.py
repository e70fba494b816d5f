"""Words that are never suggested: the list in profanity.txt, English and Russian, and the rule by which a word is on it.

A line of the list is a word in lower case; one that ends with * stands for all words that begin so: `bitch*` is "bitches", too.
A word is compared without its case and punctuation, ё as е, and a letter that stands three times or more as one: "Fuuuuck!" is
`fuck`. What is compared is whole words: "assess" and "Scunthorpe" pass. Mild oaths, damn and crap, are left out;
first names that are rude words, Dick, are not.
"""

import re
from functools import cache
from pathlib import Path

LIST = Path(__file__).with_name("profanity.txt")


def is_profane(word: str) -> bool:
    """Whether a word, what stands between two blanks, is on the list, as a whole or in a part that punctuation sets off."""
    parts = re.findall(r"[^\W_]+", word.lower().replace("ё", "е"))
    return any(is_listed(re.sub(r"(.)\1{2,}", r"\1", part)) for part in {*parts, "".join(parts)})


def is_listed(word: str) -> bool:
    """Whether a word in lower case and without punctuation is on the list."""
    words, beginnings = listed()
    return word in words or word.startswith(beginnings)


@cache
def listed() -> tuple[frozenset[str], tuple[str, ...]]:
    """The list: its words, and the beginnings of others."""
    lines = LIST.read_text("utf-8").split()
    return frozenset(line for line in lines if line[-1] != "*"), tuple(line[:-1] for line in lines if line[-1] == "*")
