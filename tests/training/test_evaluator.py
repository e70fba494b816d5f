"""The loss of next-token windows, of which a shared beginning is read once, and what an evaluation measures."""

import math

from data.blocks import TokenBlocks
from models.transformer import Transformer, TransformerConfig
from training.evaluator import Evaluator, common_prefix, next_token_loss, perplexity

import numpy as np
import pytest
import torch


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Transformer(TransformerConfig(vocab_size=50, hidden_size=16, intermediate_size=32))


class Numbers:
    """A tokenizer that writes ids as numbers."""

    def decode(self, ids, skip_special_tokens):
        return " ".join(map(str, ids))


@pytest.fixture
def constant(model):
    """A model whose logits are all 0: every token has probability 1/50, and token 0, the first of equals, is the best."""
    for weight in model.parameters():
        torch.nn.init.zeros_(weight)
    model.tokenizer = Numbers()
    return model


def windows(*texts, context=1):
    """Blocks of these ids each, of which the first `context` are no targets."""
    ends = np.cumsum([len(ids) for ids in texts])
    index = [(end - len(ids), end - len(ids) + context, end) for ids, end in zip(texts, ends, strict=True)]
    return TokenBlocks(np.concatenate(texts).astype(np.uint16), np.array(index))


def test_reading_a_shared_beginning_once_changes_neither_loss_nor_gradients(model):
    """Rows of a batch that begin alike are read once up to where they differ; the update must be the same."""
    input_ids = torch.randint(50, (5, 20))
    input_ids[:, :9] = input_ids[0, :9]
    targets = input_ids.roll(-1, dims=1)
    targets[:, :12] = -100
    assert common_prefix(input_ids, targets) == 9
    gradients = []
    shared, counted = next_token_loss(model, model, (input_ids, targets))
    assert counted == 5 * 8
    for loss in (model(input_ids, targets=targets).loss, shared):
        model.zero_grad()
        loss.backward()
        gradients.append([loss.detach(), *(weight.grad.clone() for weight in model.parameters())])
    for whole, once in zip(*gradients, strict=True):
        assert torch.allclose(whole, once, rtol=1e-4, atol=1e-5)


def test_a_common_prefix_by_hand():
    """Rows 7 8 5 6 and 7 8 9 6 share the tokens 7 8, and none of the two has a target; where the second token's target
    counts in one row, only the 7 is shared."""
    input_ids = torch.tensor([[7, 8, 5, 6], [7, 8, 9, 6]])
    targets = torch.tensor([[-100, -100, 6, 1], [-100, -100, 6, 1]])
    assert common_prefix(input_ids, targets) == 2
    targets[0, 1] = 5
    assert common_prefix(input_ids, targets) == 1


def test_targets_that_count_are_not_shared():
    """A text without a request has targets from its first token on, however alike the rows begin."""
    input_ids = torch.ones(3, 6, dtype=torch.int64)
    assert common_prefix(input_ids, input_ids) == 0
    assert common_prefix(input_ids[:1], torch.full((1, 6), -100)) == 0


def test_a_batch_without_rows_has_a_loss_of_zero(model):
    """What a process gets when a batch has fewer rows than there are processes; its gradients are asked for all the same."""
    loss, counted = next_token_loss(model, model, (torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0, 0, dtype=torch.int64)))
    loss.backward()
    assert (loss.item(), counted) == (0, 0)
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.parameters())


def test_the_loss_of_a_known_model(constant):
    """Oracle: the definition. A model of 50 equally likely tokens has ln 50 = 3.912 nats a target and the perplexity 50.
    Its best token is 0: of the windows 3 0 0, 3 0 4, 3 0 the first and the last are exact, of the first two the half."""
    held_out = windows([3, 0, 0], [3, 0, 4], [3, 0])
    evaluator = Evaluator(constant, held_out, 2, torch.float32, lambda prompt: f"<{prompt}>", share=("right", 2))
    with torch.no_grad():
        assert evaluator.measure() == (pytest.approx(math.log(50)), [True, False, True])
        assert evaluator() == {"validation_loss": pytest.approx(3.912023), "perplexity": pytest.approx(50, abs=1e-3),
                               "sample": "<3 0>", "right": 0.5}  # fmt: skip


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_the_windows_read_at_once_do_not_count(model, rows):
    """Oracle: the model's own loss, window by window: padding adds nothing to it."""
    model.tokenizer = Numbers()
    random = np.random.default_rng(0)
    texts = [random.integers(0, 50, length) for length in (9, 4, 7, 12, 3)]
    sums = [model(torch.tensor(ids[None, :-1]), targets=torch.tensor(ids[None, 1:])).loss.item() for ids in texts]
    with torch.no_grad():
        loss, _ = Evaluator(model, windows(*texts), rows, torch.float32, str).measure()
    assert loss == pytest.approx(sum(sums) / (8 + 3 + 6 + 11 + 2), rel=1e-5)


@pytest.mark.parametrize("context, shown", [(1, 16), (20, 20)])
def test_a_sample_continues_the_last_request(constant, context, shown):
    """The whole request of a document that has one, else the first 16 tokens."""
    held_out = windows(range(25, 50), range(25), context=context)
    prompt = Evaluator(constant, held_out, 1, torch.float32, str).prompt()
    assert prompt == " ".join(map(str, range(shown)))


def test_a_model_of_nan_writes_no_sample(constant):
    """There is no token to draw: the trainer must say that the loss is not finite, not the sampler that it failed."""
    torch.nn.init.constant_(constant.lm_head.weight, math.nan)
    with torch.no_grad():
        figures = Evaluator(constant, windows([3, 0]), 1, torch.float32, lambda prompt: pytest.fail("sampled"))()
    assert math.isnan(figures["validation_loss"]) and figures["sample"] == ""


def test_perplexity():
    """Oracle: the definition, e to the loss: of 0 nats 1, of ln 8 = 2.0794 nats 8. A loss of 10,000 is no overflow."""
    assert perplexity(0) == 1 and perplexity(2.0794415) == pytest.approx(8)
    assert perplexity(10_000) == perplexity(700) < math.inf
