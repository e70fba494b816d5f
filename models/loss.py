"""The cross-entropy of many positions, computed so that neither time nor memory is lost to large tensors."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

CHUNK = 256  # positions whose logits are computed at a time: tensors as large as a whole batch's are slow to fill
MULTIPLE = 64  # of positions, for which pads make up: oneDNN keeps what it made for every size of matrices, gigabytes in time


def summed_loss(head: Callable[[Tensor], Tensor], vectors: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of head(vectors) summed over all positions, in nats; vectors (n, size), targets (n,) int64."""
    pads = -len(targets) % MULTIPLE
    vectors, targets = F.pad(vectors, (0, 0, 0, pads)), F.pad(targets, (0, pads), value=-100)
    chunks = zip(vectors.split(CHUNK), targets.split(CHUNK), strict=True)
    return sum(F.cross_entropy(head(part).float(), tokens, reduction="sum", ignore_index=-100) for part, tokens in chunks)
