"""The network: logits and gradients equal to Qwen2's; its cache, causality and loss; what it refuses."""

from support.errors import InputError

from dataclasses import asdict

from models.norm import rms_norm
from models.transformer import Transformer, attend, causal_mask, rotate
from tests.helpers import logits, randomise, shape, tokens

import pytest
import torch
import torch.nn.functional as F
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.cache_utils import DynamicCache

SHAPES = [  # (heads, kv heads, tied, rope_theta, head_dim, length)
    (2, 2, True, 10_000.0, 8, 1),
    (4, 2, False, 1e6, 4, 7),
    (4, 1, True, 1e6, 6, 13),
    (6, 3, False, 10_000.0, 2, 31),
    (8, 2, True, 10_000.0, 4, 17),
]


def theirs(config):
    return Qwen2ForCausalLM(Qwen2Config(**asdict(config), attn_implementation="eager"))


@pytest.mark.parametrize(("heads", "kv_heads", "tied", "theta", "head_dim", "length"), SHAPES)
def test_their_weights_in_our_model_give_their_logits(heads, kv_heads, tied, theta, head_dim, length):
    """Oracle: transformers' Qwen2ForCausalLM, of every part: grouped heads, biases, norms, rotary positions, both heads.

    By hand, the last step alone: the final vector (1, 2) against the embeddings (3, 0), (0, 1), (1, 1) of three tokens gives
    the logits 1·3 + 2·0 = 3, 1·0 + 2·1 = 2 and 1·1 + 2·1 = 3.
    """
    config = shape(heads, kv_heads, tied, theta, head_dim)
    torch.manual_seed(length)
    reference = randomise(theirs(config), length)
    ours = Transformer(config).eval()
    ours.load_state_dict(reference.state_dict(), strict=True)
    ids = tokens(length, rows=3)
    torch.testing.assert_close(logits(ours, ids), logits(reference, ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("heads", "kv_heads", "tied", "theta", "head_dim", "length"), SHAPES)
def test_the_gradients_are_theirs(heads, kv_heads, tied, theta, head_dim, length):
    """Oracle: autograd of Qwen2ForCausalLM, for every weight; in ours one derivative is written out, and products are joined.

    By hand, for the logits: softmax minus one at the target. Two equal logits give (1/2, 1/2); if the first is the target,
    the gradient is (-1/2, 1/2).
    """
    config = shape(heads, kv_heads, tied, theta, head_dim)
    torch.manual_seed(length)
    reference = randomise(theirs(config), length)
    ours = Transformer(config)
    ours.load_state_dict(reference.state_dict())
    ids, targets = tokens(length, rows=3), tokens(length, rows=3, seed=2)
    F.cross_entropy(reference(ids).logits.flatten(0, 1), targets.flatten(), reduction="sum").backward()
    ours(ids, targets=targets).loss.backward()
    expected = {name: weight.grad for name, weight in reference.named_parameters()}
    for name, weight in ours.named_parameters():
        assert (weight.grad - expected[name]).norm() <= 1e-4 * expected[name].norm() + 1e-4, name


@pytest.mark.parametrize(("heads", "kv_heads", "tied", "theta", "head_dim", "length"), SHAPES)
def test_our_weights_in_their_model_give_our_logits(heads, kv_heads, tied, theta, head_dim, length):
    """The other way: no weight of ours is without a place in theirs.

    By hand, as above: the final vector (1, 2) against our embedding (3, 0) is 3 in their model, too.
    """
    config = shape(heads, kv_heads, tied, theta, head_dim)
    torch.manual_seed(length)
    ours = randomise(Transformer(config), length)
    reference = theirs(config).eval()
    reference.load_state_dict(ours.state_dict(), strict=True)
    ids = tokens(length, rows=2)
    torch.testing.assert_close(logits(ours, ids), logits(reference, ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 7], [7, 1, 1, 3], [1, 11]])
def test_cached_equals_uncached(decoder, pieces):
    """However the text is fed in pieces, the logits are those of one call without a cache.

    By hand, for the pieces 5, 7: the second call has 5 tokens behind it and 7 new ones, so its positions are 5 to 11 and its
    scores are 7 × 12, of which row 0 sees the columns 0 to 5.
    """
    ids, cache = tokens(12, rows=2), DynamicCache()
    got = torch.cat([logits(decoder, piece, past_key_values=cache) for piece in ids.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(got, logits(decoder, ids), atol=1e-5, rtol=1e-5)
    assert cache.get_seq_length() == 12


def test_selected_rows_of_the_cache_go_on_as_their_own_texts(decoder):
    """Rows that end leave the batch and beams reorder: a cache row must stay with its text.

    By hand: of the texts a, b, c the rows 2, 0, 0, 1 with the new tokens w, x, y, z are cw, ax, ay, bz.
    """
    ids, new, rows = tokens(6, rows=3), tokens(1, rows=4, seed=1), [2, 0, 0, 1]
    cache = DynamicCache()
    logits(decoder, ids, past_key_values=cache)
    cache.batch_select_indices(torch.tensor(rows))
    got = logits(decoder, new, past_key_values=cache)
    torch.testing.assert_close(got[:, -1], logits(decoder, torch.cat([ids[rows], new], 1))[:, -1], atol=1e-5, rtol=1e-5)


def test_logits_to_keep_gives_the_last_positions(decoder):
    """0 means all, as in transformers."""
    ids = tokens(8)
    for kept in (1, 3):
        torch.testing.assert_close(logits(decoder, ids, logits_to_keep=kept), logits(decoder, ids)[:, -kept:])
    assert logits(decoder, ids, logits_to_keep=0).shape == (1, 8, 300)


@pytest.mark.parametrize("t", [0, 1, 5, 9])
def test_a_token_changes_no_logit_before_it(decoder, t):
    """Causality: position t must not be seen earlier, and must be seen from t on."""
    ids = tokens(10)
    changed = ids.clone()
    changed[0, t] = (ids[0, t] + 1) % 300
    before, after = logits(decoder, ids), logits(decoder, changed)
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.allclose(before[:, t], after[:, t]) and not torch.allclose(before[:, -1], after[:, -1])


@pytest.mark.parametrize("rows, new", [(3, 9), (44, 12), (36, 36)])
def test_the_loss_is_the_summed_cross_entropy_of_the_targets_that_count(decoder, rows, new):
    """Oracle: F.cross_entropy over all logits. -100 counts nothing, nothing is shifted twice, chunks do not matter.

    By hand: two targets of probability 1/2 and 1/4 and one of -100 make ln 2 + ln 4 = 2.079 nats, not a mean.
    """
    ids, targets = tokens(new, rows=rows), tokens(new, rows=rows, seed=2)
    targets[0, :4], targets[2] = -100, -100
    out = decoder(ids, targets=targets)
    expected = F.cross_entropy(logits(decoder, ids).flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
    assert out.logits is None
    torch.testing.assert_close(out.loss, expected)


def test_the_loss_in_16_bits_is_nearly_that_in_32(decoder):
    """Autocast computes the products, the rotary positions and the logits in bfloat16, of 8 bits."""
    ids, targets = tokens(30, rows=3), tokens(30, rows=3, seed=2)
    losses, gradients = [], []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(decoder(ids, targets=targets).loss)
        losses[-1].backward()
        gradients.append(decoder.model.layers[0].self_attn.q_proj.weight.grad.clone())
        decoder.zero_grad()
    torch.testing.assert_close(losses[1], losses[0], rtol=3e-3, atol=0.0)
    assert (gradients[1] - gradients[0]).norm() < 0.15 * gradients[0].norm()


def test_the_loss_of_no_target_is_zero(decoder):
    """A process without a row of the last batch takes its step on nothing."""
    loss = decoder(tokens(5), targets=torch.full((1, 5), -100)).loss
    loss.backward()
    assert loss == 0 and decoder.lm_head.weight.grad.eq(0).all()
    decoder.zero_grad()


@pytest.mark.parametrize("name", ["attention_mask", "use_cache", "labels", "position_ids", "return_dict"])
def test_an_unsupported_argument_of_the_call_is_an_error(decoder, name):
    """What transformers' models take and ours does not must not be ignored."""
    with pytest.raises(TypeError):
        decoder(tokens(3), **{name: None})


def test_a_text_longer_than_the_context_is_a_one_line_value_error(decoder):
    """With and without a cache; not an index error from the rotary table."""
    with pytest.raises(InputError, match="^41 tokens do not fit the context of 40$"):
        decoder(tokens(41))
    cache = DynamicCache()
    logits(decoder, tokens(40), past_key_values=cache)
    with pytest.raises(InputError, match="^41 tokens do not fit the context of 40$"):
        decoder(tokens(1), past_key_values=cache)


@pytest.mark.parametrize("sizes", [
    {"hidden_size": 15}, {"hidden_size": 12, "num_attention_heads": 4}, {"num_key_value_heads": 3}, {"vocab_size": 0},
    {"num_hidden_layers": 0}, {"intermediate_size": -1}, {"max_position_embeddings": 0}, {"num_key_value_heads": 0},
])  # fmt: skip
def test_an_impossible_shape_is_a_one_line_value_error(sizes):
    """Widths that heads do not divide (evenly, for the rotary pairs), kv heads, sizes of zero and below."""
    with pytest.raises(InputError) as error:
        shape(**sizes)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------ the parts, by formula


def test_the_norm_against_its_formula():
    """Oracle: torch's own rms_norm. By hand: (3, 4) has the mean square 12.5, so it becomes (3, 4) / 3.5355 = (0.8485, 1.1314);
    with the weight (1, 2): (0.8485, 2.2627) (Zhang and Sennrich 2019, equation 4)."""
    weight, eps = torch.tensor([1.0, 2.0]), torch.tensor(1e-6)
    normed = rms_norm(torch.tensor([3.0, 4.0]), weight, eps)
    torch.testing.assert_close(normed, torch.tensor([0.8485, 2.2627]), atol=1e-4, rtol=0)
    x = torch.randn(5, 7, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rms_norm(x, weight, eps), F.rms_norm(x, (2,), weight, 1e-6))


def test_the_norms_derivative_against_autograd():
    """Oracle: autograd of torch's own rms_norm, in float64. By hand: a vector of one number is normed to its sign, whatever its
    length, so the derivative is 0 but for eps."""
    x, weight, above = (torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
                        for i, shape in enumerate([(5, 6), (6,), (5, 6)]))  # fmt: skip
    found = []
    for norm in (lambda x, weight: rms_norm(x.float(), weight.float(), torch.tensor(1e-6)),
                 lambda x, weight: F.rms_norm(x, (6,), weight, 1e-6)):  # fmt: skip
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        found.append(torch.autograd.grad((norm(*leaves) * above).sum(), leaves))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_positions_turn_pairs():
    """By hand: the pair (1, 0) turned by an angle of 1 is (cos 1, sin 1) = (0.5403, 0.8415) (Su et al. 2021, section 3.4.2)."""
    cos, sin = torch.tensor([[0.5403, 0.5403]]), torch.tensor([[-0.8415, 0.8415]])  # `sin` carries the sign
    turned = rotate(torch.tensor([[[[1.0, 0.0]]]]), cos, sin)
    torch.testing.assert_close(turned, torch.tensor([[[[0.5403, 0.8415]]]]))


@pytest.mark.parametrize(("past", "new", "heads", "kv_heads"), [(0, 5, 4, 2), (7, 1, 6, 3), (3, 4, 4, 4), (0, 1, 8, 1)])
def test_attention_against_torchs_own(past, new, heads, kv_heads):
    """Oracle: F.scaled_dot_product_attention with grouped heads: the plain form of what `attend` folds.

    By hand: one query (1, 0), keys (ln 3, 0) and (0, 0), head_dim 1 after scaling: scores ln 3 and 0, softmax 3/4 and 1/4, so
    the values 8 and 4 mix to 7 (Vaswani et al. 2017, equation 1).
    """
    torch.manual_seed(past)
    q, (k, v) = torch.randn(2, heads, new, 8), torch.randn(2, 2, kv_heads, past + new, 8)
    expected = F.scaled_dot_product_attention(q, k, v, causal_mask(past, new, 1, q), enable_gqa=True)
    mask = causal_mask(past, new, heads // kv_heads, q)
    torch.testing.assert_close(attend(q, k, v, mask), expected, atol=1e-5, rtol=1e-5)


def test_the_mask_hides_what_comes_later():
    """By hand: two new positions behind one that is cached."""
    assert causal_mask(1, 2, 1, torch.zeros(1)).tolist() == [[0, 0, -torch.inf], [0, 0, 0]]
    assert causal_mask(1, 2, 2, torch.zeros(1)).tolist() == [[0, 0, -torch.inf], [0, 0, 0]] * 2
