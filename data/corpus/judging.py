"""Whether an answer is right: a transfer's JSON by its values, a story by its hero."""

import json
import re
from decimal import Decimal

from data.corpus.stories import Hero

SENTENCE = re.compile(r"[^.!?]+[.!?]+\"?")  # with a quotation mark that closes it


def judge_json(text: str, expected: str) -> tuple[bool, bool]:
    """(it parses, it is right): right means the keys of `expected`, in any order, with equal values, numbers as decimals."""
    try:
        return True, parsed(text) == parsed(expected)
    except (ValueError, ArithmeticError, RecursionError):  # ArithmeticError: an exponent beyond Decimal's
        return False, False


def parsed(text: str) -> object:
    """A JSON text with exact numbers. An object becomes its sorted pairs, not a dict, in which a repeated key would be lost."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=no_constant,
                      object_pairs_hook=lambda pairs: sorted(pairs, key=lambda pair: pair[0]))


def no_constant(name: str) -> None:
    """Raises ValueError for NaN and Infinity, which json.loads would accept."""
    raise ValueError(f"{name} is not JSON")


def keeps_hero(text: str, hero: Hero) -> bool:
    """Whether the hero's name and animal both stand in the first and in the last third of the text."""
    third = len(text) // 3
    words = (rf"\b{word}\b" for word in (hero.name, hero.animal))
    return all(re.search(word, part) for word in words for part in (text[:third], text[-third:]))
