"""The optimizers: Muon against torch's own, and against the singular value decomposition that it approximates."""

import copy
import math

from models.lstm import LSTM, LSTMConfig
from models.transformer import Transformer, TransformerConfig
from training.optimizer import POLYNOMIALS, Muon, make_optimizers, orthogonalize, wide

import pytest
import torch

SHAPES = [(64, 64), (32, 64), (64, 64), (176, 64), (64, 176), (176, 64), (8, 8)]


def matrices(seed=0):
    random = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=random)) for shape in SHAPES]


def give_gradients(*lists):
    """The same new gradients to several lists of the same matrices."""
    for alike in zip(*lists, strict=True):
        gradient = torch.randn_like(alike[0])
        for matrix in alike:
            matrix.grad = gradient.clone()


def one_orthogonal(matrix):
    """`orthogonalize` for a single matrix, also a tall one."""
    found = orthogonalize(wide(matrix)[None])[0]
    return found if found.shape == matrix.shape else found.mT


@pytest.mark.parametrize("lr, weight_decay, momentum", [(2e-3, 0.01, 0.95), (0.1, 0.0, 0.5), (1e-3, 0.3, 0.0)])
def test_steps_are_those_of_torchs_muon(monkeypatch, lr, weight_decay, momentum):
    """Oracle: torch.optim.Muon, matrix by matrix, over several steps, with our way to the orthogonal matrix: tall, wide and
    square matrices of mixed shapes. For a step worked out by hand see the next test."""
    monkeypatch.setattr(torch.optim._muon, "_zeropower_via_newtonschulz", lambda gradient, *_: one_orthogonal(gradient))
    torch.manual_seed(0)
    ours, theirs = matrices(), matrices()
    settings = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
    torchs = torch.optim.Muon(theirs, **settings, adjust_lr_fn="match_rms_adamw")
    optimizers = Muon(ours, **settings, dtype=torch.float32), torchs
    start = copy.deepcopy(ours)
    for _ in range(5):
        give_gradients(ours, theirs)
        for optimizer in optimizers:
            optimizer.step()
    for first, mine, other in zip(start, ours, theirs, strict=True):
        moved = (other - first).norm()
        assert moved > 0
        assert (mine - other).norm() < 1e-4 * moved


def test_a_step_by_hand():
    """Oracle: the rule (Jordan et al. 2024; Liu et al. 2025, section 2.2), by hand for the 1×1 matrix W = 2 with the gradient
    G = 3, momentum 0.95, lr 0.1, decay 0.01.

    M = 0.05 · 3 = 0.15, the direction is 0.95 · 0.15 + 0.05 · 3 = 0.2925. Divided by its norm it is 1, which the four
    polynomials make 0.974, 1.751, 0.403 and 0.885: near the orthogonal matrix (1). So W = (1 - 0.1 · 0.01) · 2 -
    0.2 · 0.1 · √1 · 0.885 = 1.998 - 0.0177 = 1.9803.
    """
    weight = torch.nn.Parameter(torch.tensor([[2.0]]))
    weight.grad = torch.tensor([[3.0]])
    optimizer = Muon([weight], lr=0.1, dtype=torch.float32)
    optimizer.step()
    assert optimizer.state[weight]["momentum_buffer"].item() == pytest.approx(0.15)
    assert weight.item() == pytest.approx(1.9803, abs=1e-4)


def test_a_matrix_without_gradient_stays():
    weights = matrices()
    before = copy.deepcopy(weights)
    give_gradients(weights[1:4])  # of which two have the shape of one that gets none
    Muon(weights).step()
    changed = [not torch.equal(a, b) for a, b in zip(before, weights, strict=True)]
    assert changed == [False] + [True] * 3 + [False] * 3


@pytest.mark.parametrize("make_first", [Muon, lambda weights: torch.optim.Muon(weights, weight_decay=0.01)])
def test_a_saved_state_is_continued(make_first):
    """Ours, or torch's own: a training saved when torch's Muon was used here can be resumed."""
    torch.manual_seed(0)
    weights = matrices()
    optimizer = make_first(weights)
    give_gradients(weights)
    optimizer.step()
    others = copy.deepcopy(weights)
    undisturbed, resumed = Muon(weights), Muon(others)
    undisturbed.state.update(optimizer.state)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    give_gradients(weights, others)
    undisturbed.step()
    resumed.step()
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))


@pytest.mark.parametrize("dtype, most", [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_orthogonalized_matrices_keep_their_singular_vectors(dtype, most):
    """Oracle: U Vᵀ of the decomposition U S Vᵀ; the polynomials leave singular values between 0.76 and 1.24, in bfloat16 a
    little less. By hand: (0 2; -1 0) has the singular values 2 and 1, and U Vᵀ = (0 1; -1 0); what is found is (0 p; -q 0),
    p and q being near to 1."""
    torch.manual_seed(0)
    given = torch.randn(5, 24, 60) * torch.tensor([1e-9, 1e-3, 1.0, 1e3, 1e9])[:, None, None]
    found = orthogonalize(given.to(dtype)).float()
    u, _, vh = torch.linalg.svd(given, full_matrices=False)
    inside = u.mT @ found @ vh.mT  # diagonal in the same singular vectors
    values = inside.diagonal(dim1=1, dim2=2)
    assert values.min() > 0.7 and values.max() < 1.25
    assert (inside - torch.diag_embed(values)).abs().max() < most


def test_the_polynomials_are_the_best_ones():
    """Oracle: Chebyshev's alternation: of all a s + b s³ + c s⁵ only the best reaches its largest distance from 1 over an
    interval four times, in turn above and below. By hand for the first and its interval's ends: at 1/300 it is
    7.9773 / 300 = 0.0266, which is 0.973 below 1; at 1.05 it is 8.3762 - 24.7364 + 18.3335 = 1.973, which is 0.973 above."""
    low, high = 1 / 300, 1.05
    for a, b, c in POLYNOMIALS:
        s = torch.cat((torch.logspace(math.log10(low), math.log10(high), 20_001, dtype=torch.float64),
                       torch.linspace(low, high, 20_001, dtype=torch.float64))).sort().values  # fmt: skip
        distance = a * s + b * s**3 + c * s**5 - 1
        largest = distance.abs().max()
        reached = distance[distance.abs() > 0.97 * largest].sign()
        assert reached[0] == -1 and reached.diff().count_nonzero() == 3
        low, high = 1 - largest, 1.06 * (1 + largest)
    assert largest < 0.245


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matrices_are_orthogonalized_in_the_trainings_precision(dtype, monkeypatch):
    """Guards --dtype float32: two processes and one differ visibly when its matrices are rounded to bfloat16."""
    seen = []

    def noted(matrices):
        seen.append(matrices.dtype)
        return orthogonalize(matrices)
    monkeypatch.setattr("training.optimizer.orthogonalize", noted)
    model = Transformer(TransformerConfig(vocab_size=32, hidden_size=16, intermediate_size=32))
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    make_optimizers(model, dtype)[0].step()
    assert set(seen) == {dtype}


def test_orthogonalize_of_nothing_is_nothing():
    """A gradient of 0, say of a step without targets, is no division by zero."""
    assert orthogonalize(torch.zeros(2, 4, 8)).eq(0).all()


@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_has_one_optimizer(tied):
    """Muon has the seven matrices of each block, AdamW all else."""
    config = TransformerConfig(vocab_size=32, hidden_size=16, intermediate_size=32, tie_word_embeddings=tied)
    model = Transformer(config)
    muon, adamw = ([id(weight) for group in optimizer.param_groups for weight in group["params"]]
                   for optimizer in make_optimizers(model, torch.float32))  # fmt: skip
    assert sorted(muon + adamw) == sorted(id(weight) for weight in model.parameters())
    assert set(muon) == {id(weight) for name, weight in model.named_parameters() if name.endswith("_proj.weight")}
    assert len(muon) == 7 * config.num_hidden_layers


def test_every_weight_of_an_lstm_has_one_optimizer():
    """Muon has the two matrices of each layer and the projection, AdamW the embedding and all biases."""
    model = LSTM(LSTMConfig(32, 8, 16, 2))
    muon, adamw = ([id(weight) for group in optimizer.param_groups for weight in group["params"]]
                   for optimizer in make_optimizers(model, torch.float32))  # fmt: skip
    assert sorted(muon + adamw) == sorted(id(weight) for weight in model.parameters())
    names = {id(weight): name for name, weight in model.named_parameters()}
    assert {names[i] for i in muon} == {"projection.weight", *(f"lstm.weight_{kind}_l{layer}" for kind in ("ih", "hh")
                                                              for layer in range(2))}  # fmt: skip
