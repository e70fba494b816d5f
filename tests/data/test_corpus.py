"""The corpus as training sees it: the exercise's own frame, both kinds of documents, the exercise itself left out."""

import itertools
import random

from common import input_text_hedgehog, input_text_json

import pytest
from corpus import STORY_SHARE, held_out_documents, training_documents
from corpus.chatml import JSON_MACHINE, STORYTELLER, chatml
from corpus.names import FIRST_NAMES, reserved, spelled_like_names, story_words, welded_of_words, without_names


@pytest.fixture(scope="module")
def documents():
    return list(itertools.islice(training_documents(1), 20_000))


@pytest.mark.parametrize(("system", "user", "prompt"), [
    (STORYTELLER, "Generate me a short story about a tiny hedgehog named Sonic.", input_text_hedgehog),
    (JSON_MACHINE, "Transfer 100 rubles and 50 kopeck to Mike", input_text_json),
])  # fmt: skip
def test_the_exercises_prompts_are_in_the_frame_of_training(system, user, prompt):
    """One character of difference, and the model is asked in a form that it never saw."""
    assert f"<|im_start|>system\n{system}<|im_end|>\n" in prompt
    assert chatml(system, user) == prompt


def test_the_same_seed_gives_the_same_documents(documents):
    """Reproducible, and another seed gives others."""
    assert list(itertools.islice(training_documents(1), 500)) == documents[:500]
    assert list(itertools.islice(training_documents(2), 500)) != documents[:500]


def test_both_kinds_are_mixed(documents):
    """Everywhere in the stream, in the documented share; a document without a request is a story."""
    for start in range(0, len(documents), 2_000):
        part = documents[start : start + 2_000]
        transfers = sum(JSON_MACHINE in document.prompt for document in part)
        assert abs(1 - transfers / len(part) - STORY_SHARE) < 0.05
        assert any(not document.prompt for document in part)
    for document in documents:
        assert document.answer and (not document.prompt or document.prompt.endswith("<|im_start|>assistant\n"))
        assert "<|" not in document.answer


def test_held_out_documents_are_so_many_transfers_then_stories():
    """The same at every call, so that accuracies can be compared; fewer transfers are the first of more."""
    documents = held_out_documents(30, 20)
    assert documents == held_out_documents(30, 20)
    assert [JSON_MACHINE in document.prompt for document in documents] == [True] * 30 + [False] * 20
    assert held_out_documents(10, 0) == documents[:10]


def test_no_training_document_asks_what_the_exercise_asks(documents):
    """The two prompts are the examination: training must not know them, nor any other held-out request."""
    prompts = {document.prompt for document in documents}
    assert not prompts & {input_text_hedgehog, input_text_json}
    assert not prompts & {document.prompt for document in held_out_documents(500, 200)}


def test_a_tokenizer_learns_from_no_name():
    """Long pieces learned from names made "Janedert" of "Jane": only what also stands in small letters stays."""
    texts = ["The fox met Jane. Jane saw the fox.", "Pay MIKE, the cook. The Cook and a cook: Élise."]
    expected = ["The fox met .  saw the fox.", "Pay , the cook. The Cook and a cook: ."]
    assert without_names(["pay", *texts]) == ["pay", *expected]


@pytest.mark.parametrize("kind", ["he", "she", "family", "firm"])
def test_welded_names_hold_the_pieces_of_ordinary_words(kind):
    """William and Theo were lost: Will and The, whole words of the tokenizer, began no name that training showed."""
    rng = random.Random(3)
    names = {welded_of_words(rng, kind) for _ in range(3000)}
    assert len(names) > 1500 and not {name.lower() for name in names} & set(story_words())
    assert all(any(name.startswith(word) for name in names) for word in ("The", "Will", "With"))


@pytest.mark.parametrize(("kind", "other"), [("he", "she"), ("she", "he")])
def test_the_end_of_a_first_name_tells_he_from_she(kind, other):
    """Names drawn letter by letter told nothing, and Jane became "he"."""
    rng, theirs = random.Random(3), {name[-2:] for name in FIRST_NAMES[other] if not reserved(name)}
    names = [spelled_like_names(rng, kind) for _ in range(300)]
    assert len(set(names)) > 150 and not theirs & {name[-2:] for name in names}
