"""Task 5 against brute force, against exhaustive search, and against transformers where the rules coincide."""

import itertools

from task1_greedy import greedy
from task5_beam import Candidate, beam_search, rank
from tests.helpers import PROMPT, brute_force_beams, continuations, neutral_generate, random_model

import pytest
import torch


def some_slow(count: int) -> list:
    """The seeds below `count`; all but the first four are left out of the fast part."""
    return [pytest.param(seed, marks=[pytest.mark.slow] * (seed > 3)) for seed in range(count)]


@pytest.mark.parametrize("num_beams", range(1, 9))
@pytest.mark.parametrize("seed", some_slow(12))
def test_equals_brute_force(seed, num_beams, prompt):
    """Oracle: the exercise's text with lists and sorts, no cache and no batch (tests/helpers.py).

    By hand, two beams, END ends: the prompt offers a (-0.5) and b (-1.0); a offers END (-0.2), a (-2.0), b offers END (-0.1),
    a (-0.3). The pool is a END -0.7, b END -1.1, b a -1.3, a a -2.5: its first two end, so the search stops with both.
    """
    model = random_model(seed, vocab=8)
    eos_ids = [{0}, {0, 6}][seed % 2]
    ours = beam_search(model, prompt, num_beams, eos_ids, 6)
    finished, cut_off = brute_force_beams(model, PROMPT, num_beams, eos_ids, 6)
    assert [candidate.ids for candidate in ours] == [ids for ids, _ in finished + cut_off]
    assert [candidate.ended for candidate in ours] == [True] * len(finished) + [False] * len(cut_off)
    for penalty in (-1.0, 0.0, 0.5, 1.0, 2.0, 3.0):
        expected = sorted((total / len(ids) ** penalty for ids, total in finished + cut_off), reverse=True)
        assert [score for score, _ in rank(ours, penalty)] == pytest.approx(expected, abs=1e-4)


def test_the_comparison_above_sees_candidates_end_early_and_be_cut_off(prompt):
    ends = [[c.ended for c in beam_search(random_model(seed, vocab=8), prompt, 4, {0}, 6)] for seed in range(12)]
    assert any(all(ended) for ended in ends) and any(not all(ended) for ended in ends)


@pytest.mark.parametrize("seed", some_slow(30))
def test_equals_generate_where_the_rules_coincide(seed, prompt):
    """Oracle: transformers.generate with early stopping; it lets a candidate offer any number of continuations: compare where
    num_beams of them are enough. By hand: two beams at -1 and -9 whose best offers are -1, -2, -3 and -1: theirs can take all
    of -2, -3, -4 from the first beam, ours only two from each."""
    model, num_beams = random_model(seed), 2 + seed % 3
    narrow, wide = (brute_force_beams(model, PROMPT, num_beams, {0}, 6, offered) for offered in (None, 12))
    if narrow != wide:
        pytest.skip("the rules differ here")
    best = rank(beam_search(model, prompt, num_beams, {0}, 6), 1.0)[0][1]
    theirs = neutral_generate(model, prompt, 6, eos=0, num_beams=num_beams, early_stopping=True, length_penalty=1.0)
    assert best.ids == theirs[:len(best.ids)] and not any(theirs[len(best.ids):])


class ThreeTokens(torch.nn.Module):
    """A model that in effect has three tokens, so that 30 beams can hold every text of three steps."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids, past_key_values=None, logits_to_keep=0):
        out = self.model(input_ids=input_ids, past_key_values=past_key_values, logits_to_keep=logits_to_keep)
        out.logits = torch.cat([out.logits[..., :3], torch.full_like(out.logits[..., 3:], -1e4)], dim=-1)
        return out


@pytest.mark.parametrize("seed", some_slow(10))
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_finds_the_true_best_with_enough_beams(seed, penalty, prompt):
    """Oracle: every text of three steps, scored by one pass of the model.

    By hand: log-probabilities -1.2 over 2 tokens and -1.5 over 3 rank -1.2 first at penalty 0, and -0.5 before -0.6 at 1.
    """
    model, length, scores = ThreeTokens(random_model(seed, vocab=30)), 3, {}
    for ids in itertools.product(range(3), repeat=length):
        with torch.no_grad():
            log_probs = model(torch.tensor([PROMPT + list(ids)])).logits[0, len(PROMPT) - 1:-1].log_softmax(-1)
        text = ids[:ids.index(0) + 1] if 0 in ids else ids
        scores[text] = log_probs[range(len(text)), text].sum().item() / len(text) ** penalty
    score, best = rank(beam_search(model, prompt, 30, {0}, length), penalty)[0]
    assert tuple(best.ids) == max(scores, key=scores.get) and score == pytest.approx(max(scores.values()), abs=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_one_beam_is_greedy(seed, prompt):
    model = random_model(seed)
    found = beam_search(model, prompt, 1, {0}, 10)
    assert [candidate.ids for candidate in found] == continuations(model, prompt, greedy, {})


@pytest.mark.parametrize("seed", range(6))
def test_what_is_watched_is_the_ranked_pool_of_each_step(seed, prompt):
    steps, model = [], random_model(seed, vocab=8)
    beam_search(model, prompt, 3, {0}, 6, watch=lambda *step: steps.append(step))
    assert [length for length, *_ in steps] == list(range(1, len(steps) + 1))
    live = [[]]
    for _, parents, tokens, totals, ending, alive in steps:
        texts = [[*live[parent], token] for parent, token in zip(parents.tolist(), tokens.tolist(), strict=True)]
        assert len(texts) == 3 * len(live) and totals.tolist() == sorted(totals.tolist(), reverse=True)
        assert [texts[i] for i in ending] == [text for text in texts[:3] if text[-1] == 0]
        live = [texts[i] for i in alive]
        assert live == [text for text in texts if text[-1] != 0][:3]


@pytest.mark.parametrize("seed", range(3))
def test_past_the_context_equals_recomputation(seed, prompt):
    """Every prediction past the context sees exactly the last `context` tokens.

    By hand, with a prompt of 4 tokens and a context of 6: the predictions see 4, 5, 6 tokens, then the last 6 of 7, 8, ...
    """
    model = random_model(seed)

    def shifted(ids):
        return model(ids[:, -6:])
    found = beam_search(model, prompt, 3, {0}, 9, context_len=6)
    finished, cut_off = brute_force_beams(shifted, PROMPT, 3, {0}, 9)
    assert [candidate.ids for candidate in found] == [ids for ids, _ in finished + cut_off]


class Masked(torch.nn.Module):
    """A model whose tokens from `first` on are impossible."""

    def __init__(self, model, first):
        super().__init__()
        self.model, self.config, self.first = model, model.config, first

    def forward(self, input_ids, past_key_values=None, logits_to_keep=0):
        out = self.model(input_ids=input_ids, past_key_values=past_key_values, logits_to_keep=logits_to_keep)
        out.logits = out.logits.clone()
        out.logits[..., self.first:] = -torch.inf
        return out


@pytest.mark.parametrize("eos", [0, 7])
@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_more_beams_than_possible_tokens(seed, first, eos, prompt):
    """Oracle: the brute force over the possible tokens alone, and the search ends when no beginning is left.

    Bug: impossible tokens were offers of log-probability -inf. By hand: two beams, a alone possible, END (impossible) ends:
    the pool is a 0.0, END -inf; END counted as a finished text.
    """
    model = Masked(random_model(seed, vocab=8), first)
    found = beam_search(model, prompt, 4, {eos}, 4)
    finished, cut_off = brute_force_beams(model, PROMPT, 4, {eos}, 4)
    assert [candidate.ids for candidate in found] == [ids for ids, _ in finished + cut_off]
    assert [candidate.log_prob for candidate in found] == pytest.approx([total for _, total in finished + cut_off], abs=1e-4)
    if first == 1 and eos == 0:
        assert found == [Candidate([0], 0.0, True)]  # the only text there is


def test_penalty_counts_generated_tokens_only():
    short, long = Candidate([5, 0], -2.0, True), Candidate([5, 6, 7, 0], -3.0, True)
    assert rank([short, long], 0.0) == [(-2.0, short), (-3.0, long)]
    assert rank([short, long], 1.0) == [(-0.75, long), (-1.0, short)]
