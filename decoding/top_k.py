"""Top-k: only the k most likely tokens can be drawn (Fan et al. 2018, section 5.1)."""

import torch
from torch import Tensor


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Logits with -inf outside the `top_k` most likely tokens of each row: (rows, vocab) -> (rows, vocab)."""
    best = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
    return torch.full_like(logits, -torch.inf).scatter(1, best.indices, best.values)
