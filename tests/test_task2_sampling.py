"""Task 2: the draws follow the softmax, and a row's draws are its own."""

from common import columns_of, make_row
from task2_sampling import sample
from tests.helpers import chi_square_p, continuations, random_model

import torch


def test_draws_follow_the_softmax():
    """Oracle: a chi-square test of 20,000 draws against the exact probabilities.

    By hand: the logits (0, ln 3) have the softmax (1/4, 3/4), so of 20,000 draws about 5,000 ± 61 are token 0.
    """
    logits = torch.randn(20, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    draws = sample(logits.expand(20_000, -1), [generator] * 20_000)
    assert chi_square_p(draws, logits.softmax(-1)) > 1e-3


def test_a_row_alone_equals_the_row_in_a_batch(prompt):
    model = random_model(0)
    def texts(samples):
        rows = [make_row(0, "p", {}, number) for number in samples]
        return continuations(model, prompt, sample, columns_of(sample, rows))
    together = texts([1, 2, 3, 4])
    assert together == [texts([number])[0] for number in (1, 2, 3, 4)]
    assert texts([4, 2]) == [together[3], together[1]]


def test_seed_prompt_and_sample_each_change_the_text(prompt):
    model = random_model(0)
    def text(*identity):
        return continuations(model, prompt, sample, columns_of(sample, [make_row(*identity)]), eos_ids=(), limit=30)
    assert text(0, "p", {}, 1) == text(0, "p", {}, 1)
    assert len({str(text(*row)) for row in ((0, "p", {}, 1), (1, "p", {}, 1), (0, "q", {}, 1), (0, "p", {}, 2))}) == 4


def test_random_numbers_are_the_same_in_every_process():
    """Python's own hash() of a text changes from process to process."""
    assert make_row(7, "hedgehog", {"temperature": 0.5}, 2).generator.initial_seed() == 2786059932
