"""Task 2: sampling. The next token is drawn from the model's whole distribution.

Beyond task 1: chance. Each row has random numbers of its own, so its text does not depend on the other rows.

    python task2_sampling.py
    python task2_sampling.py --samples 5 --seed 7 --prompt json
"""

from common import run_task, token_by_token

import torch
from torch import Generator, Tensor


def sample(logits: Tensor, generators: list[Generator]) -> Tensor:
    """Draw one token for each row from softmax(logits): (rows, vocab), one generator per row -> (rows,).

    The probabilities stay float32: drawing from half precision can return tokens of probability zero.
    """
    probs = logits.softmax(dim=-1)  # (rows, vocab)
    draws = [torch.multinomial(row, 1, generator=generator) for row, generator in zip(probs, generators, strict=True)]
    return torch.cat(draws)  # (rows,)


if __name__ == "__main__":
    run_task(__doc__, token_by_token(sample), samples=3)
