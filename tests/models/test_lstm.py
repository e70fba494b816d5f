"""The LSTM language model: its formulas, its pads, its memory, and its rows, each for itself."""

from support.errors import InputError

from common import decode, step
from models.cache import growing_cache
from models.lstm import LSTM, LSTMConfig, Memory, RowDropout, lstm_cell
from strategies import continue_ids
from task1_greedy import greedy
from task5_beam import beam_search
from tests.helpers import brute_force_beams

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

VOCAB = 12


def random_lstm(layers=1, vocab=VOCAB):
    """A random LSTM with peaked distributions, biases too."""
    torch.manual_seed(layers)
    model = LSTM(LSTMConfig(vocab, 8, 16, layers)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.7)
    return model


@pytest.fixture(scope="module")
def model():
    return random_lstm()


def ids(rows, length, seed=0):
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def by_formulas(model, input_ids):
    """The logits of a one-layer model, cell by cell."""
    lstm = model.lstm
    h = c = torch.zeros(len(input_ids), model.config.hidden_size)
    logits = []
    for token in input_ids.T:
        h, c = lstm_cell(model.embed_tokens(token), h, c, lstm.weight_ih_l0, lstm.weight_hh_l0,
                         lstm.bias_ih_l0 + lstm.bias_hh_l0)  # fmt: skip
        logits.append(model.lm_head(model.projection(h)))
    return torch.stack(logits, dim=1)


def test_the_cell_by_hand():
    """Oracle: by hand, one unit. x = 1, h = 0, c = 0.5; W is 1 for g and 0 for i, f and o, whose sigmoids are 1/2. So
    c' = 0.5 · 0.5 + 0.5 · tanh 1 = 0.25 + 0.5 · 0.761594 = 0.630797, h' = 0.5 · tanh c' = 0.5 · 0.558601 = 0.279300."""
    w_ih = torch.tensor([[0.0], [0.0], [1.0], [0.0]])
    h, c = lstm_cell(torch.ones(1, 1), torch.zeros(1, 1), torch.full((1, 1), 0.5), w_ih, torch.ones(4, 1), torch.zeros(4))
    assert (h.item(), c.item()) == pytest.approx((0.279300, 0.630797), abs=1e-6)


def test_dropout_has_one_mask_for_all_positions_of_a_row():
    """By hand: of ones, at a share of 1/4, about a quarter become 0 and the others 4/3, alike at all positions of a row."""
    dropout = RowDropout(0.25)
    torch.manual_seed(0)
    dropped = dropout(torch.ones(2, 3, 4000))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (dropped[:, :1] == dropped).all() and (dropped[0] != dropped[1]).any()
    assert dropped.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(dropout.eval()(torch.ones(2, 3, 4)), torch.ones(2, 3, 4))


def test_forwards_and_backwards_are_those_of_the_formulas(model):
    """Oracle: the formulas, through which autograd goes by itself. Worked example: `test_the_cell_by_hand`."""
    input_ids, targets = ids(3, 7), ids(3, 7, seed=1)
    written = by_formulas(model, input_ids)
    assert torch.allclose(model(input_ids).logits, written, atol=1e-5)
    loss = F.cross_entropy(written.flatten(0, 1), targets.flatten(), reduction="sum")
    ours = model(input_ids, targets=targets).loss
    assert ours.item() == pytest.approx(loss.item(), rel=1e-5)
    weights = list(model.parameters())
    for found, expected in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(loss, weights), strict=True):
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_new_cell_begins_by_remembering():
    """Guards the forget bias: i, f, g and o begin with biases that add up to 0, 1, 0 and 0 in each of four units."""
    lstm = LSTM(LSTMConfig(VOCAB, 3, 4, 2)).lstm
    for layer in range(2):
        bias = getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
        assert bias.tolist() == [0] * 4 + [1] * 4 + [0] * 8


# --- pads


@pytest.mark.parametrize("layers", [1, 2])
def test_padding_equals_packing(layers):
    """Oracle: pack_padded_sequence, forwards and backwards. Rows of 5, 1 and 3 tokens; where a row has ended, the vector that
    the head's projection reads is zero, as pad_packed_sequence makes it. Packing takes 1.6 times as long here: oneDNN
    does not know packed sequences."""
    model = random_lstm(layers)
    input_ids, lengths = ids(3, 5), torch.tensor([5, 1, 3])
    packed = pack_padded_sequence(model.embed_tokens(input_ids), lengths, batch_first=True, enforce_sorted=False)
    vectors, _ = pad_packed_sequence(model.lstm(packed)[0], batch_first=True)
    expected = model.lm_head(model.projection(vectors))
    found = model(input_ids, lengths).logits
    assert torch.allclose(found, expected, atol=1e-5)
    weights = list(model.parameters())
    for one, other in zip(torch.autograd.grad(found.square().sum(), weights),
                          torch.autograd.grad(expected.square().sum(), weights), strict=True):  # fmt: skip
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-3)


def test_no_pad_is_read(model):
    """Bug of published solutions: pads were read as input, and their embedding learned. Whatever stands behind a row's end, the
    loss and the gradients are the same: those of the rows alone."""
    losses = []
    for pad in (0, 7):
        input_ids, targets = ids(2, 6), ids(2, 6, seed=1)
        input_ids[1, 3:], targets[1, 3:] = pad, -100
        loss = model(input_ids, targets=targets).loss
        losses.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    alone = sum(model(input_ids[row:row + 1, :end], targets=targets[row:row + 1, :end]).loss for row, end in ((0, 6), (1, 3)))
    losses.append([alone, *torch.autograd.grad(alone, list(model.parameters()))])
    for first, second, apart in zip(*losses, strict=True):
        assert torch.equal(first, second) and torch.allclose(first, apart, rtol=1e-3, atol=1e-4)


# --- memory


@pytest.mark.parametrize("layers", [1, 2])
def test_what_is_remembered_equals_reading_again(layers):
    """Oracle: the whole text read at once, with rows spread, dropped and reordered on the way."""
    model, text, memory = random_lstm(layers), ids(3, 9), Memory()
    with torch.no_grad():
        whole = model(text).logits
        found = [model(text[:, :4], past_key_values=memory).logits]
        assert memory.get_seq_length() == 4
        rows = torch.tensor([2, 0])
        memory.batch_select_indices(rows)
        found += [model(text[rows, i:i + 1], past_key_values=memory).logits for i in range(4, 9)]
    assert memory.get_seq_length() == 9
    assert torch.allclose(torch.cat([found[0][rows], *found[1:]], dim=1), whole[rows], atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_few_tokens_read_cell_by_cell_are_as_nn_lstm_reads_them(layers):
    """Oracle: nn.LSTM, which reads where gradients are on, with a state from before and without."""
    model, tokens = random_lstm(layers), ids(3, 4)
    memories = Memory(), Memory()
    for _ in range(2):
        expected = model(tokens, past_key_values=memories[0]).logits
        with torch.no_grad():
            torch.testing.assert_close(model(tokens, past_key_values=memories[1]).logits, expected)
    for one, other in zip(memories[0].state, memories[1].state, strict=True):
        torch.testing.assert_close(one, other)


def test_the_last_position_is_that_of_all(model):
    """Guards logits_to_keep, with which every strategy calls a model."""
    assert torch.allclose(model(ids(2, 5), logits_to_keep=1).logits[:, 0], model(ids(2, 5)).logits[:, -1], atol=1e-6)
    assert torch.allclose(step(model, ids(2, 5), None), model(ids(2, 5)).logits[:, -1], atol=1e-6)


def test_a_configuration_chooses_the_memory(model):
    assert isinstance(growing_cache(model.config), Memory)
    with pytest.raises(InputError, match="cannot be cut back"):
        Memory().crop(0)


def test_rows_do_not_depend_on_their_batch(model):
    """Guards batch = alone: four rows of one prompt, drawn apart, are each what it is alone."""
    def drawn(seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        rows = [[] for _ in seeds]
        for row, token, _ in decode(model, ids(1, 3), lambda logits, generators: torch.stack(
                [logits[i].softmax(-1).multinomial(1, generator=g)[0] for i, g in enumerate(generators)]),
                {"generators": generators}, frozenset([0]), 12, len(seeds)):  # fmt: skip
            rows[row].append(token)
        return rows
    assert drawn([1, 2, 3, 4]) == [drawn([seed])[0] for seed in (1, 2, 3, 4)]


@pytest.mark.parametrize("seed", range(5))
def test_beams_reorder_the_memory(model, seed):
    """Oracle: a beam search by lists and sorts that reads the whole text again at every step."""
    prompt = ids(1, 3, seed)
    found = beam_search(model, prompt, 3, frozenset([0, 1]), 5)
    expected, _ = brute_force_beams(model, prompt[0].tolist(), 3, (0, 1), 5)
    assert sorted(tuple(candidate.ids) for candidate in found if candidate.ids[-1] in (0, 1)) == sorted(
        tuple(text) for text, _ in expected)  # fmt: skip


def test_greedy_equals_reading_again(model):
    """Oracle: the most likely next token of the whole text, read again each time, up to the end."""
    text = ids(1, 3)
    expected = []
    while len(expected) < 10 and expected[-1:] != [0]:
        expected.append(greedy(model(torch.cat([text, torch.tensor([expected])], 1).long()).logits[:, -1]).item())
    assert list(continue_ids(model, text, frozenset([0]), temperature=0, max_new_tokens=10)) == expected


@pytest.mark.parametrize("field", ["vocab_size", "embedding_size", "hidden_size", "num_layers"])
def test_a_shape_of_nothing_is_refused(field):
    with pytest.raises(InputError, match=f"{field} must be above 0"):
        LSTMConfig(**{field: 0})
