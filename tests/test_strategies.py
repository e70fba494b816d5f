"""continue_ids gives what the tasks give, and refuses what cannot be."""

from strategies import continue_ids
from task1_greedy import greedy
from task5_beam import beam_search, rank
from tests.helpers import continuations, random_model

import pytest


def ids(prompt, **settings):
    settings = {"seed": 0, "max_new_tokens": 12, **settings}
    return list(continue_ids(random_model(1), prompt, {0}, **settings))


def test_temperature_zero_is_greedy(prompt):
    assert [ids(prompt, temperature=0)] == continuations(random_model(1), prompt, greedy, {}, limit=12)


def test_top_k_one_and_a_tiny_top_p_are_greedy(prompt):
    assert ids(prompt, temperature=5, top_k=1) == ids(prompt, temperature=5, top_p=0.01) == ids(prompt, temperature=0)


def test_beams_yield_the_winner(prompt):
    best = rank(beam_search(random_model(1), prompt, 3, {0}, 12), 2.0)[0][1]
    assert ids(prompt, num_beams=3, length_penalty=2.0) == best.ids


def test_seeds(prompt):
    assert ids(prompt, temperature=2.0) == ids(prompt, temperature=2.0)
    assert len({str(ids(prompt, temperature=3.0, seed=seed)) for seed in range(5)}) > 1
    assert len({str(ids(prompt, temperature=3.0, seed=None)) for _ in range(5)}) > 1


def test_tokens_come_one_by_one(prompt):
    stream = continue_ids(random_model(1), prompt, set(), max_new_tokens=10**9, context_len=5)
    assert len([next(stream) for _ in range(20)]) == 20


@pytest.mark.parametrize("settings", [
    {"temperature": -1}, {"temperature": float("nan")}, {"temperature": float("inf")}, {"temperature": None},
    {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1}, {"top_k": 1.5}, {"num_beams": 0}, {"num_beams": 13},
    {"num_beams": 2, "top_k": 5}, {"max_new_tokens": 0}, {"context_len": 0}, {"seed": -1},
    {"length_penalty": float("nan")}])
def test_impossible_settings_are_refused_at_the_call(settings, prompt):
    with pytest.raises(ValueError) as caught:
        continue_ids(random_model(1), prompt, {0}, **settings)
    assert "\n" not in str(caught.value)
