"""Task 3: temperature. The logits are divided by T before the softmax, then task 2 draws.

Below 1 the likely tokens gain, above 1 the unlikely ones; 1 changes nothing; 0 stands for the limit, greedy.

    python task3_temperature.py
    python task3_temperature.py --temperature 0.2 0.7 --samples 2
"""

import torch

from common import column, run_task, token_by_token
from task1_greedy import greedy
from task2_sampling import sample


def apply_temperature(logits, temperature):
    """Logits / T, row by row: (rows, vocab), temperature (rows, 1) -> (rows, vocab).

    The row's maximum is subtracted first. The softmax cannot tell, and no T, however small, can overflow.
    """
    limit = torch.full_like(logits, -torch.inf).scatter(1, greedy(logits)[:, None], 0.0)  # all on the best token
    shifted = logits - logits.max(dim=-1, keepdim=True).values
    return torch.where(temperature == 0, limit, shifted / temperature).to(logits.dtype)


def choose(logits, rows):
    """The strategy as the shared loop calls it: (rows, vocab) -> (rows,)."""
    return sample(apply_temperature(logits, column(rows, "temperature")), [row.generator for row in rows])


SETTINGS = [{"temperature": temperature} for temperature in (0.001, 0.1, 0.5, 1.0, 10.0)]

if __name__ == "__main__":
    run_task(__doc__, SETTINGS, token_by_token(choose), samples=1)
