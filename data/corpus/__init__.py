"""The built-in training corpus: stories and money transfers, written without end by a seeded generator.

Nothing is downloaded, and what is held out (see `names.reserved`) never occurs in a training document.
"""

import random
from collections.abc import Iterator

from data.corpus.documents import Document
from data.corpus.stories import held_out_story, training_story
from data.corpus.transfers import held_out_transfer, training_transfer

STORY_SHARE = 0.15  # of the documents; a story is about three times as long as a transfer


def training_documents(seed: int) -> Iterator[Document]:
    """Training documents without end, the same for the same seed."""
    rng = random.Random(f"training {seed}")
    while True:
        yield (training_story if rng.random() < STORY_SHARE else training_transfer)(rng).document()


def held_out_documents(transfers: int, stories: int) -> list[Document]:
    """`transfers` transfers, then `stories` stories, the same at every call, with names, amounts and heroes that training
    never shows."""
    rng = random.Random("held out")
    return [write(rng).document() for write in [held_out_transfer] * transfers + [held_out_story] * stories]
