"""Task 4: nucleus sampling. After temperature only the most likely tokens stay, at most top_p of the probability.

The rule comes from Holtzman et al. 2020, but for one token: they, and transformers, also keep the token that crosses
top_p. Here the kept probability does not exceed top_p, unless the most likely token exceeds it alone.

    python task4_nucleus.py
    python task4_nucleus.py --temperature 0.5 --top-p 0.9
"""

import torch

from common import column, run_task, token_by_token
from task2_sampling import sample
from task3_temperature import apply_temperature

ROUNDING = 1e-6  # float32 logits tell probabilities no finer: ten equal tokens at top_p 0.9 must keep nine


def nucleus(logits, top_p):
    """Logits with -inf outside each row's nucleus: (rows, vocab), top_p (rows, 1) -> (rows, vocab)."""
    kept = torch.full_like(logits, -torch.inf)
    for row, (probs, limit) in enumerate(zip(logits.softmax(dim=-1), top_p, strict=True)):
        ids = nucleus_ids(probs, limit.item())
        kept[row, ids] = logits[row, ids]
    return kept


def nucleus_ids(probs, top_p):
    """The kept ids, most likely first, the lower id first among equals: probs (vocab,) -> (kept,)."""
    total = probs.sum(dtype=torch.float64)  # 1 but for rounding
    for floor in (1e-3, 1e-6, 0.0):
        # Sorting the whole vocabulary is slow. Once the tokens above the floor hold more than top_p, the rest cannot
        # be in the nucleus; with the floor at 0 nothing is left out.
        ids = (probs >= floor).nonzero()[:, 0]
        if floor == 0 or probs[ids].sum(dtype=torch.float64) > (top_p + 2 * ROUNDING) * total:
            break
    ids = ids[probs[ids].argsort(descending=True, stable=True)]
    cumulative = probs[ids].cumsum(dim=0, dtype=torch.float64)
    return ids[: max(1, int((cumulative <= (top_p + ROUNDING) * total).sum()))]


def choose(logits, rows):
    """The strategy as the shared loop calls it: (rows, vocab) -> (rows,)."""
    logits = nucleus(apply_temperature(logits, column(rows, "temperature")), column(rows, "top_p"))
    return sample(logits, [row.generator for row in rows])


SETTINGS = [{"temperature": temperature, "top_p": top_p} for temperature in (1.0, 0.5) for top_p in (0.9, 0.15)]

if __name__ == "__main__":
    run_task(__doc__, SETTINGS, token_by_token(choose), samples=1)
