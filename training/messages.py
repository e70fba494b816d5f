"""Short messages in training: their loss, and what is measured on those held out.

A batch is (input_ids, targets, lengths) as `data.messages.collate_batch` makes it. Losses are in nats.
"""

import math
from collections.abc import Callable

from data.batches import batches, epoch_batches
from data.messages import IGNORED, NextTokenDataset, collate_batch
from training.evaluator import perplexity
from training.precision import autocast

import torch
from torch import Tensor, nn


def message_loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, int]:
    """The loss of a batch summed over the targets that count, and the number of these.

    Messages are padded on the right, where a model that reads from left to right has no target, so that no pad is ever read.
    """
    input_ids, targets, _ = batch
    return model(input_ids=input_ids, targets=targets).loss, int((targets != IGNORED).sum())


class MessageEvaluator:
    """Measures a model on held-out messages, all tokens alike, and lets it complete some of them."""

    def __init__(self, model: nn.Module, messages: NextTokenDataset, characters: int, rows: int, dtype: torch.dtype,
                 sample: Callable[[], str]) -> None:  # fmt: skip
        """characters: of all that counts in the messages. rows: how many are read at once. sample: writes a sample's text."""
        self.model, self.messages, self.characters, self.dtype, self.sample = model, messages, characters, dtype, sample
        self.order = epoch_batches(messages.lengths, rows, 1 << 30, seed=0, epoch=0)
        self.figures = {}  # the last ones

    def __call__(self) -> dict:
        """validation_loss (nats per target), perplexity, bits_per_character and sample; the model must be in eval mode."""
        total, counted = 0.0, 0
        device = next(self.model.parameters()).device
        for batch in batches(self.messages, self.order, collate=collate_batch):
            with autocast(device, self.dtype):
                loss, targets = message_loss(self.model, tuple(tensor.to(device) for tensor in batch))
            total, counted = total + loss.item(), counted + targets
        loss = total / counted
        self.figures = {"validation_loss": loss, "perplexity": perplexity(loss),
                        "bits_per_character": total / (math.log(2) * self.characters),
                        "sample": self.sample() if math.isfinite(loss) else ""}  # there is nothing to choose from NaN
        return self.figures
