"""Controlled replies in training: their rows, the joint loss of language model and heads, and what is measured on others.

    request | control tokens | reply | end        the language model's row: its targets are the reply and its end, shifted
    "" | control tokens of any | reply            a head's row, which shows neither the request nor the label that it tells
    request                                       the row of the head that reads requests

    trainer = Trainer(model, train, valid, lr=5e-5, batch_size=32)      # Controlled, and two ReplyDatasets
    trainer.train(epochs=3)
    trainer.validate()                                                  # {"validation_loss": ..., "perplexity": ..., ...}

A batch is (input_ids, targets, labels, read, ends, told), the last three of the heads' rows, as `ReplyDataset.collate` makes
it; every row is padded on the right, where no position that counts sees a pad. Losses are in nats.
"""

from support.errors import InputError

import math
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data.batches import IGNORED, Epochs, batches, epoch_batches
from data.encoding import encode_all, plain_tokenizer
from data.replies import Reply
from models.control import REQUEST, TOLD, Controlled, asked_ids, reply_end
from models.limits import check_known, context_of
from training import trainer as training
from training.evaluator import perplexity
from training.finetuning import adamw
from training.metrics import Metrics
from training.precision import autocast

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HEADS = ("joint", "separate", "off")
DROPPED, ALL_DROPPED = 0.1, 0.15  # shares of the rows that lose one label, each by itself, or all of them
WITHOUT_REQUEST = 0.1  # share of the rows whose labels alone tell what to write: else no model would learn a category's
HEADS_EVERY = 2  # every second reply of a batch is read by the heads, too; requests, which are short, are all read
HEAD_WEIGHT = 0.2  # of each head's mean loss beside that of a token
LEAST = 8  # tokens of a truncated reply
BATCH_TOKENS = 1 << 30  # no limit but the batch size: replies are short
Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


# ---------------------------------------------------------------------------------------------------------- the rows


class Row(NamedTuple):
    """A reply as ids: its request up to where the reply begins, the reply without its end, and whether it ends."""

    asked: list[int]
    reply: list[int]
    ended: bool
    labels: list[int]  # as Labels.ids gives them
    told: int  # the label id that the request tells; 0: none


class ReplyDataset(Dataset):
    """Replies as rows of ids; what does not fit the model's context is left out, and counted in `too_long`."""

    def __init__(self, model: Controlled, tokenizer: "PreTrainedTokenizerBase", replies: Sequence[Reply],
                 max_tokens: int | None = None, without_request: float = WITHOUT_REQUEST,
                 heads_every: int = HEADS_EVERY) -> None:  # fmt: skip
        """max_tokens: where a longer reply is cut; it has no end then. without_request: the share of rows that lose it, drawn
        anew each time. heads_every: 0 makes no rows for heads.

        Raises InputError where no reply fits, the model does not know a token, or the tokenizer has no end.
        """
        self.heads, self.heads_every = list(model.heads), heads_every * bool(model.heads)
        self.end, self.without_request = reply_end(tokenizer), without_request
        self.control = model.prompt_ids([], {})  # of any: the labels of a batch replace them
        self.empty = asked_ids(tokenizer, "")
        asked = {request: asked_ids(tokenizer, request) for request in dict.fromkeys(reply.request for reply in replies)}
        written = encode_all(plain_tokenizer(tokenizer), [reply.reply for reply in replies])
        rows = [self.row(model, reply, asked[reply.request], found.ids[:max_tokens], len(found.ids))
                for reply, found in zip(replies, written, strict=True)]
        self.rows = [row for row in rows if self.length(row) <= context_of(model)]
        self.too_long = len(rows) - len(self.rows)
        if not self.rows:
            raise InputError(f"none of {len(rows)} replies fits the model's context of {context_of(model)} tokens: "
                             "lower --max-tokens")
        known = {self.end}.union(self.empty, *(row.asked for row in self.rows), *(row.reply for row in self.rows))
        check_known(known, model.base, tokenizer.convert_ids_to_tokens)

    @staticmethod
    def row(model: Controlled, reply: Reply, asked: list[int], ids: list[int], whole: int) -> Row:
        """The row of one reply, whose first ids these are of `whole`."""
        labels = model.labels.ids(reply.labels).tolist()
        told = labels[list(model.labels.values).index(TOLD)] if TOLD in model.labels.values and reply.request else 0
        return Row(asked, ids, len(ids) == whole, labels, told)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Row:
        return self.rows[i]

    def length(self, row: Row) -> int:
        """The number of inputs of a row: all its tokens but the last."""
        return len(row.asked) + len(self.control) + len(row.reply) + row.ended - 1

    @property
    def lengths(self) -> np.ndarray:
        """The number of inputs of each row, (n,) int64."""
        return np.array([self.length(row) for row in self.rows])

    def collate(self, rows: list[Row]) -> Batch:
        """(input_ids, targets, labels, read, ends, told): twice (rows, T), (rows, attributes), (read, T'), (read, 2) and
        (read, heads), all int64.

        targets are IGNORED in prompts and pads. ends: how many tokens of a head's row must be read at least, and how many there
        are. told: the value's number, label id i + 1 being number i; IGNORED where a head is told nothing.
        """
        texts, targets = [], []
        for row, lost in zip(rows, (torch.rand(len(rows)) < self.without_request).tolist(), strict=True):
            prompt = [*(self.empty if lost else row.asked), *self.control]
            reply = [*row.reply, *[self.end] * row.ended]
            texts.append([*prompt, *reply[:-1]])
            targets.append([IGNORED] * (len(prompt) - 1) + reply)
        read, ends, told = [], [], []
        for row in rows[::self.heads_every] if self.heads_every else []:
            opening = [*self.empty, *self.control]
            read.append([*opening, *row.reply])
            ends.append([min(len(opening) + LEAST, len(read[-1])), len(read[-1])])
            told.append([label - 1 if label else IGNORED for label in row.labels] + [IGNORED] * (REQUEST in self.heads))
        for row in (row for row in rows if row.told and self.heads_every):
            read.append(row.asked)
            ends.append([len(row.asked)] * 2)  # a request is not cut
            told.append([IGNORED] * len(row.labels) + [row.told - 1])
        tables = ([row.labels for row in rows], ends, told)
        labels, ends, told = (torch.tensor(table, dtype=torch.int64) for table in tables)
        return padded(texts, 0), padded(targets, IGNORED), labels, padded(read, 0), ends, told


def padded(rows: list[list[int]], pad: int) -> Tensor:
    """Rows padded on the right, (rows, longest) int64; (0, 0) for none."""
    if not rows:
        return torch.zeros((0, 0), dtype=torch.int64)
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad)


# ---------------------------------------------------------------------------------------------------------- the loss


def dropped(labels: Tensor) -> Tensor:
    """Labels (rows, attributes), of which some are any, 0: so one model writes with all, with some and without."""
    kept = (torch.rand(labels.shape) >= DROPPED) & (torch.rand(len(labels), 1) >= ALL_DROPPED)
    return labels * kept.to(labels.device)


def head_losses(model: Controlled, read: Tensor, ends: Tensor, told: Tensor, detached: bool = False) -> dict[str, Tensor]:
    """The mean loss of each head that is told something, over whole replies and over the same cut at random.

    read, ends and told as in a batch. detached: what is below the heads does not learn from them.
    """
    if not len(read):
        return {}
    with torch.set_grad_enabled(torch.is_grad_enabled() and not detached):
        hidden = model.hidden(read, any_labels(model, read))
    least, whole = ends.T
    cut = least + ((whole - least + 1) * torch.rand(len(ends)).to(ends.device)).long()
    return {name: sum(F.cross_entropy(model.scores(hidden, lengths, name).float(), values, ignore_index=IGNORED)
                      for lengths in (whole, cut)) / 2
            for name, values in zip(model.heads, told.T, strict=True) if (values != IGNORED).any()}


def any_labels(model: Controlled, rows: Tensor) -> Tensor:
    """The labels of as many rows that have none, (rows, attributes)."""
    return rows.new_zeros(len(rows), len(model.labels.values))


class JointLoss:
    """The loss of a batch: the language model's, summed over its targets, and the heads', weighted as HEAD_WEIGHT says."""

    def __init__(self, model: Controlled, heads: str) -> None:
        """heads: one of HEADS; "separate" leaves what is below them as the language model wants it."""
        self.model, self.heads = model, heads

    def __call__(self, batch: Batch) -> tuple[Tensor, int]:
        """(loss, number of targets): divided, the mean loss of a token plus the weighted mean losses of the heads."""
        input_ids, targets, labels, *read = batch
        labels, counted = dropped(labels), int((targets != IGNORED).sum())
        loss = self.model.loss(self.model.hidden(input_ids, labels), targets, labels)
        heads = head_losses(self.model, *read, self.heads == "separate")
        return loss + HEAD_WEIGHT * counted * sum(heads.values()), counted


class ReplyEvaluator:
    """Measures a model on held-out replies with all their labels, and its heads on whole replies and requests."""

    def __init__(self, model: Controlled, replies: ReplyDataset, rows: int, dtype: torch.dtype,
                 sample: Callable[[], str]) -> None:  # fmt: skip
        """rows: how many are read at once. sample: writes a sample's text."""
        self.model, self.replies, self.dtype, self.sample = model, replies, dtype, sample
        self.order = epoch_batches(replies.lengths, rows, BATCH_TOKENS, seed=0, epoch=0)
        self.figures = {}  # the last ones

    @torch.no_grad()
    def __call__(self) -> dict:
        """validation_loss, what the training lowers; language_model, its part, and the perplexity of that; heads, by name each
        one's loss and the share that it tells right; sample. The model must be in eval mode."""
        device, sums, told = self.model.starts.device, Counter(), defaultdict(Counter)
        for batch in batches(self.replies, self.order, collate=self.replies.collate):
            input_ids, targets, labels, read, ends, values = (tensor.to(device) for tensor in batch)
            with autocast(device, self.dtype):
                loss = self.model.loss(self.model.hidden(input_ids, labels), targets, labels)
                sums.update(loss=loss.item(), targets=int((targets != IGNORED).sum()))
                if len(read):
                    hidden = self.model.hidden(read, any_labels(self.model, read))
                    self.read_heads(hidden, ends[:, 1], values, told)
        language_model = sums["loss"] / sums["targets"]
        heads = {name: {key: sums[key] / sums["rows"] for key in ("loss", "right")} for name, sums in told.items()}
        loss = language_model + HEAD_WEIGHT * sum(head["loss"] for head in heads.values())
        with autocast(device, self.dtype):  # a frozen base is kept in 16 bits, what is new beside it not
            sample = self.sample() if math.isfinite(loss) else ""  # there is nothing to choose from NaN
        self.figures = {"validation_loss": loss, "language_model": language_model, "perplexity": perplexity(language_model),
                        "heads": heads, "sample": sample}
        return self.figures

    def read_heads(self, hidden: Tensor, lengths: Tensor, told: Tensor, sums: dict[str, Counter]) -> None:
        """Add what the heads say of these rows to their sums: loss, right and rows."""
        for name, values in zip(self.model.heads, told.T, strict=True):
            known = values != IGNORED
            scores = self.model.scores(hidden, lengths, name).float()[known]
            sums[name].update(loss=F.cross_entropy(scores, values[known], reduction="sum").item(),
                              right=int((scores.argmax(-1) == values[known]).sum()), rows=int(known.sum()))


# ------------------------------------------------------------------------------------------------------- the trainer


class Trainer:
    """A controlled model, the replies to learn from and those to validate on: trained by the Trainer of all models here."""

    def __init__(self, model: Controlled, train: ReplyDataset, valid: ReplyDataset, lr: float = 5e-5, batch_size: int = 32, *,
                 heads: str = "joint", dtype: torch.dtype = torch.float32, seed: int = 0,
                 optimizers: list[torch.optim.Optimizer] | None = None, accelerator: Accelerator | None = None,
                 sample: Callable[[], str] = lambda: "") -> None:  # fmt: skip
        """lr: the highest learning rate. heads: one of HEADS. optimizers: AdamW if none are given. The model is moved to the
        accelerator's device."""
        self.accelerator = accelerator or Accelerator(cpu=not torch.cuda.is_available())
        self.model, self.dataset, self.lr, self.batch_size = model.to(self.accelerator.device), train, lr, batch_size
        self.heads, self.dtype, self.seed = heads, dtype, seed
        self.optimizers = optimizers or [adamw(model)]
        self.evaluate = ReplyEvaluator(model, valid, batch_size, dtype, sample)

    def steps(self, epochs: int, state_path: Path) -> training.Trainer:
        """The training loop over the replies; it saves its state in that file."""
        epochs = Epochs(self.dataset, self.batch_size, BATCH_TOKENS, self.seed, epochs, collate=self.dataset.collate)
        loss = JointLoss(self.model, self.heads)
        return training.Trainer(self.model, self.optimizers, loss, epochs.from_step, len(epochs), self.lr, state_path,
                                self.accelerator, self.dtype)

    def train(self, epochs: int = 1) -> dict:
        """Train, printing the figures of each epoch; returns the last ones. Raises KeyboardInterrupt and Diverged as the loop
        does, which leaves no file."""
        with tempfile.TemporaryDirectory() as folder:
            loop = self.steps(epochs, Path(folder) / "state.pt")
            loop.run(self.evaluate, lambda: None, Metrics(Path(folder), 0), math.ceil(loop.num_steps / epochs), loop.num_steps)
        return self.evaluate.figures

    def validate(self) -> dict:
        """The figures of the replies to validate on: see `ReplyEvaluator`."""
        was_training = self.model.training
        self.model.eval()
        figures = self.evaluate()
        self.model.train(was_training)
        return figures
