"""The growing cache does what transformers' DynamicCache does, whatever is done to it in between."""

import random

from models.cache import growing_cache
from models.growing_layer import SPARE

import pytest
import torch
from transformers.cache_utils import DynamicCache


def states(rows, new):
    return tuple(torch.randn(rows, 2, new, size) for size in (4, 6))


def same(ours, theirs):
    return ours.get_seq_length() == theirs.get_seq_length() and all(
        torch.equal(mine.keys, other.keys) and torch.equal(mine.values, other.values)
        for mine, other in zip(ours.layers, theirs.layers, strict=True)
    )


@pytest.mark.parametrize("seed", range(20))
def test_equals_dynamic_cache_whatever_is_done_to_it(seed):
    """Oracle: transformers' DynamicCache. Tokens added one by one and many at once, rows spread, dropped, reordered, tokens
    taken back.

    By hand: keys a, b in two rows; selecting [1, 1, 0] gives b, b, a; adding c, d, e gives bc, bd, ae, of length 2.
    """
    rng, ours, theirs, rows = random.Random(seed), growing_cache(), DynamicCache(), 1
    torch.manual_seed(seed)
    for _ in range(120):
        deed = rng.choice(["add"] * 6 + ["select", "repeat", "crop"])
        length = theirs.get_seq_length()
        if deed == "add" or not length:
            new = rng.choice([1, 1, 1, 2, SPARE + 3])
            for layer in range(2):
                given = states(rows, new)
                kept = [part.clone() for part in given]
                got, expected = ours.update(*given, layer), theirs.update(*kept, layer)
                assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
                assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))
            continue
        if deed == "select":
            chosen = torch.tensor(rng.choices(range(rows), k=rng.randint(1, 5)))
            rows, act = len(chosen), lambda cache, chosen=chosen: cache.batch_select_indices(chosen)
        elif deed == "repeat" and rows < 8:
            rows, act = 2 * rows, lambda cache: cache.batch_repeat_interleave(2)
        else:
            count = -rng.randint(0, length - 1)
            act = lambda cache, count=count: cache.crop(count)  # noqa: E731
        act(ours), act(theirs)
        assert same(ours, theirs)


def test_tokens_given_before_are_not_overwritten_by_a_copy_that_went_on():
    """Rows that were selected away go on in a room of their own: what was returned before stays as it was."""
    cache = growing_cache()
    before = [part.clone() for part in cache.update(*states(2, 3), 0)]
    kept = cache.layers[0].keys
    cache.batch_select_indices(torch.tensor([1, 0]))
    cache.update(*states(2, 1), 0)
    assert torch.equal(kept, before[0])


def test_a_token_is_written_into_the_room_and_not_copied():
    cache = growing_cache()
    cache.update(*states(1, 3), 0)
    places = set()
    for _ in range(SPARE):
        cache.update(*states(1, 1), 0)
        places.add(cache.layers[0].keys.data_ptr())
    assert len(places) == 1
