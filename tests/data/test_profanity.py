"""Which words are on the list: whole words, with their inflected forms, in two alphabets."""

from data.profanity import LIST, is_profane

import pytest


@pytest.mark.parametrize("word", ["fuck", "fucking", "Fuck!", "fuuuuck", "ass", "Assholes", "bull-shit", "what/the/fuck",
                                  "SHIT...", "сука", "Бляди", "заёбало", "'bitch'", "dumbass"])  # fmt: skip
def test_profane(word):
    """By hand: "Fuuuuck!" is "fuck" without its case, its punctuation and letters that stand more than twice; "fucking" begins
    as the line `fuck*`; "заёбало" as `заеб*`, ё being е."""
    assert is_profane(word)


@pytest.mark.parametrize("word", ["assess", "class", "Scunthorpe", "cocktail", "dickens", "snigger", "therapist", "cumin",
                                  "hello", "", "...", "🙂", "педикюр", "мандарин", "херес", "застрахуй", "тебе", "сукно",
                                  "cool", "off", "shoe", "sixty", "push", "grass", "arsenal", "title", "spice"])  # fmt: skip
def test_not_profane(word):
    """Words that hold a listed one, or begin as one that is listed whole."""
    assert not is_profane(word)


def test_the_list_is_a_word_a_line_as_it_is_compared():
    """In lower case, without ё and punctuation, none of them twice, none of them covered by a beginning."""
    lines = LIST.read_text("utf-8").splitlines()
    assert len(set(lines)) == len(lines) > 200
    for line in lines:
        word = line.removesuffix("*")
        assert word.isalnum() and word == word.lower() and "ё" not in word and is_profane(word)
        assert not any(word.startswith(other[:-1]) for other in lines if other.endswith("*") and other != line), line
