"""The summed cross-entropy of many positions, in chunks of a few sizes."""

from models.loss import CHUNK, MULTIPLE, summed_loss

import pytest
import torch
import torch.nn.functional as F


@pytest.mark.parametrize("positions", [0, 1, MULTIPLE, CHUNK + 3])
def test_chunks_and_pads_change_neither_loss_nor_gradients(positions):
    """Oracle: cross_entropy over all positions at once. By hand: logits of 0 for four tokens give ln 4 a position."""
    torch.manual_seed(0)
    head, vectors = torch.nn.Linear(8, 4), torch.randn(positions, 8, requires_grad=True)
    targets = torch.randint(4, (positions,))
    loss = summed_loss(head, vectors, targets)
    whole = F.cross_entropy(head(vectors), targets, reduction="sum")
    assert torch.allclose(loss, whole, rtol=1e-5)
    for found, expected in zip(*(torch.autograd.grad(each, [vectors, *head.parameters()]) for each in (loss, whole)),
                               strict=True):  # fmt: skip
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    for weight in head.parameters():
        torch.nn.init.zeros_(weight)
    assert summed_loss(head, vectors, targets).item() == pytest.approx(positions * 1.3862944, rel=1e-6)


def test_matrices_of_few_sizes_reach_the_head(monkeypatch):
    """Bug: oneDNN keeps what it made for each size of matrices, and a training on messages, of every size, took 4 GB."""
    sizes = set()
    head = torch.nn.Linear(8, 4)
    head.register_forward_pre_hook(lambda module, args: sizes.add(len(args[0])))
    for positions in range(1, 2 * CHUNK):
        summed_loss(head, torch.zeros(positions, 8), torch.zeros(positions, dtype=torch.int64))
    assert sizes == {MULTIPLE, 2 * MULTIPLE, 3 * MULTIPLE, CHUNK}
