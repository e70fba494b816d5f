"""Next-token windows of a transformer: their loss in training, and what is measured on held-out ones.

A batch of windows is (input_ids, targets), both (rows, T) int64: the target at a position is the token that follows it, or
IGNORED. Losses are in nats.
"""

from support.errors import InputError

import math
from collections.abc import Callable

from data.batches import IGNORED, collate
from data.blocks import TokenBlocks
from models.transformer import Transformer
from training.precision import autocast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

SHOWN = 16  # tokens of a text without a request that a sample continues


def next_token_loss(model: Transformer, parallel: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
    """The loss of a batch summed over its targets, and the number of these.

    What all rows begin with, such as a system message, is read once, by one row: the other rows attend to the same keys and
    values, and their gradients add up there.
    parallel: the model as `Accelerator.prepare` returns it, which averages the gradients of several processes.
    """
    input_ids, targets = batch
    if not len(input_ids):  # an epoch's last batch may have fewer rows than there are processes
        input_ids, targets = input_ids.new_zeros(1, 1), targets.new_full((1, 1), IGNORED)
    cache, shared = None, common_prefix(input_ids, targets)
    if shared:
        cache = DynamicCache()
        model.model(input_ids[:1, :shared], cache)
        cache.batch_repeat_interleave(len(input_ids))
    loss = parallel(input_ids[:, shared:], past_key_values=cache, targets=targets[:, shared:]).loss
    return loss, int((targets != IGNORED).sum())


def common_prefix(input_ids: Tensor, targets: Tensor) -> int:
    """How many first tokens all of several rows share, none of which has a target that counts: twice (rows, T) -> tokens."""
    differ = (input_ids != input_ids[0]).any(dim=0) | (targets != IGNORED).any(dim=0)  # (T,)
    return int(differ.int().argmax()) if len(input_ids) > 1 else 0


class Evaluator:
    """Measures a model on held-out windows, and lets it continue the last of them."""

    def __init__(self, model: Transformer, windows: TokenBlocks, rows: int, dtype: torch.dtype,
                 sample: Callable[[str], str], share: tuple[str, int] | None = None) -> None:  # fmt: skip
        """rows: how many windows are read at once. sample: writes the text that continues a prompt.

        share: a name and a number of windows; the share of that many first windows that are exact is measured under it.
        """
        self.model, self.windows, self.rows, self.dtype = model, windows, rows, dtype
        self.sample, self.share = sample, share

    def __call__(self) -> dict:
        """validation_loss (nats per target), perplexity, sample and the share; the model must be in eval mode."""
        loss, exact = self.measure()
        try:
            sample = self.sample(self.prompt()) if math.isfinite(loss) else ""  # there is nothing to draw from NaN
        except InputError:  # a tokenizer without an unknown token need not encode what it has decoded
            sample = ""
        figures = {"validation_loss": loss, "perplexity": perplexity(loss), "sample": sample}
        if self.share:
            name, count = self.share
            figures[name] = sum(exact[:count]) / count
        return figures

    def measure(self) -> tuple[float, list[bool]]:
        """The mean loss of all targets, and of each window whether it is exact.

        A window is exact if every target is the most likely token: then greedy decoding writes it.
        """
        total, counted, exact = 0.0, 0, []
        device = self.model.lm_head.weight.device
        for start in range(0, len(self.windows), self.rows):
            windows = [self.windows[i] for i in range(start, min(start + self.rows, len(self.windows)))]
            input_ids, targets = (tensor.to(device) for tensor in collate(windows))
            row, position = (targets != IGNORED).nonzero(as_tuple=True)  # of each target that counts: (counted,)
            targets = targets[row, position]
            with autocast(device, self.dtype):
                logits = self.model.lm_head(self.model.model(input_ids, None)[row, position]).float()  # (counted, vocab)
            total += F.cross_entropy(logits, targets, reduction="sum").item()
            counted += len(targets)
            wrong = set(row[logits.argmax(-1) != targets].tolist())
            exact += [i not in wrong for i in range(len(windows))]
        return total / counted, exact

    def prompt(self) -> str:
        """What the sample continues: the last window's request, or its first tokens."""
        ids, context = self.windows[len(self.windows) - 1]
        return self.model.tokenizer.decode(ids[:max(context, SHOWN)].tolist(), skip_special_tokens=False)


def perplexity(loss: float) -> float:
    """e to the loss: among how many equally likely tokens the model might as well choose; no overflow for any loss."""
    return math.exp(min(loss, 700))
