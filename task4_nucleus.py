"""Task 4: nucleus sampling. After temperature only the most likely tokens stay, at most top_p of the probability.

The rule comes from Holtzman et al. 2020, but for one token: they, and transformers, also keep the token that crosses
top_p. Here the kept probability does not exceed top_p, unless the most likely token exceeds it alone.

    python task4_nucleus.py
    python task4_nucleus.py --temperature 0.5 --top-p 0.9
"""

from common import run_task, token_by_token
from task2_sampling import sample
from task3_temperature import apply_temperature

import torch
from torch import Generator, Tensor

ROUNDING = 1e-6  # float32 logits tell probabilities no finer: ten equal tokens at top_p 0.9 must keep nine


def sample_from_nucleus(logits: Tensor, generators: list[Generator], temperature: Tensor, top_p: Tensor) -> Tensor:
    """Draw one token for each row: (rows, vocab), temperature and top_p (rows, 1) -> (rows,)."""
    kept = nucleus(apply_temperature(logits, temperature), top_p)
    return sample(kept, generators)  # its softmax renormalises: what was cut has probability 0, the rest sums to 1


def nucleus(logits: Tensor, top_p: Tensor) -> Tensor:
    """Logits with -inf outside each row's nucleus: (rows, vocab), top_p (rows, 1) -> (rows, vocab)."""
    probs = logits.softmax(dim=-1)
    limit = (top_p + ROUNDING) * probs.sum(dim=-1, keepdim=True, dtype=torch.float64)  # a float32 softmax sums to about 1
    ids = sorted_ids(probs, limit)  # (rows, n), the most likely first
    cumulative = probs.gather(1, ids).cumsum(dim=-1, dtype=torch.float64)
    inside = cumulative <= limit
    inside[:, 0] = True  # the most likely token stays even if it exceeds top_p alone
    kept = torch.zeros_like(probs, dtype=torch.bool).scatter(1, ids, inside)
    return logits.where(kept, -torch.inf)


def sorted_ids(probs: Tensor, limit: Tensor) -> Tensor:
    """Each row's ids by falling probability, the lower id first among equals: probs.argsort(descending=True, stable=True),
    or its first columns where they are enough: (rows, vocab), limit (rows, 1) -> (rows, n).

    Sorting a whole vocabulary is slow. Once the tokens above some probability hold more than the limit, no other can be in the
    nucleus.
    """
    for floor in (1e-3, 1e-6):
        above = probs >= floor
        count = int(above.sum(dim=-1).max())
        held = probs.where(above, 0).sum(dim=-1, keepdim=True, dtype=torch.float64)
        if count < probs.shape[-1] / 8 and (held > limit + ROUNDING).all():
            ids = probs.topk(count).indices.sort().values  # topk leaves equals in any order
            return ids.gather(1, probs.gather(1, ids).argsort(descending=True, stable=True))
    return probs.argsort(descending=True, stable=True)


SETTINGS = [{"temperature": temperature, "top_p": top_p} for temperature in (1.0, 0.5) for top_p in (0.9, 0.15)]

if __name__ == "__main__":
    run_task(__doc__, token_by_token(sample_from_nucleus), SETTINGS, samples=1)
