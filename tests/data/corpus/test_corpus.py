"""The corpus as training sees it: the exercise's own frame, both kinds of documents, the exercise itself left out."""

import itertools

from common import PROMPTS
from data.corpus import STORY_SHARE, held_out_documents, training_documents
from data.corpus.documents import JSON_MACHINE, STORYTELLER
from models.chatml import chatml

import pytest


@pytest.fixture(scope="module")
def documents():
    return list(itertools.islice(training_documents(1), 20_000))


@pytest.mark.parametrize(("system", "user", "prompt"), [
    (STORYTELLER, "Generate me a short story about a tiny hedgehog named Sonic.", PROMPTS["hedgehog"]),
    (JSON_MACHINE, "Transfer 100 rubles and 50 kopeck to Mike", PROMPTS["json"]),
])
def test_the_exercises_prompts_are_in_the_frame_of_training(system, user, prompt):
    """One character of difference, and the model would be asked in a form that it never saw."""
    assert f"<|im_start|>system\n{system}<|im_end|>\n" in prompt
    assert chatml(system, user) == prompt


@pytest.mark.slow
def test_the_same_seed_gives_the_same_documents(documents):
    """Reproducible, and another seed gives others."""
    assert list(itertools.islice(training_documents(1), 500)) == documents[:500]
    assert list(itertools.islice(training_documents(2), 500)) != documents[:500]


@pytest.mark.slow
def test_both_kinds_are_mixed(documents):
    """Everywhere in the stream, in the documented share; a document without a request is a story.

    By hand: of 2,000 documents 15 % or 300 are stories, give or take 5 % or 100: six standard deviations of
    sqrt(2000 * 0.15 * 0.85) = 16.
    """
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


@pytest.mark.slow
def test_no_training_document_asks_what_the_exercise_asks(documents):
    """The two prompts are the examination: training must not know them, nor any other held-out request."""
    prompts = {document.prompt for document in documents}
    assert not prompts & set(PROMPTS.values())
    assert not prompts & {document.prompt for document in held_out_documents(500, 200)}
