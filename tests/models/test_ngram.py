"""Kneser-Ney against its formulas with dictionaries; its probabilities add up to one; it answers as other models do."""

import random
from collections import Counter, defaultdict

from models.ngram import DISCOUNTS, KneserNey, NGram, Recent, WordNGram, discounts

import numpy as np
import pytest
import torch

BOS, EOS, VOCAB = 0, 1, 9


def random_texts(n=120, seed=0):
    """Texts in which some tokens follow others more often; token 8 never occurs."""
    rng = random.Random(seed)
    texts = []
    for _ in range(n):
        text = [BOS]
        while rng.random() < 0.85:
            text.append(2 + (text[-1] * 2 + min(rng.randrange(6), rng.randrange(6))) % 6)
        texts.append([*text, EOS])
    return texts


def formulas(texts, order, discounts_of_length):
    """p(w | h) as the module's docstring says it, with dictionaries: a function (history, token) -> probability."""
    counts, before = defaultdict(Counter), defaultdict(lambda: defaultdict(set))
    for text in texts:
        for end in range(1, len(text)):
            for length in range(1, min(order, end + 1) + 1):
                gram = tuple(text[end - length + 1:end + 1])
                counts[length][gram] += 1
                if end >= length:
                    before[length][gram].add(text[end - length])
    c = {length: {gram: len(before[length][gram]) if length < order and before[length][gram] else count
                  for gram, count in counts[length].items()} for length in counts}  # fmt: skip
    taken = {length: discounts_of_length(np.array(list(c[length].values()))) for length in c}

    def p(history, token, length):
        if length == 0:
            return 1 / VOCAB
        own = history[len(history) - length + 1:]
        if len(own) < length - 1:
            return p(history, token, length - 1)
        followers = {gram: count for gram, count in c[length].items() if gram[:-1] == own}
        if not followers:
            return p(history, token, length - 1)
        total = sum(followers.values())
        rest = sum(taken[length][min(count, 3) - 1] for count in followers.values()) / total
        count = followers.get((*own, token), 0)
        return (count - taken[length][min(count, 3) - 1] if count else 0) / total + rest * p(history, token, length - 1)

    return lambda history, token: p(tuple(history), token, order)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_probabilities_are_those_of_the_formulas_and_add_up_to_one(order):
    """Oracle: Chen and Goodman's formulas with dictionaries, after histories that were seen, and not.

    By hand for the texts "a b" and "a c" and order 2; BOS, EOS, a, b, c are 0 to 4. Too few for the formula of the discounts:
    0.5, 1 and 1.5 are taken. Different tokens before: a 1, b 1, c 1, EOS 2, together 5. So p(b) = (1 - 0.5) / 5 + g / 5 with
    g = (3 * 0.5 + 1 * 1) / 5 = 0.5, which is 0.2; p(EOS) = (2 - 1) / 5 + 0.5 / 5 = 0.3. After a: p(b | a) =
    (1 - 0.5) / 2 + 0.5 * p(b) = 0.35, p(EOS | a) = 0.5 * 0.3 = 0.15.
    """
    small = KneserNey([[0, 2, 3, 1], [0, 2, 4, 1]], 5, 2)
    assert small.probs([0]).sum() == pytest.approx(1)
    assert small.probs([0, 2]) == pytest.approx([0.5 * 0.1, 0.15, 0.5 * 0.2, 0.35, 0.35])
    texts = random_texts()
    model, expected = KneserNey(texts, VOCAB, order), formulas(texts, order, discounts)
    for history in ([BOS], [BOS, 2], [BOS, 2, 3, 5], [4, 3, 7, 2, 6], [8], [3, 8], [8, 3], texts[0][:-1], texts[5][:-1]):
        probs = model.probs(history[max(0, len(history) - order + 1):] if order > 1 else [])
        assert probs.sum() == pytest.approx(1, abs=1e-6)
        assert probs == pytest.approx([expected(history, token) for token in range(VOCAB)], abs=1e-6)
        assert probs.min() > 0


def test_the_discounts():
    """By hand for n1 = 4, n2 = 2, n3 = 1, n4 = 1: Y = 0.5, so 1 - 2 * 0.5 * 2 / 4 = 0.5, 2 - 3 * 0.5 * 1 / 2 = 1.25 and
    3 - 4 * 0.5 * 1 / 1 = 1."""
    assert discounts(np.array([1, 1, 1, 1, 2, 2, 3, 4])) == (0.5, 1.25, 1.0)
    assert discounts(np.array([1, 1, 2])) == DISCOUNTS  # no 3: the formula would divide by nothing, or by too little


def test_all_texts_have_probability_one_together():
    """Oracle: the sum over all texts up to a length, and what is left for longer ones, which shrinks with the length."""
    model = KneserNey(random_texts(), VOCAB, 3)
    ended, open_ = 0.0, {(BOS,): 1.0}
    for _ in range(4):
        longer = {}
        for text, prob in open_.items():
            for token, share in enumerate(model.probs(list(text[-2:]))):
                longer[*text, token] = prob * share
        ended += sum(prob for text, prob in longer.items() if text[-1] == EOS)
        open_ = {text: prob for text, prob in longer.items() if text[-1] != EOS}
    assert ended + sum(open_.values()) == pytest.approx(1, abs=1e-5) and ended > 0.3


def test_it_answers_as_other_models_do():
    """Logits are log-probabilities; rows read token by token through a cache, or in other rows' company, are the same."""
    texts = random_texts()
    model = NGram(texts, VOCAB, 4)
    ids = torch.tensor([[BOS, 2, 3, 5, 7], [BOS, 6, 4, 4, 2]])
    logits = model(ids).logits
    assert logits.shape == (2, 5, VOCAB) and logits.exp().sum(-1).allclose(torch.ones(2, 5))
    assert logits[1, 3].exp().numpy() == pytest.approx(model.counts.probs([6, 4, 4]), rel=1e-5)
    cache = Recent()
    for place in range(5):
        step = model(input_ids=ids[:, place:place + 1], past_key_values=cache, logits_to_keep=1).logits
        torch.testing.assert_close(step[:, 0], logits[:, place])
    cache.batch_select_indices(torch.tensor([1, 1, 0]))
    assert cache.get_seq_length() == 5 and cache.ids.tolist() == [[4, 4, 2], [4, 4, 2], [3, 5, 7]]


def test_next_words_are_the_likeliest_that_begin_as_typed():
    """Oracle: all words by their probabilities, sorted. Words that training did not show are no reason to stop."""
    model = WordNGram(["so it is", "so it was", "so am i", "it is so", "is it so"])
    for words, typed in ((["so"], ""), (["so", "it"], ""), (["so"], "i"), (["never", "seen"], "i"), ([], "s"), (["so"], "x")):
        probs = model.probs(words)
        expected = sorted(((prob, word) for word, prob in zip(model.words, probs, strict=False) if word.startswith(typed)),
                          key=lambda pair: -pair[0])
        total = sum(prob for prob, _ in expected)
        found = model.next_words(probs, typed, 3)
        assert [prob for _, prob in found] == pytest.approx([prob / total for prob, _ in expected[:3]])
        assert all(probs[model.places[word]] / total == pytest.approx(prob) for word, prob in found)
    assert model.probs(["so", "it"]).sum() == pytest.approx(1)
