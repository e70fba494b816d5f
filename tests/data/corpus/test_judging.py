"""Judging answers: a transfer's JSON by its values, a story by its hero."""

from data.corpus.judging import SENTENCE, judge_json, keeps_hero
from data.corpus.stories import Hero

import pytest


@pytest.mark.parametrize(("text", "judgement"), [
    ('{"contractor": "Mike", "sum": 100.50, "currency": "RUB"}', (True, True)),
    ('\n{"currency": "RUB", "sum": 100.5, "contractor": "Mike"} ', (True, True)),
    ('{"contractor": "Mike", "sum": 1.005e2, "currency": "RUB"}', (True, True)),
    ('{"contractor": "Mike", "sum": "100.50", "currency": "RUB"}', (True, False)),
    ('{"contractor": "Mike", "sum": 100.50000000000000001, "currency": "RUB"}', (True, False)),
    ('{"contractor": "Mike", "sum": 105, "currency": "rubles"}', (True, False)),
    ('{"contractor": "Mike", "sum": 100.50, "currency": "RUB", "x": 1}', (True, False)),
    ('{"sum": 1, "contractor": "Mike", "sum": 100.50, "currency": "RUB"}', (True, False)),
    ('[["contractor", "Mike"], ["currency", "RUB"], ["sum", 100.50]]', (True, False)),
    ('{"contractor": "Mike", "sum": 1e9999999999999999999999, "currency": "RUB"}', (False, False)),
    ('{"contractor": "Mike", "sum": NaN, "currency": "RUB"}', (False, False)),
    ('{"contractor": "Mike"', (False, False)), ("", (False, False)), ("[" * 100_000, (False, False)),
    ("100.50", (True, False)), ("null", (True, False))])
def test_judge_json(text, judgement):
    """Oracle: JSON's own rules (RFC 8259), numbers taken as decimals.

    By hand: 1.005e2 is 1.005 * 100 = 100.50, so it is right; 100.50000000000000001 is not, though it is the same
    float64 as 100.50; NaN is not JSON; a repeated key is one key too many; the order of the keys does not matter.
    """
    assert judge_json(text, '{"contractor": "Mike", "sum": 100.50, "currency": "RUB"}') == judgement


@pytest.mark.parametrize(("text", "kept"), [
    ("Sonic the hedgehog woke up. He ate a pear and slept again. A good day, said the hedgehog called Sonic.", True),
    ("Sonic the hedgehog woke up. Sonic the hedgehog ate a pear. It was a very good pear, and a good day for all.", False),
    ("Sonic the hedgehog woke up. He ate a pear and slept again. A good day, said the fox called Sonic.", False),
    ("Sonics the hedgehogs woke up. He ate a pear and slept again. A good day, said the hedgehog Sonic.", False),
    ("", False)])
def test_a_story_keeps_its_hero(text, kept):
    """Name and animal in the first third and in the last, as whole words.

    By hand: the first text has 102 characters; its first 34 are "Sonic the hedgehog woke up. He ate" and its last 34
    "y, said the hedgehog called Sonic.", both with the two words. In the second the last third has neither, in the third
    it has another animal, in the fourth "Sonics" is another word.
    """
    assert keeps_hero(text, Hero("Sonic", "hedgehog", "tiny", "he")) == kept


def test_sentences_end_at_their_mark():
    """By hand: three marks, one of them inside a quotation, are three sentences."""
    sentences = [text.strip() for text in SENTENCE.findall('It rained. "Why?" Nobody knew!')]
    assert sentences == ["It rained.", '"Why?"', "Nobody knew!"]
