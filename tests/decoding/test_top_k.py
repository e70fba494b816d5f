"""Top-k against transformers' own, and by hand."""

from decoding.top_k import keep_top_k

import torch
from transformers import TopKLogitsWarper


def test_keep_top_k():
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    assert keep_top_k(logits, 2).tolist() == [[-torch.inf, 3.0, 2.0]]
    assert torch.equal(keep_top_k(logits, 99), logits)


def test_equals_the_warper():
    """Oracle: transformers' TopKLogitsWarper. By hand: of the logits (1, 3, 2) the best two are 3 and 2; 1 becomes -inf."""
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    for top_k in (1, 7, 40):
        assert torch.equal(keep_top_k(logits, top_k), TopKLogitsWarper(top_k)(None, logits))
