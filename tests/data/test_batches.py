"""Batches: an epoch is a permutation with little padding, the same for every process; padding is no target."""

from data.batches import IGNORED, batches, collate, epoch_batches
from tests.helpers import counted, random_blocks

import numpy as np
import pytest
import torch


@pytest.mark.parametrize(("batch_tokens", "expected"), [(100, [[0], [1, 2]]), (3, [[0], [1], [2]])])
def test_an_epoch_of_three_blocks_by_hand(batch_tokens, expected):
    """By hand: blocks of 3, 1 and 2 inputs, sorted by length, are 1 (1 input), 2 (2), 0 (3). With at most two to a batch:
    [1, 2], padded to 2 * 2 = 4 tokens, and [0]. With at most 3 tokens to a batch, 4 are too many, so each is alone.
    The batches come in an order that is drawn.
    """
    order = epoch_batches(np.array([3, 1, 2]), batch_size=2, batch_tokens=batch_tokens, seed=0, epoch=0)
    assert sorted(batch.tolist() for batch in order) == expected


def test_an_epoch_is_a_seeded_permutation_with_little_padding():
    lengths = random_blocks(5000).lengths
    order = epoch_batches(lengths, 8, 10**6, seed=0, epoch=0)
    assert sorted(np.concatenate(order)) == list(range(5000))
    assert sum(len(batch) != 8 for batch in order) == 0
    assert [b.tolist() for b in order] == [b.tolist() for b in epoch_batches(lengths, 8, 10**6, seed=0, epoch=0)]
    for other in (epoch_batches(lengths, 8, 10**6, seed=0, epoch=1), epoch_batches(lengths, 8, 10**6, seed=1, epoch=0)):
        assert [b.tolist() for b in order] != [b.tolist() for b in other]
    assert sum(lengths[batch].max() * len(batch) for batch in order) < 1.05 * lengths.sum()


@pytest.mark.parametrize("batch_tokens", [1, 39, 100, 311])
def test_long_blocks_go_in_smaller_batches(batch_tokens):
    """Of blocks of 1 to 38 tokens, a batch holds as many as fit the limit with their padding, and at least one."""
    lengths = random_blocks(3000).lengths
    order = epoch_batches(lengths, 8, batch_tokens, seed=0, epoch=0)
    assert sorted(np.concatenate(order)) == list(range(3000))
    for batch in order:
        assert 1 <= len(batch) <= 8
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= batch_tokens
    in_limit = sum(len(batch) == max(1, min(8, batch_tokens // lengths[batch].max())) for batch in order)
    assert in_limit > 0.7 * len(order)  # but for where the next block would be longer


def test_processes_share_each_batch():
    blocks = random_blocks(101)  # the last batch has one row, so one process gets none of it
    order = epoch_batches(blocks.lengths, 4, 10**6, seed=0, epoch=0)
    assert min(map(len, order)) == 1
    shares = [batches(blocks, order, rank=rank, world=2) for rank in range(2)]
    whole = batches(blocks, order)
    for (_, targets), *parts in zip(whole, *shares, strict=True):
        assert sorted(counted(targets)) == sorted(token for _, part in parts for token in counted(part))
        assert len(targets) == sum(len(part) for _, part in parts)


def test_collate_pads_on_the_right():
    """By hand: of 5 6 7 8 with two ids of context the inputs are 5 6 7 and the targets 6 7 8, of which 6 is only context; of
    5 9 they are 5 and 9, padded to three."""
    input_ids, targets = collate([(torch.tensor([5, 6, 7, 8]), 2), (torch.tensor([5, 9]), 1)])
    assert input_ids.tolist() == [[5, 6, 7], [5, 0, 0]]
    assert targets.tolist() == [[IGNORED, 7, 8], [9, IGNORED, IGNORED]]
    assert input_ids.dtype == targets.dtype == torch.int64
