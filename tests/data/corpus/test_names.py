"""Names: made-up ones hold what real ones hold, their ends tell he from she, and a tokenizer learns from none."""

import random

from data.corpus.names import (
    FIRST_NAMES,
    reserved,
    spelled_like_names,
    story_words,
    welded_of_words,
    without_names,
)

import pytest


def test_a_tokenizer_learns_from_no_name():
    """Long pieces learned from names made "Janedert" of "Jane": only words that are also written in small letters stay.

    By hand: "Cook" occurs once with a capital and twice without, so it stays; "Pay" once each, so it stays; "Jane" twice and
    "MIKE" and "Élise" once with a capital and never without, so they go.
    """
    texts = ["The fox met Jane. Jane saw the fox.", "Pay MIKE, the cook. The Cook and a cook: Élise."]
    expected = ["The fox met .  saw the fox.", "Pay , the cook. The Cook and a cook: ."]
    assert without_names(["pay", *texts]) == ["pay", *expected]


@pytest.mark.parametrize("kind", ["he", "she", "family", "firm"])
def test_welded_names_hold_the_pieces_of_ordinary_words(kind):
    """The decoder lost William and Theo: no name in training began with Will or The, which are whole words to the tokenizer."""
    rng = random.Random(3)
    names = {welded_of_words(rng, kind) for _ in range(3000)}
    assert len(names) > 1500 and not {name.lower() for name in names} & set(story_words())
    assert all(any(name.startswith(word) for name in names) for word in ("The", "Will", "With"))


@pytest.mark.parametrize(("kind", "other"), [("he", "she"), ("she", "he")])
def test_the_end_of_a_first_name_tells_he_from_she(kind, other):
    """Names drawn letter by letter once showed no pronoun, and a decoder called Jane "he"."""
    rng, theirs = random.Random(3), {name[-2:] for name in FIRST_NAMES[other] if not reserved(name)}
    names = [spelled_like_names(rng, kind) for _ in range(300)]
    assert len(set(names)) > 150 and not theirs & {name[-2:] for name in names}


@pytest.mark.parametrize(("parts", "held_out"), [(("Jane",), True), (("JANE",), True), (("Mike",), False),
                                                 (("100.50",), False), (("tiny", "hedgehog"), False)])
def test_a_name_is_held_out_by_its_hash(parts, held_out):
    """About one in ten, wherever it stands and however it is written.

    By hand: zlib.crc32(b"jane") is 4,201,429,650, which ten divides; of b"mike" it is 350,169,046, of b"100.50"
    2,580,917,372, of b"tiny hedgehog" 1,404,417,953.
    """
    assert reserved(*parts) == held_out
