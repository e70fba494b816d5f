"""What is suggested while a message is typed: three next words, the chips, and behind the likeliest of them the rest, in grey.

    suggestions = Suggestions(next_words, keep_case=False, blocked=is_profane)
    suggestions.chips("I'm so ti")  # [Chip("tired", 0.46, "red"), ...]: a word, its probability, what it adds to the text
    suggestions.rest("I'm so ti")   # "red of this"

They come in two stages, which a screen shows as they come: the search for the words and some twenty tokens behind the best one
take as long as each other. `rest` asks before every token whether its text is still the newest, and it is seldom written anew:
while the best word and what stands before it are what the last rest said, this one is a part of that one.
"""

import re
from collections.abc import Callable
from itertools import pairwise, takewhile
from typing import NamedTuple

from data.messages import SPACE, clean_string
from decoding.words import Context, NextWords, Typing, spread

import torch

CHIPS = 3
MORE = 9  # words that are asked for where some are blocked
REST = 20  # tokens behind the first word
# Where the likeliest word is less likely nothing is shown: what is wrong nine times of ten only disturbs. With the shipped LSTM
# half of all places between words show something, and the first word is right in a quarter of them: what
# evaluate_autocomplete.py measures as coverage and precision.
THRESHOLD = 0.11
FRAGMENT = 2  # letters of a word that with its neighbour may be one: "f ck"
CONTRACTED = re.compile(r".*[^i]'(t|s|d|re|ve|ll)|(.*\W)?i'(m|d|ve|ll)", re.IGNORECASE)  # words with an apostrophe
UNREADABLE = "\ufffd"  # what bytes that are no character are decoded to


class Chip(NamedTuple):
    """A word, its probability given that a word follows which begins as typed, and what it adds to the text."""

    word: str
    prob: float
    completion: str


def as_learned(text: str, keep_case: bool | None) -> str | None:
    """A text that is being typed, in the letters that the model has learned; None where its end belongs to none of its words.

    keep_case: as in `clean_string`, which made the messages that the model learned from; None is any text as it is, in single
    blanks. A blank at the end says that the last word is whole. By hand: "I'm so ti" is "im so ti", "tired." is "tired ", and
    "ask @ann" is None.
    """
    if keep_case is None:
        return SPACE.sub(" ", text).lstrip()
    if not keep_case and any(letter.isalpha() and not letter.isascii() for letter in text[text.rfind(" ") + 1:]):
        return None  # of "café" the model would read "caf"
    # Cleaning removes what it finds at the end, so a letter is put there, which shows whether the end joins on.
    ends = [clean_string(text + letter, keep_case) for letter in "xy"]
    return ends[0][:-1] if ends[0] != ends[1] else None


class Suggestions:
    """Suggestions for one person's text; what was read for it is kept for the next key."""

    def __init__(self, next_words: NextWords, keep_case: bool | None, blocked: Callable[[str], bool],
                 threshold: float = THRESHOLD) -> None:
        """keep_case: as in `as_learned`. blocked: whether a word is never suggested. threshold: of the likeliest word."""
        self.source, self.typing, self.keep_case = next_words, Typing(next_words), keep_case
        self.blocked, self.threshold = blocked, threshold
        self.borders = frozenset(next_words.vocabulary.borders.tolist())
        self.path: list[int] = []  # the ids of the last text with its rest
        self.start = 0  # where the rest begins among them

    def place(self, text: str) -> tuple[list[int], Context, str] | None:
        """The ids of a text's finished words, what may follow them, and the letters of its last word.

        None where there is nothing to complete: behind a text of which the model knows no letter, within a mention or a link.
        """
        learned = as_learned(text, self.keep_case)
        if learned is None or not learned.strip() and clean_string(text, keep_case=True):
            return None
        finished, _, letters = learned.rpartition(" ")
        ids = self.source.ids(finished)
        return ids, self.typing.context(ids), letters

    def chips(self, text: str, count: int = CHIPS) -> list[Chip]:
        """The likeliest words that the last letters may become, or that may follow, best first; no blocked one."""
        place = self.place(text)
        if place is None:
            return []
        _, context, letters = place
        for wanted in (count, count + MORE):
            found = self.source.find([context], [letters], wanted)[0]
            chips = [chip for word, prob in found if prob > 0 and (chip := self.chip(text, letters, word, prob))]
            if len(chips) == len(found):
                break
        return chips[:count] if chips and chips[0].prob >= self.threshold else []

    def chip(self, text: str, letters: str, word: str, prob: float) -> Chip | None:
        """The chip of a word whose letters are typed; None where it is blocked, or does not go on as was typed."""
        begun = text[text.rfind(" ") + 1:] if letters else ""
        blank = "" if letters or not text or text[-1].isspace() else " "  # a word is whole that ends with a full stop
        visible = begun + word[len(letters):]
        plain = visible.replace("’", "'")
        if self.keep_case is False and "'" in plain and not CONTRACTED.fullmatch(plain):
            return None  # "we'" is no beginning of "welcome"
        before = "".join(text[: len(text) - len(begun)].split()[-1:])
        if self.blocked(word) or not self.allowed(before, [visible]):
            return None
        return Chip(word, prob, blank + self.as_typed(text, word[len(letters):]))

    def allowed(self, before: str, words: list[str]) -> list[str]:
        """The first of some words behind a word `before`, up to one that is blocked, alone or as a part of a divided one."""
        def is_blocked(last: str, word: str) -> bool:
            divided = min(len(last), len(word)) <= FRAGMENT and not self.blocked(last) and self.blocked(last + word)
            return divided or self.blocked(word)
        return [word for _, word in takewhile(lambda pair: not is_blocked(*pair), pairwise([before, *words]))]

    def as_typed(self, text: str, more: str) -> str:
        """What is added to a text, in capitals where all of it is."""
        shouted = self.keep_case is False and text.isupper() and sum(map(str.isalpha, text)) > 1
        return more.upper() if shouted else more

    def rest(self, text: str, stale: Callable[[], bool] = lambda: False) -> str:
        """What completes the message, likeliest token by token behind the first chip; "" without a chip, or when `stale`.

        It ends where the message does, before a blocked word, or after REST tokens, of which a word that they cut is left out.
        """
        chips = self.chips(text)
        if not chips:
            return ""
        ids, context, _ = self.place(text)
        ids = [*ids, *context.spelling(chips[0].word).tokens]
        if not self.is_known(ids):
            written = self.write(context, chips[0].word, stale)
            if written is None:
                return ""
            self.path, self.start = ids + written, len(ids)
        words = self.allowed(chips[0].word, self.words(self.path[len(ids):]))
        return chips[0].completion + self.as_typed(text, "".join(f" {word}" for word in words))

    def is_known(self, ids: list[int]) -> bool:
        """Whether the last text went on so behind these ids: it was written to its end, or for them, and a word ends there."""
        ended = bool(self.path) and self.path[-1] in self.source.vocabulary.ends
        return (ended or self.start == len(ids)) and self.path[:len(ids)] == ids and self.path[len(ids)] in self.borders

    @torch.inference_mode()
    def write(self, context: Context, word: str, stale: Callable[[], bool]) -> list[int] | None:
        """The likeliest token again and again behind a word, of which the first ends it; None when `stale`."""
        source, written, ids = self.source, [], list(context.spelling(word).tokens)
        cache, borders = spread(context.cache, [context.row]), source.vocabulary.borders
        while len(written) < REST:
            if stale():
                return None
            logits = source.logits(torch.tensor([ids]), cache)[0]
            token = int(logits.argmax() if written else borders[logits[borders].argmax()])
            written.append(token)
            if token in source.vocabulary.ends:
                break
            ids = [token]
        return written

    def words(self, written: list[int]) -> list[str]:
        """The words of tokens that begin with a border, to the end of the message; a word that was cut off is none of them."""
        eos_id = self.source.eos_id
        text, line_end, _ = self.source.tokenizer.decode([token for token in written if token != eos_id]).partition("\n")
        words = text.split()
        if words and not line_end and written[-1] != eos_id:
            words.pop()
        return list(takewhile(lambda word: UNREADABLE not in word, words))
