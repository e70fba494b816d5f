"""Whether an answer is right: a transfer's JSON by its values, a story by its hero."""

import json
import re
from decimal import Decimal

from data.corpus.stories import Hero

SENTENCE = re.compile(r"[^.!?]+[.!?]+\"?")


def judge_json(text: str, expected: str) -> tuple[bool, bool]:
    """(it parses, it is right): the same keys as `expected`, and equal values, numbers as decimals."""
    try:
        return True, parsed(text) == parsed(expected)
    except (ValueError, ArithmeticError, RecursionError):  # ArithmeticError: an exponent beyond Decimal's
        return False, False


def parsed(text: str) -> object:
    """A JSON text with exact numbers. An object is its pairs, not a dict: a key that stands twice is one key too many."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=no_constant,
                      object_pairs_hook=lambda pairs: sorted(pairs, key=lambda pair: pair[0]))


def no_constant(name: str) -> None:
    """Refuses NaN and Infinity, which json.loads would take."""
    raise ValueError(f"{name} is not JSON")


def keeps_hero(text: str, hero: Hero) -> bool:
    """Whether the hero's name and animal both stand in the first and in the last third of the text."""
    third = len(text) // 3
    words = (rf"\b{word}\b" for word in (hero.name, hero.animal))
    return all(re.search(word, part) for word in words for part in (text[:third], text[-third:]))
