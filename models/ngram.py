"""N-gram models with interpolated, modified Kneser-Ney smoothing, over tokens and over words.

    p_n(w | h) = (c(hw) - D(c(hw))) / c(h.) + g(h) p_(n-1)(w | h'),    g(h) = (D1 N1(h.) + D2 N2(h.) + D3 N3+(h.)) / c(h.)

h' is h without its first token; after a history that was never seen p_n is p_(n-1); below the single tokens all are equally
likely. c counts the longest n-grams; of a shorter one it is the number of different tokens seen before it, but the count where
it begins a text, before which nothing stands. N1(h.) is how many different tokens followed h with c = 1, N2 with 2, N3+ with
more. The discounts of each length are, with n1, n2, ... the numbers of n-grams whose c is 1, 2, ...:

    Y = n1 / (n1 + 2 n2),    D1 = 1 - 2 Y n2 / n1,    D2 = 2 - 3 Y n3 / n2,    D3 = 3 - 4 Y n4 / n3

g(h) hands on what the discounts took, so all probabilities add up to one.
Source: Chen and Goodman 1999, "An empirical study of smoothing techniques for language modeling", section 3.
"""

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from models.transformer import Output

import numpy as np
import torch
from torch import Tensor, nn

DISCOUNTS = (0.5, 1.0, 1.5)  # where a text is too small for the formula


class Length(NamedTuple):
    """The n-grams of one length, those of one history side by side, sorted by their last token; numbered so."""

    tokens: np.ndarray  # (n,) int32: the last token of each
    bounds: np.ndarray  # (histories + 1,) int32: the n-grams of history h are bounds[h] to bounds[h + 1]
    shares: np.ndarray  # (n,) float32: (c - D) / c(h.)
    rest: np.ndarray  # (histories,) float32: g(h), 1 where nothing followed h

    @classmethod
    def of(cls, histories: np.ndarray, tokens: np.ndarray, counts: np.ndarray, num_histories: int) -> "Length":
        """From the number of each n-gram's history, its last token and its c; all (n,) int64."""
        taken = np.array([0.0, *discounts(counts)])[np.minimum(counts, 3)]
        total = np.bincount(histories, counts, num_histories)
        rest = np.ones(num_histories)
        np.divide(np.bincount(histories, taken, num_histories), total, out=rest, where=total > 0)
        shares = (counts - taken) / total[histories]
        bounds = np.searchsorted(histories, np.arange(num_histories + 1))
        return cls(tokens.astype(np.int32), bounds.astype(np.int32), shares.astype(np.float32), rest.astype(np.float32))

    def number(self, history: int, token: int) -> int | None:
        """The number of the n-gram of a history and a token; None where it was never seen."""
        first, end = self.bounds[history:history + 2].tolist()
        place = first + int(np.searchsorted(self.tokens[first:end], token))
        return place if place < end and self.tokens[place] == token else None


def discounts(counts: np.ndarray) -> tuple[float, float, float]:
    """What is taken from c = 1, c = 2 and c of 3 or more. By hand for n1 = 4, n2 = 2, n3 = 1, n4 = 1: Y = 4 / 8 = 0.5,
    D1 = 1 - 2 * 0.5 * 2 / 4 = 0.5, D2 = 2 - 3 * 0.5 * 1 / 2 = 1.25, D3 = 3 - 4 * 0.5 * 1 / 1 = 1."""
    n1, n2, n3, n4 = (int((counts == c).sum()) for c in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    found = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
    return found if all(0 <= discount <= c for c, discount in enumerate(found, 1)) else DISCOUNTS


class KneserNey:
    """What is likely next, by the n-grams of texts. Tokens are numbers below `vocab_size`."""

    def __init__(self, texts: Iterable[list[int]], vocab_size: int, order: int) -> None:
        """texts: each from its beginning, which is never predicted, to its end, which is."""
        self.vocab_size, self.order, self.lengths = vocab_size, order, []
        texts = [np.asarray(text, np.int64) for text in texts]
        tokens = np.concatenate(texts)
        places = np.concatenate([np.arange(len(text)) for text in texts])
        numbers, histories = np.zeros(len(tokens), np.int64), 1  # of the history before each token; one is empty
        for length in range(1, order + 1):
            ends = np.flatnonzero(places >= max(1, length - 1))  # where an n-gram ends
            keys = numbers[ends] * vocab_size + tokens[ends]
            if length == 1:  # unseen tokens have numbers too: a token is its own
                found, number = np.arange(vocab_size), keys
            else:
                found, number = np.unique(keys, return_inverse=True)
            counts = np.bincount(number, minlength=len(found))
            if length < order:
                inside = places[ends] >= length  # something stands before these
                pairs = np.unique(number[inside] * vocab_size + tokens[ends[inside] - length])
                before = np.bincount(pairs // vocab_size, minlength=len(found))
                counts = np.where(before > 0, before, counts)
            self.lengths.append(Length.of(found // vocab_size, found % vocab_size, counts, histories))
            histories = len(found)
            numbers = tokens if length == 1 else np.zeros_like(tokens)
            if length > 1:
                numbers[ends] = number
            numbers = np.roll(numbers, 1)
        self.single = (self.lengths[0].rest[0] / vocab_size + self.lengths[0].shares).astype(np.float64)

    def probs(self, history: list[int]) -> np.ndarray:
        """The probability of each token after a text that ends with `history`: (vocab_size,) float64."""
        probs = self.single.copy()
        for length in range(2, self.order + 1):
            number = self.number(history[len(history) - length + 1:]) if len(history) >= length - 1 else None
            if number is None:
                break
            _, bounds, shares, rest = grams = self.lengths[length - 1]
            own = slice(*bounds[number:number + 2].tolist())
            probs *= rest[number]
            probs[grams.tokens[own]] += shares[own]
        return probs

    def number(self, tokens: list[int]) -> int | None:
        """The number of an n-gram; None where it was never seen."""
        number = tokens[0]
        for length, token in enumerate(tokens[1:], 2):
            number = self.lengths[length - 1].number(number, token)
            if number is None:
                return None
        return number

    def size(self) -> tuple[int, int]:
        """How many n-grams it holds, and in how many bytes."""
        return (sum(len(grams.tokens) for grams in self.lengths),
                sum(array.nbytes for grams in self.lengths for array in grams))


# ------------------------------------------------------------------------------------------------ over tokens


@dataclass
class NGramConfig:
    """What a caller of a language model asks of its configuration. The context is not limited."""

    vocab_size: int


class Recent:
    """What an n-gram model has read, as a cache: the last tokens of each row."""

    def __init__(self) -> None:
        self.ids: Tensor | None = None  # (rows, at most order - 1)
        self.length = 0

    def get_seq_length(self) -> int:
        return self.length

    def batch_select_indices(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        if self.ids is not None:
            self.ids = self.ids[rows]


class NGram(nn.Module):
    """A Kneser-Ney model that is called as any causal language model here; its logits are log-probabilities."""

    def __init__(self, texts: Iterable[list[int]], vocab_size: int, order: int = 5) -> None:
        super().__init__()
        self.config, self.counts = NGramConfig(vocab_size), KneserNey(texts, vocab_size, order)
        self.single = nn.Parameter(torch.from_numpy(self.counts.single), requires_grad=False)  # tells the device

    def forward(self, input_ids: Tensor, past_key_values: Recent | None = None, logits_to_keep: int = 0) -> Output:
        """Logits (rows, kept, vocab) float32 after ids (rows, new), and what `past_key_values` has read, which changes."""
        ids, new, reach = input_ids, input_ids.shape[1], self.counts.order - 1
        if past_key_values is not None:
            if past_key_values.ids is not None:
                ids = torch.cat([past_key_values.ids, ids], 1)
            past_key_values.ids, past_key_values.length = ids[:, -reach:], past_key_values.length + new
        ends = range(ids.shape[1] - (logits_to_keep or new) + 1, ids.shape[1] + 1)
        probs = np.stack([[self.counts.probs(row[max(0, end - reach):end]) for end in ends] for row in ids.tolist()])
        return Output(torch.from_numpy(probs).log().float())


# ------------------------------------------------------------------------------------------------ over words


class WordNGram:
    """The same over words: the likeliest that may follow some words, given letters of it. Words never seen are none."""

    def __init__(self, messages: Iterable[str], order: int = 4) -> None:
        messages = [message.split() for message in messages]
        self.words = sorted({word for words in messages for word in words})  # those that begin alike side by side
        self.places = {word: place for place, word in enumerate(self.words)}
        self.start, self.end, self.unknown = range(len(self.words), len(self.words) + 3)
        texts = [[self.start, *(self.places[word] for word in words), self.end] for words in messages]
        self.counts = KneserNey(texts, len(self.words) + 3, order)

    def probs(self, words: list[str]) -> np.ndarray:
        """The probability of each word of `self.words`, and of start, end and unknown, after the beginning of a message."""
        history = [self.start, *(self.places.get(word, self.unknown) for word in words)]
        return self.counts.probs(history[1 - self.counts.order:])

    def contexts(self, texts: list[str]) -> list[np.ndarray]:
        """The probabilities after each text of finished words."""
        return [self.probs(text.split()) for text in texts]

    def find(self, contexts: list[np.ndarray], typed: list[str], count: int) -> list[list[tuple[str, float]]]:
        """The likeliest words that begin as typed after each context, best first, with their probabilities given that."""
        return [self.next_words(probs, letters, count) for probs, letters in zip(contexts, typed, strict=True)]

    def next_words(self, probs: np.ndarray, typed: str, count: int) -> list[tuple[str, float]]:
        """The likeliest words that begin with `typed`, best first, with their probabilities given that such a word follows."""
        first = bisect.bisect_left(self.words, typed)
        own = probs[first:bisect.bisect_right(self.words, typed, key=lambda word: word[:len(typed)])]
        best = np.argpartition(-own, min(count, len(own) - 1))[:count] if len(own) > count else np.arange(len(own))
        best = best[np.argsort(-own[best], kind="stable")]
        total = own.sum()
        return [(self.words[first + i], float(own[i] / total)) for i in best.tolist()]
