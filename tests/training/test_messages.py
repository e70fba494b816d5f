"""What is measured on held-out messages: all tokens alike, whatever batches they come in."""

import math

from data.messages import NextTokenDataset
from models.lstm import LSTM, LSTMConfig
from models.transformer import Output
from training.messages import MessageEvaluator, message_loss

import pytest
import torch
import torch.nn.functional as F

MESSAGES = [[5, 6, 7], [8], [5, 5, 6, 9, 9], []]


class OneWord(torch.nn.Module):
    """A model to which the targets of a message of one token cost 4 nats each, those of all others 1."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, targets):
        counted = (targets != -100).sum(dim=1)
        return Output(None, torch.where(counted == 2, 4.0, 1.0) @ counted.float())


def test_perplexity_is_not_averaged_over_batches():
    """Bug of published solutions: the perplexities of the batches were averaged. Oracle: by hand. In batches of one row, a
    message of one token, with its end 2 targets of 4 nats, and one of three, 4 targets of 1 nat: 12 nats over 6 targets are 2 a
    target, perplexity e² = 7.389; over 8 characters 12 / (8 ln 2) = 2.164 bits. The mean over batches would be 2.5 nats, or
    (e⁴ + e) / 2 = 28.7."""
    evaluator = MessageEvaluator(OneWord(), NextTokenDataset([[5, 6, 7], [8]], 1, 2), 8, 1, torch.float32, lambda: "a sample")
    assert evaluator() == {"validation_loss": 2.0, "perplexity": pytest.approx(7.389, abs=1e-3),
                           "bits_per_character": pytest.approx(2.164, abs=1e-3), "sample": "a sample"}  # fmt: skip
    assert evaluator.figures["validation_loss"] == 2.0


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_batches_change_nothing(rows):
    """Oracle: cross_entropy of each message alone. By hand: all weights 0 make ten tokens equally likely, ln 10 = 2.302585."""
    torch.manual_seed(0)
    model = LSTM(LSTMConfig(10, 4, 6)).eval()
    dataset = NextTokenDataset(MESSAGES, 1, 2)
    evaluator = MessageEvaluator(model, dataset, 1, rows, torch.float32, lambda: "")
    with torch.no_grad():
        alone = [F.cross_entropy(model(inputs[None]).logits[0], targets, reduction="sum").item() for inputs, targets in dataset]
        assert evaluator()["validation_loss"] == pytest.approx(sum(alone) / sum(dataset.lengths), rel=1e-5)
        for weight in model.parameters():
            torch.nn.init.zeros_(weight)
        assert evaluator()["validation_loss"] == pytest.approx(2.302585, rel=1e-6)


def test_only_what_counts_is_counted():
    """By hand: of a batch with 4 and 2 inputs, padded to 4, two targets and one count."""
    dataset = NextTokenDataset([[5, 6, 7], [8]], 1, 2, counted=[1, 0])
    from data.messages import collate_batch

    loss, targets = message_loss(OneWord(), collate_batch([dataset[0], dataset[1]]))
    assert targets == 3 and loss.item() == 4 * 2 + 1 * 1


def test_nothing_is_written_by_a_model_that_is_lost():
    """Guards an evaluation of weights that are not numbers: there is nothing to choose from."""
    model = LSTM(LSTMConfig(10, 4, 6))
    torch.nn.init.constant_(model.lm_head.bias, math.nan)
    figures = MessageEvaluator(model, NextTokenDataset(MESSAGES, 1, 2), 1, 2, torch.float32, lambda: 1 / 0)()
    assert math.isnan(figures["validation_loss"]) and figures["sample"] == ""
