"""The shipped decoder does what the README says of it, and the shipped results are what it gives."""

import json
import random
from decimal import Decimal
from pathlib import Path

import task1_greedy
import task2_sampling
import task3_temperature
import task4_nucleus
from common import CHECKPOINT, PROMPTS, decode, load_model, make_row, prompt_ids
from evaluate_generator import keeps_hero, most_repeated, respond, summarize
from generator import GeneratorTransformer
from task5_beam import beam_search, rank

import pytest
import torch
from corpus.chatml import STORYTELLER, chatml
from corpus.stories import held_out_story
from corpus.transfers import held_out_transfer

RESULTS = Path(__file__).resolve().parent.parent / "results" / "generator"


@pytest.fixture(scope="module")
def loaded():
    return load_model("generator")


def test_the_checkpoint_fits_in_16_megabytes():
    """A clone must stay small: the whole folder counts, not the weights alone."""
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= 16_000_000


def test_transformers_opens_it_with_nothing_missing_and_the_same_logits(loaded):
    """The folder must serve people who never saw this project's code."""
    from transformers import AutoModelForCausalLM

    theirs, info = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values())
    ids = prompt_ids(loaded.tokenizer, "json")
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, loaded.model(ids).logits, atol=1e-4, rtol=0)


def test_greedy_answers_the_transfer_of_the_exercise_exactly(loaded):
    text, ended = respond(loaded, PROMPTS["json"], temperature=0)
    assert (text, ended) == ('{"contractor": "Mike", "sum": 100.50, "currency": "RUB"}', True)
    assert json.loads(text, parse_float=Decimal)["sum"] == Decimal("100.50")


def test_greedy_tells_of_sonic_the_tiny_hedgehog_and_ends(loaded):
    text, ended = respond(loaded, PROMPTS["hedgehog"], temperature=0)
    assert ended and 100 <= len(text.split()) <= 250
    assert "tiny hedgehog" in text and text.count("Sonic") >= 2 and most_repeated(text) < 3


def test_it_copies_what_it_never_saw(loaded):
    """Held-out names and amounts: a model that remembers instead of copying gets next to none of these right.

    How many of 500 are exact is in evaluation.json; here it is enough to tell a working checkpoint from a broken one.
    """
    rng = random.Random("test")
    transfers = [held_out_transfer(rng) for _ in range(60)]
    right = [respond(loaded, t.document().prompt, temperature=0) == (t.json, True) for t in transfers]
    assert sum(right) >= 42


def test_its_stories_end_and_keep_their_hero(loaded):
    rng = random.Random("test")
    stories = [held_out_story(rng) for _ in range(12)]
    texts = [respond(loaded, chatml(STORYTELLER, s.request), seed=i, temperature=0.8, top_p=0.95)
             for i, s in enumerate(stories)]
    assert sum(ended for _, ended in texts) >= 11
    assert sum(keeps_hero(text, story.hero) for (text, _), story in zip(texts, stories, strict=True)) >= 10


def test_generate_of_the_loaded_class_gives_the_same_json():
    """`GeneratorTransformer.load_from_checkpoint(...).generate(...)` is the exercise's own way in."""
    model = GeneratorTransformer.load_from_checkpoint(CHECKPOINT)
    assert model.generate(PROMPTS["json"], temperature=0) == '{"contractor": "Mike", "sum": 100.50, "currency": "RUB"}'


def shipped_runs(loaded, task):
    """The runs of a task's shipped results, which must be of the shipped weights."""
    content = json.loads((RESULTS / f"{task}.json").read_text("utf-8"))
    assert content["model"] == loaded.identity
    assert {run["prompt"] for run in content["runs"]} == set(PROMPTS)
    return content["runs"]


@pytest.mark.parametrize(("task", "choose"), [
    ("task1_greedy", task1_greedy.choose), ("task2_sampling", task2_sampling.choose),
    ("task3_temperature", task3_temperature.choose), ("task4_nucleus", task4_nucleus.choose)])  # fmt: skip
def test_the_shipped_texts_are_what_the_checkpoint_gives(loaded, task, choose):
    """Every token is the strategy's choice. Another processor may round otherwise: where the choice is another token, the
    shipped one must become the choice when its logit is raised by 1e-4."""
    for run in shipped_runs(loaded, task):
        if run["sample"] > 1 or run["new_tokens"] > 400:
            continue
        row = make_row(run["seed"], run["prompt"], run["parameters"], run["sample"])
        shipped = iter(run["token_ids"])

        def follow(logits, rows, row=row, shipped=shipped):
            token, state = torch.tensor([next(shipped)]), row.generator.get_state()
            if not torch.equal(choose(logits, rows), token):
                row.generator.set_state(state)
                nudged = logits.clone()
                nudged[0, token] += 1e-4
                assert torch.equal(choose(nudged, rows), token)
            return token

        ids = prompt_ids(loaded.tokenizer, run["prompt"])
        events = list(decode(loaded.model, ids, follow, [row], loaded.eos_ids, run["max_new_tokens"]))
        assert [token for _, token, _ in events] == run["token_ids"]


def test_the_shipped_beams_are_what_the_checkpoint_gives(loaded):
    """The winner of every length penalty; or, where another processor rounds otherwise, one as good within 1e-4."""
    runs = [run for run in shipped_runs(loaded, "task5_beam") if run["parameters"]["num_beams"] == 4]
    assert len(runs) == 6
    for prompt in PROMPTS:
        found = beam_search(loaded.model, prompt_ids(loaded.tokenizer, prompt), 4, loaded.eos_ids, 1000)
        for run in runs:
            if run["prompt"] == prompt:
                score, best = rank(found, run["parameters"]["length_penalty"])[0]
                assert best.ids == run["token_ids"] or abs(score - run["candidates"][0]["score"]) < 1e-4


def test_the_shipped_evaluation_is_of_the_shipped_checkpoint(loaded):
    """The README quotes this file: it must be of these weights, and its summary must follow from its rows."""
    content = json.loads((RESULTS / "evaluation.json").read_text("utf-8"))
    assert content["model"] == loaded.identity
    for row in content["transfers"]:
        row["exact"] = row["text"] == row["expected"]
    for row in content["stories"]:
        row["most_repeated"] = most_repeated(row["text"])
    summary = content["summary"]
    assert summary == {**summarize(content["transfers"], content["stories"]), "seconds": summary["seconds"]}
    assert (summary["transfers"], summary["stories"]) == (500, 200)


def test_the_shipped_checkpoint_keeps_its_bars():
    summary = json.loads((RESULTS / "evaluation.json").read_text("utf-8"))["summary"]
    assert summary["transfers_exact"] >= 0.99 and summary["stories_ended"] >= 0.98
    assert summary["stories_keeping_name_and_animal"] >= 0.97
    assert summary["distinct_first_sentences"] >= 190 and summary["most_repeats_of_a_sentence"] < 3
