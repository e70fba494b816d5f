"""Task 3 against transformers' temperature, and at its limits."""

from common import columns_of, make_row
from task1_greedy import greedy
from task2_sampling import sample
from task3_temperature import apply_temperature, greedy_at_zero, sample_at_temperature, without_overflow
from tests.helpers import chi_square_p, continuations, random_model

import pytest
import torch
from transformers import TemperatureLogitsWarper

LOGITS = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)) * 5


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 3.0, 10.0])
def test_equals_the_warper(temperature):
    """Oracle: transformers' TemperatureLogitsWarper.

    By hand: the logits (0, ln 3) have the softmax (1/4, 3/4); at T = 0.5 they are (0, 2 ln 3) = (0, ln 9): (1/10, 9/10).
    """
    ours = apply_temperature(LOGITS, torch.full((6, 1), temperature)).softmax(-1)
    assert torch.allclose(ours, TemperatureLogitsWarper(temperature)(None, LOGITS).softmax(-1), atol=1e-6)


def test_the_guards_change_nothing_that_the_softmax_can_tell():
    """Oracle: the plain line, softmax(logits / T), wherever it does not overflow."""
    for temperature in (0.3, 1.0, 7.0):
        column = torch.full((6, 1), temperature, dtype=torch.float64)
        plain = (LOGITS / column).softmax(-1)
        torch.testing.assert_close((without_overflow(LOGITS) / column).softmax(-1), plain)
        torch.testing.assert_close(greedy_at_zero(LOGITS / column, LOGITS, column).softmax(-1), plain)
        torch.testing.assert_close(apply_temperature(LOGITS, column).softmax(-1), plain.float())


def test_each_row_has_its_own_temperature():
    temperatures = torch.tensor([[0.0], [0.1], [0.5], [1.0], [2.0], [10.0]])
    together = apply_temperature(LOGITS, temperatures)
    for row in range(6):
        assert torch.equal(together[row], apply_temperature(LOGITS[row:row + 1], temperatures[row:row + 1])[0])
    assert torch.equal(together[3].softmax(-1), LOGITS[3].softmax(-1))


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-40, 0.001])
def test_tiny_temperatures_are_greedy_and_never_overflow(temperature):
    probs = apply_temperature(LOGITS, torch.full((6, 1), temperature, dtype=torch.float64)).softmax(-1)
    assert torch.equal(probs.argmax(-1), LOGITS.argmax(-1)) and (probs.max(-1).values > 0.99).all()


def test_zero_is_greedy_also_among_equals():
    probs = apply_temperature(torch.tensor([[1.0, 2.0, 2.0]]), torch.zeros(1, 1)).softmax(-1)
    assert probs.tolist() == [[0, 1, 0]]


def test_temperature_zero_writes_the_greedy_text(prompt):
    model = random_model(4)
    columns = columns_of(sample_at_temperature, [make_row(0, "p", {"temperature": 0.0}, 1)])
    cold = continuations(model, prompt, sample_at_temperature, columns)
    assert cold == continuations(model, prompt, greedy, {})


def test_huge_temperature_is_uniform():
    temperature = torch.full((6, 1), 1e300, dtype=torch.float64)
    assert torch.allclose(apply_temperature(LOGITS, temperature).softmax(-1), torch.tensor(0.02))


def test_draws_follow_the_distribution():
    """Oracle: a chi-square test of 20,000 draws against the exact probabilities.
    
    By hand: the logits (0, 4 ln 3) at T = 4 are (0, ln 3), so the second token is drawn three times in four.
    """
    logits = apply_temperature(LOGITS[:1, :20], torch.tensor([[4.0]]))
    draws = sample(logits.expand(20_000, -1), [torch.Generator().manual_seed(3)] * 20_000)
    assert chi_square_p(draws, logits[0].softmax(-1)) > 1e-3
