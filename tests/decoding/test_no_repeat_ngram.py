"""No n-gram twice: against transformers' processor and its generate, beyond the context, and where nothing is left."""

from support.errors import InputError

import json

from common import decode
from decoding.no_repeat_ngram import ban_repeats
from strategies import continue_ids
from task1_greedy import greedy
from task5_beam import beam_search
from tests.helpers import PROMPT, brute_force_beams, logits, neutral_generate, random_model

import pytest
import torch
from transformers import NoRepeatNGramLogitsProcessor

INF = float("inf")
NEVER = frozenset()  # no end: the texts run to the limit, as those that go in circles do


def written(model, prompt, limit, **settings):
    return list(continue_ids(model, prompt, NEVER, max_new_tokens=limit, temperature=0, **settings))


def circles(ids, size):
    """Whether a run of `size` ids occurs twice."""
    runs = [tuple(ids[i:i + size]) for i in range(len(ids) - size + 1)]
    return len(set(runs)) < len(runs)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_equals_transformers_processor(size):
    """Oracle: NoRepeatNGramLogitsProcessor, on random rows of few tokens, many of them shorter than the n-gram.

    By hand, with size 2: the row (1, 2, 1) holds the runs (1, 2) and (2, 1) and ends with 1, so that 2 is banned; a second row,
    (0, 0, 2), never went on from its 2, so that nothing is. Source: transformers, generation/logits_process.py.
    """
    scores = torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]])
    kept = ban_repeats(scores, torch.tensor([[1, 2, 1], [0, 0, 2]]), 2)
    assert torch.equal(kept, torch.tensor([[0.1, 0.2, -INF], [0.1, 0.2, 0.3]]))
    generator = torch.Generator().manual_seed(size)
    for length in range(1, 14):
        ids, scores = torch.randint(3, (4, length), generator=generator), torch.randn(4, 5, generator=generator)
        before = scores.clone()
        assert torch.equal(ban_repeats(scores, ids, size), NoRepeatNGramLogitsProcessor(size)(ids, scores))
        assert torch.equal(scores, before) and ban_repeats(scores, ids, 0) is scores


def test_a_row_that_can_only_repeat_itself_keeps_its_scores():
    """Where all tokens are banned transformers gives -inf everywhere, from which nothing can be chosen. By hand, size 1: the
    first row has used both tokens; the second the only one that is possible, and the third one of two."""
    scores = torch.tensor([[0.5, 0.1], [0.5, -INF], [0.5, 0.1]])
    kept = ban_repeats(scores, torch.tensor([[0, 1], [0, 0], [0, 0]]), 1)
    assert torch.equal(kept, torch.tensor([[0.5, 0.1], [0.5, -INF], [-INF, 0.1]]))


@pytest.mark.parametrize("size", [1, 2])
def test_an_id_behind_the_vocabulary_is_never_banned(size):
    """Bug: a control token in the prompt was an index beyond the scores. By hand: of the row 9 0 9 1 0 with 3 tokens in the
    vocabulary, 0 and 1 are used; behind 0 came a 9 alone."""
    kept = ban_repeats(torch.zeros(1, 3), torch.tensor([[9, 0, 9, 1, 0]]), size)
    assert kept.tolist() == [[-INF, -INF, 0.0] if size == 1 else [0.0] * 3]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_greedy_is_generates(seed, size, prompt):
    """Oracle: transformers.generate. By hand, size 2: a text that went "a b a b" goes "a b a c", c being second best."""
    model = random_model(seed, vocab=30)
    ours = list(continue_ids(model, prompt, {29}, max_new_tokens=24, temperature=0, no_repeat_ngram_size=size))
    assert ours == neutral_generate(model, prompt, 24, eos=29, no_repeat_ngram_size=size)
    assert not circles([*PROMPT, *ours], size) or size == 1  # the prompt itself has a token twice


@pytest.mark.parametrize("seed", range(3))
def test_beyond_the_context_the_whole_text_counts(seed, prompt):
    """Oracle: the model on the last 6 ids and transformers' processor on all of them. By hand, size 2, context 3: the text
    (1, 2, 5, 6, 1) does not go on with 2, although the pair (1, 2) has left the model's sight."""
    model, ids = random_model(seed, vocab=20), prompt
    for _ in range(20):
        scores = NoRepeatNGramLogitsProcessor(2)(ids, logits(model, ids[:, -6:])[:, -1])
        ids = torch.cat([ids, scores.argmax(-1, keepdim=True)], dim=1)
    assert written(model, prompt, 20, no_repeat_ngram_size=2, context_len=6) == ids[0, len(PROMPT):].tolist()


def test_each_row_has_its_own_past_and_log_probs_stay_the_models(prompt):
    """Two rows that part at their first token; the ban of one is not the other's."""
    firsts = [torch.tensor([5, 7])]

    def choose(scores):
        return firsts.pop() if firsts else greedy(scores)

    model, texts, sums = random_model(1, vocab=12), [[], []], []
    for row, token, log_prob in decode(model, prompt, choose, {}, NEVER, 12, 2, no_repeat_ngram_size=2):
        texts[row].append(token)
        sums.append(log_prob)
    assert all(not circles([*PROMPT, *text], 2) for text in texts) and texts[0][0] != texts[1][0]
    for row, text in enumerate(texts):
        log_probs = logits(model, torch.tensor([[*PROMPT, *text]]))[0, len(PROMPT) - 1:-1].log_softmax(-1)
        assert sums[row::2] == pytest.approx(log_probs[range(12), text].tolist(), abs=1e-4)
        alone = [text[0], *written(model, torch.tensor([[*PROMPT, text[0]]]), 11, no_repeat_ngram_size=2)]
        assert alone == text


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_beams_equal_brute_force(seed, size, prompt):
    """Oracle: the beam search with lists and sorts, transformers' processor on its log-probabilities, as in their own search:
    what is left does not sum to 1. By hand: a beam (1, 2, 1) whose best are 2 (-0.1) and 3 (-2.4) offers 3, still at -2.4."""
    model = random_model(seed, vocab=16)
    found = beam_search(model, prompt, 3, {0}, 8, no_repeat_ngram_size=size)
    finished, cut_off = brute_force_beams(model, PROMPT, 3, {0}, 8, process=NoRepeatNGramLogitsProcessor(size))
    assert [candidate.ids for candidate in found] == [ids for ids, _ in finished + cut_off]
    assert [candidate.log_prob for candidate in found] == pytest.approx([total for _, total in finished + cut_off], abs=1e-4)


@pytest.mark.parametrize("script", ["task1_greedy.py", "task5_beam.py --num-beams 2 --length-penalty 1"])
def test_a_task_keeps_what_it_wrote_with_and_without(script, run_script, tmp_path):
    """Two results of one file, which differ in their settings; the exercise's have none of it."""
    command = [*script.split(), "--prompt", "json", "--max-new-tokens", "30"]
    assert run_script(*command)[0] == 0
    code, printed, _ = run_script(*command, "--no-repeat-ngram-size", "2")
    assert code == 0 and "no_repeat_ngram_size 2, sample 1" in printed
    plain, other = json.loads(next((tmp_path / "results").rglob("*.json")).read_text("utf-8"))["runs"]
    assert other["parameters"] == {**plain["parameters"], "no_repeat_ngram_size": 2}
    assert "no_repeat_ngram_size" not in plain["parameters"]
    assert circles(plain["token_ids"], 2) and not circles(other["token_ids"], 2)


def test_what_the_setting_may_be(run_script, prompt):
    code, _, errors = run_script("task2_sampling.py", "--no-repeat-ngram-size", "-1")
    assert code == 2 and errors == ("error: argument --no-repeat-ngram-size: must be a whole number, 0 (off) or more, "
                                    "not '-1'\n")  # fmt: skip
    with pytest.raises(InputError, match="no_repeat_ngram_size must be a whole number"):
        continue_ids(random_model(0), prompt, NEVER, no_repeat_ngram_size=1.5)
