"""The batches of a training: which blocks, or messages, come together, in which order, and as which tensors.

    epochs = Epochs(blocks, batch_size=32, batch_tokens=4096, seed=0, num_epochs=2)
    for input_ids, targets in epochs.from_step(0):  # len(epochs) steps
        ...
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch

IGNORED = -100  # cross_entropy's default ignore_index
POOL = 64  # batches among which blocks are sorted by length


Batch = tuple[torch.Tensor, ...]


class Lengthy(Protocol):
    """What batches are made of: TokenBlocks, or any other rows whose lengths are known, (n,)."""

    lengths: np.ndarray

    def __getitem__(self, row: int) -> tuple: ...


def epoch_batches(lengths: np.ndarray, batch_size: int, batch_tokens: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The epoch's batches in their order: indices of blocks, each block in one batch.

    A batch holds at most `batch_size` blocks and, padding included, at most `batch_tokens` tokens, but at least one
    block. The order is drawn from (seed, epoch) alone, so a training resumes at batch k with `[k:]`. To keep padding
    small, each POOL * batch_size of the shuffled blocks are sorted by length and cut, and the batches shuffled again.
    """
    rng = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = rng.permutation(len(lengths))
    result = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        cuts = [0]
        while cuts[-1] < len(pool):
            widths = lengths[pool[cuts[-1] :][:batch_size]]  # ascending: the last one is the width of the batch
            fitting = np.count_nonzero(widths * np.arange(1, len(widths) + 1) <= batch_tokens)
            cuts.append(cuts[-1] + max(1, fitting))
        result += [pool[cuts[i] : cuts[i + 1]] for i in rng.permutation(len(cuts) - 1)]
    return result


def collate(rows: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(input_ids, targets), both (rows, longest - 1) int64, of rows as TokenBlocks gives them, padded on the right.

    input_ids are 0 in the padding; targets are IGNORED there and where the target is only context.
    """
    width = max((len(ids) - 1 for ids, _ in rows), default=0)
    input_ids = torch.zeros((len(rows), width), dtype=torch.int64)
    targets = torch.full_like(input_ids, IGNORED)
    for row, (ids, context) in enumerate(rows):
        input_ids[row, : len(ids) - 1] = ids[:-1]
        targets[row, context - 1 : len(ids) - 1] = ids[context:]
    return input_ids, targets


def batches(blocks: Lengthy, order: Sequence[np.ndarray], rank: int = 0, world: int = 1,
            collate: Callable[[list], Batch] = collate) -> Iterator[Batch]:  # fmt: skip
    """The tensors of each batch that `epoch_batches` ordered; of `world` processes, the rows of the one at `rank`.

    A batch of fewer rows than processes leaves some of them with none: `collate` gives tensors of shape (0, 0).
    """
    for indices in order:
        yield collate([blocks[block] for block in indices[rank::world]])


class Epochs:
    """The batches of several epochs in a row, from any step on: so a resumed training finds its place."""

    def __init__(self, blocks: Lengthy, batch_size: int, batch_tokens: int, seed: int, num_epochs: int,
                 rank: int = 0, world: int = 1, collate: Callable[[list], Batch] = collate) -> None:  # fmt: skip
        """Of `world` processes that share each batch, the rows of the one at `rank`. `collate` makes tensors of rows."""
        self.batches = partial(batches, blocks, rank=rank, world=world, collate=collate)
        self.order = partial(epoch_batches, blocks.lengths, batch_size, batch_tokens, seed)
        self.ends = np.cumsum([len(self.order(epoch)) for epoch in range(num_epochs)])  # of each epoch, in steps

    def __len__(self) -> int:
        """The number of steps."""
        return int(self.ends[-1])

    def from_step(self, step: int) -> Iterator[Batch]:
        """The tensors of every step from this one on, counted from 0."""
        while step < len(self):
            epoch = int(np.searchsorted(self.ends, step, side="right"))
            yield from self.batches(self.order(epoch)[step - self.ends[epoch]:])
            step = int(self.ends[epoch])
