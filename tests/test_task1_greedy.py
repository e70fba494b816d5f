"""Task 1 against transformers' own greedy search."""

from task1_greedy import greedy
from tests.helpers import continuations, neutral_generate, random_model

import pytest
import torch


@pytest.mark.parametrize("seed", range(54))
def test_equals_generate(seed, prompt):
    """Oracle: transformers.generate without sampling, on random Qwen2, Llama and GPT-2 models.

    By hand: logits (1, 3, 2), then (0, -1, 5), then (9, 0, 0) give the tokens 1, 2, 0; with 0 as the end the text is 1, 2.
    """
    model = random_model(seed)
    assert continuations(model, prompt, greedy, {}) == [neutral_generate(model, prompt, 10, eos=0)]


def test_lowest_id_wins_among_equals():
    assert greedy(torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]])).tolist() == [1, 0]
