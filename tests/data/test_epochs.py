"""The batches of several epochs in a row: the same from any step on."""

from data.batches import Epochs, batches, epoch_batches
from data.blocks import TokenBlocks

import numpy as np
import pytest
import torch


@pytest.fixture
def blocks():
    """Ten blocks of the lengths 2 to 11."""
    ends = np.cumsum(range(3, 13))
    return TokenBlocks(np.arange(ends[-1], dtype=np.uint16), np.stack([ends - range(3, 13), ends - range(2, 12), ends], axis=1))


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("rank, world", [(0, 1), (0, 2), (1, 2)])
def test_epochs_go_on_from_any_step(blocks, rank, world):
    """Ten blocks in batches of 4: 3 steps an epoch, so 9 steps in three epochs, of which step 4 is the second of epoch 1."""
    epochs = Epochs(blocks, 4, 10**6, seed=7, num_epochs=3, rank=rank, world=world)
    assert len(epochs) == 9
    whole = [batch for epoch in range(3)
             for batch in batches(blocks, epoch_batches(blocks.lengths, 4, 10**6, 7, epoch), rank, world)]  # fmt: skip
    for step in range(10):
        assert_equal(list(epochs.from_step(step)), whole[step:])
