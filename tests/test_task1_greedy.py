"""Task 1 against transformers' own greedy search."""

from task1_greedy import choose, greedy

import pytest
import torch
from conftest import continuations, neutral_generate, random_model


@pytest.mark.parametrize("seed", range(54))
def test_equals_generate(seed, prompt):
    model = random_model(seed)
    assert continuations(model, prompt, choose, [None]) == [neutral_generate(model, prompt, 10, eos=0)]


def test_lowest_id_wins_among_equals():
    assert greedy(torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]])).tolist() == [1, 0]
