"""Classifier-free guidance: its two limits, by hand, and rows that keep both of their readings."""

from support.errors import InputError

import random

from common import Batch, decode
from decoding.guidance import Guided, guide
from models.control import KINDS
from task1_greedy import greedy
from task2_sampling import sample
from task5_beam import beam_search
from tests.models.test_control import BASES, IDS, WANTED, controlled, prompts, text

import pytest
import torch

INF = float("inf")


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def pair(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.randn(3, 50, generator=generator), 4 * torch.randn(3, 50, generator=generator)


@pytest.mark.parametrize("seed", range(5))
def test_gamma_1_is_the_conditional_and_gamma_0_the_unconditional_distribution(seed):
    c, u = pair(seed)
    assert (guide(c, u, 1.0).exp() - c.softmax(-1)).abs().max() < 1e-6
    assert (guide(c, u, 0.0).exp() - u.softmax(-1)).abs().max() < 1e-6


def test_by_hand():
    """u = (1/2, 1/2), c = (3/4, 1/4): c/u = (3/2, 1/2), squared and times u (9/8, 1/8), renormalised (0.9, 0.1)."""
    found = guide(torch.tensor([0.75, 0.25]).log() + 5, torch.tensor([0.5, 0.5]).log() - 3, 2.0)
    assert torch.allclose(found.exp(), torch.tensor([0.9, 0.1]))


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
def test_the_definition_and_what_is_impossible(gamma):
    """Oracle: u + γ (c - u) on log-probabilities in float64, as transformers' UnbatchedClassifierFreeGuidanceLogitsProcessor
    has it, renormalised. A token at -inf in both stays there; equal readings are left as they are."""
    c, u = pair()
    c[:, 7] = u[:, 7] = -INF
    logs = [logits.double().log_softmax(-1) for logits in (c, u)]
    expected = (logs[1] + gamma * (logs[0] - logs[1]).nan_to_num()).softmax(-1)
    found = guide(c, u, gamma)
    assert torch.allclose(found.exp().double(), expected, atol=1e-6) and (found[:, 7] == -INF).all()
    assert torch.allclose(guide(c, c, gamma), c.log_softmax(-1), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", BASES)
def test_both_readings_follow_their_row(base, kind):
    """Oracle: each row alone, read anew, with its labels and with none. Rows are spread, dropped and reordered at random."""
    model, rng = controlled(base, kind), random.Random(kind)
    guided, rows = Guided(model, 1.7), list(range(3))
    batch = Batch(guided, prompts(model), cache=guided.new_cache(WANTED))
    for _ in range(6):
        found = batch.next_logits()
        for logits, ids, row in zip(found, batch.ids, rows, strict=True):
            c, u = (model(ids[None], labels=labels).logits[0, -1] for labels in (IDS[row:row + 1], 0 * IDS[:1]))
            assert torch.allclose(logits, guide(c, u, 1.7), atol=1e-4)
        chosen = rng.choices(range(len(rows)), k=rng.randint(1, 4))
        batch.select(chosen)
        rows = [rows[i] for i in chosen]
        batch.append(torch.tensor([rng.randrange(12) for _ in rows]))


@pytest.mark.parametrize("kind", KINDS)
def test_gamma_1_writes_what_the_conditional_model_writes(kind):
    """Both readings of a row hold the same tokens: the texts are those of the model itself, with the same random numbers."""
    model = controlled("llama", kind)

    def written(reader):
        generators = [torch.Generator().manual_seed(seed) for seed in range(6)]
        events = decode(reader, prompts(model), sample, {"generators": generators}, frozenset([0]), 10, 2,
                        cache=reader.new_cache(WANTED))
        return [(row, token) for row, token, _ in events]
    assert written(Guided(model, 1.0)) == written(model)
    zero, without = Guided(model, 0.0), prompts(model, ({},) * 3)
    events = decode(zero, prompts(model), greedy, {}, frozenset(), 8, cache=zero.new_cache(WANTED))
    expected = decode(model, without, greedy, {}, frozenset(), 8, cache=model.new_cache(({},) * 3))
    assert [event[:2] for event in events] == [event[:2] for event in expected]


def test_beams_and_the_context():
    """Beam search reorders both readings; a text that outgrows the context keeps no labels, and says so."""
    model = controlled("own", "embedding")
    found = [[candidate.ids for candidate in beam_search(reader, prompts(model)[:1], 3, frozenset([0]), 6,
                                                         cache=reader.new_cache(WANTED[:1]))]
             for reader in (Guided(model, 1.0), model)]  # fmt: skip
    assert found[0] == found[1] and found[0]
    guided = Guided(model, 2.0)
    with pytest.raises(InputError, match="lower --max-new-tokens"):
        list(decode(guided, prompts(model), greedy, {}, frozenset(), 50, cache=guided.new_cache(WANTED)))
    assert Guided(controlled("own"), 2.0)(text()).logits.shape == (3, 7, 12)
