"""Task 3: temperature. The logits are divided by T before the softmax, then task 2 draws.

Below 1 the likely tokens gain, above 1 the unlikely ones; 1 changes nothing; 0 stands for the limit, greedy.

    python task3_temperature.py
    python task3_temperature.py --temperature 0.2 0.7 --samples 2
"""

from common import run_task, token_by_token
from task1_greedy import greedy
from task2_sampling import sample

import torch
from torch import Generator, Tensor


def sample_at_temperature(logits: Tensor, generators: list[Generator], temperature: Tensor) -> Tensor:
    """Draw one token for each row from softmax(logits / T): (rows, vocab), temperature (rows, 1) -> (rows,)."""
    return sample(apply_temperature(logits, temperature), generators)


def apply_temperature(logits: Tensor, temperature: Tensor) -> Tensor:
    """Logits / T, row by row, but for what the softmax cannot tell: (rows, vocab), temperature (rows, 1) -> (rows, vocab)."""
    logits = without_overflow(logits)
    return greedy_at_zero(logits / temperature, logits, temperature).to(logits.dtype)  # T is float64


def without_overflow(logits: Tensor) -> Tensor:
    """The logits less each row's maximum: the same softmax, and divided by no T, however small, do they overflow."""
    return logits - logits.max(dim=-1, keepdim=True).values


def greedy_at_zero(scaled: Tensor, logits: Tensor, temperature: Tensor) -> Tensor:
    """The scaled logits; where T is 0 their limit instead, all probability on the greedy token."""
    limit = torch.full_like(logits, -torch.inf).scatter(1, greedy(logits)[:, None], 0.0)
    return torch.where(temperature == 0, limit, scaled)


SETTINGS = [{"temperature": temperature} for temperature in (0.001, 0.1, 0.5, 1.0, 10.0)]

if __name__ == "__main__":
    run_task(__doc__, token_by_token(sample_at_temperature), SETTINGS, samples=1)
