"""Next words and their probabilities from any model that writes tokens; half-typed words completed.

A word is what stands between two blanks. The model writes tokens: " tired" may be one, or " ti" and "red", and the letters
"ti" that a person has typed are the beginning of both. So typed letters are not encoded: they are matched against every
sequence of tokens that can follow the finished words, and

    P(word) = sum over its spellings in tokens: P(tokens) P(a border next),   given that a word follows that begins so

where a border is a token that begins with a blank, or the end. The sequences are a tree. It is explored best first: a round
lets the model read the likeliest sequences not yet read, many in a batch, and gives for each how likely the word ends
there and how it may go on. The search is over when no unread sequence is likelier than the last of the words asked for: no
single spelling that was not looked at could displace one. What it left out is told as a share, `left_out`: a word's
probability is at least the one given, and at most that plus `left_out`.

    next_words = NextWords(model, tokenizer, bos_id, eos_id, new_cache)
    Typing(next_words).next_words("i am so ti", 3)  # [("tired", 0.46), ...]; what was read is kept for the next key
"""

from support.errors import InputError

import bisect
import copy
import heapq
import json
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from decoding.numbers import checked_logits
from models.limits import vocab_size

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 8  # sequences that one word reads in a round
ROUNDS = 8
DEPTH = 12  # tokens of the longest spelling
SHORT = 0.01  # of the probability of all words that begin as typed: sequences shorter than the typed letters may be left unread
ROWS = 256  # that the model reads at once
KEPT = 16  # finished words whose memory is kept for going back
WHITESPACE = tuple(bytes([byte]) for byte in b" \t\n\r\x0b\x0c")


# ------------------------------------------------------------------------------------------------ the vocabulary


def backend(tokenizer: "Tokenizer | PreTrainedTokenizerBase") -> Tokenizer:
    """The tokenizer itself, or the one inside of transformers'."""
    return getattr(tokenizer, "backend_tokenizer", tokenizer)


def token_bytes(tokenizer: Tokenizer) -> dict[int, bytes]:
    """The bytes that each token stands for, without the special ones and the unknown one.

    Byte-level tokens are written in letters that stand for bytes, "Ġ" for a blank; SentencePiece's have "▁" for a blank and
    "<0xF0>" for a byte; those of characters or words are their own text.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    special = {token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    unknown = getattr(tokenizer.model, "unk_token", None)
    texts = {token: text for text, token in tokenizer.get_vocab().items() if token not in special and text != unknown}
    if "ByteLevel" in json.dumps(json.loads(tokenizer.to_str())["decoder"]):
        byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
        return {token: bytes(byte_of[letter] for letter in text) if set(text) <= byte_of.keys() else text.encode()
                for token, text in texts.items()}
    return {token: bytes([int(text[3:5], 16)]) if len(text) == 6 and text.startswith("<0x")
            else text.replace("▁", " ").encode() for token, text in texts.items()}


class Part(NamedTuple):
    """Tokens sorted by the letters that they add to a word, so that those which begin alike stand side by side."""

    letters: list[bytes]
    ids: Tensor  # (n,) int64

    @classmethod
    def of(cls, letters: dict[int, bytes]) -> "Part":
        order = sorted(letters, key=lambda token: letters[token])
        return cls([letters[token] for token in order], torch.tensor(order, dtype=torch.long))

    def beginning_with(self, typed: bytes) -> slice:
        """The places of the tokens whose letters begin with `typed`."""
        return slice(bisect.bisect_left(self.letters, typed),
                     bisect.bisect_right(self.letters, typed, key=lambda letters: letters[:len(typed)]))

    def shorter_than(self, typed: bytes) -> list[int]:
        """The places of the tokens whose letters are a beginning of `typed`, but not all of it."""
        places = []
        for length in range(len(typed)):
            place = bisect.bisect_left(self.letters, typed[:length])
            while place < len(self.letters) and self.letters[place] == typed[:length]:
                places.append(place)
                place += 1
        return places


class Vocabulary:
    """Which tokens begin a word, a blank and letters; which continue one; which are a border between words."""

    def __init__(self, tokenizer: Tokenizer, eos_id: int) -> None:
        texts = token_bytes(tokenizer)
        within = {token: text for token, text in texts.items() if text and not any(blank in text for blank in WHITESPACE)}
        begins = {token: text[1:] for token, text in texts.items()
                  if text.startswith(b" ") and not any(blank in text[1:] for blank in WHITESPACE)}
        self.begin, self.rest, self.begins = Part.of(begins), Part.of(within), frozenset(begins)
        self.borders = torch.tensor(sorted({token for token, text in texts.items() if text.startswith(WHITESPACE)} | {eos_id}))
        self.ends = frozenset({eos_id} | {token for token, text in texts.items() if b"\n" in text})  # of a message

    def starts(self, ids: list[int]) -> list[int]:
        """Where the words of a text begin among its ids."""
        return [place for place, token in enumerate(ids) if token in self.begins]


# ------------------------------------------------------------------------------------------------ the tree


class Node:
    """A sequence of tokens that the model has read: how likely it is, how likely the word ends there, and how it goes on.

    `word` is its letters as text, empty where there are none, or not whole characters.
    """

    __slots__ = ("tokens", "letters", "word", "prob", "border", "children", "part", "best", "read")

    def __init__(self, tokens: tuple[int, ...], letters: bytes, prob: float, border: float, children: np.ndarray,
                 part: Part) -> None:
        """children: the probability of each token of `part` next, (n,)."""
        self.tokens, self.letters, self.prob, self.border = tokens, letters, prob, border
        self.word = letters.decode(errors="ignore")
        if self.word.encode() != letters:  # it ends within a character
            self.word = ""
        self.children, self.part, self.best = children, part, float(children.max(initial=0.0))
        self.read: set[int] = set()  # the places of the children that are nodes themselves


class Wish(NamedTuple):
    """A child that is to be read next: its probability, its parent, its place among the parent's children."""

    prob: float
    node: Node
    place: int


class Found(NamedTuple):
    """The likeliest words, best first, given that a word follows which begins as typed."""

    words: list[tuple[str, float]]
    left_out: float  # the share of the probability that was not looked at


class Context:
    """Finished words, as row `row` of a cache, and the tree of the words that may follow."""

    def __init__(self, cache: Any, row: int, root: Node) -> None:
        self.cache, self.row, self.nodes = cache, row, [root]

    def look(self, typed: bytes, count: int) -> tuple[Found, list[Wish]]:
        """The words found so far that begin with `typed`, and the sequences to read next, none when the search is over."""
        words, covering, shorter = defaultdict(float), [], []
        for node in self.nodes:
            if node.letters.startswith(typed):
                covering.append(node)
                if node.word:
                    words[node.word] += node.prob * node.border
            elif typed.startswith(node.letters):
                shorter.append(node)
        best = heapq.nlargest(count, words.items(), key=lambda item: item[1])
        least = best[-1][1] if len(best) == count else 0.0
        wishes = [wish for node in covering if node.prob * node.best > least
                  for wish in likeliest(node, slice(0, None), least)]  # fmt: skip
        total, unsure = 0.0 if typed else 1.0, []
        for node in shorter:
            missing = typed[len(node.letters):]
            places = node.part.beginning_with(missing)
            total += node.prob * float(node.children[places].sum())
            wishes += likeliest(node, places, least)
            unsure += [Wish(node.prob * float(node.children[place]), node, place)
                       for place in node.part.shorter_than(missing) if place not in node.read]  # fmt: skip
        unread = sum(wish.prob for wish in unsure)
        wishes += [wish for wish in unsure if unread > SHORT * total or wish.prob > least]
        wishes = [wish for wish in wishes if len(wish.node.tokens) < DEPTH and wish.prob > 0]
        scale = 1 / max(total + unread, 1e-300)
        found = Found([(word, prob * scale) for word, prob in best], max(0.0, 1 - sum(words.values()) * scale))
        return found, heapq.nlargest(BATCH, wishes, key=lambda wish: wish.prob)

    def spelling(self, word: str) -> Node:
        """The likeliest tokens of a word that was found."""
        return max((node for node in self.nodes if node.word == word), key=lambda node: node.prob * node.border)


def likeliest(node: Node, places: slice, least: float) -> list[Wish]:
    """Up to BATCH of a node's children in `places` that are likelier than `least` and not yet read."""
    probs = node.children[places]
    chosen = np.flatnonzero(probs > least / node.prob)
    if len(chosen) > BATCH + len(node.read):
        chosen = chosen[np.argpartition(-probs[chosen], BATCH + len(node.read))[:BATCH + len(node.read)]]
    return [Wish(node.prob * float(probs[i]), node, places.start + i) for i in chosen.tolist()
            if places.start + i not in node.read]  # fmt: skip


# ------------------------------------------------------------------------------------------------ the model


def spread(cache: Any, rows: list[int]) -> Any:
    """A new cache of these rows of a cache, which stays as it is: selecting replaces tensors, and changes none."""
    new = copy.copy(cache)
    if hasattr(cache, "layers"):
        new.layers = [copy.copy(layer) for layer in cache.layers]
    new.batch_select_indices(torch.tensor(rows))
    return new


class NextWords:
    """Next words from a model: `read` finished words, then `find` what may follow them, for many texts at once.

    A text is encoded with a blank before its first word, so that every word begins with one.
    """

    def __init__(self, model: nn.Module, tokenizer: "Tokenizer | PreTrainedTokenizerBase", bos_id: int, eos_id: int,
                 new_cache: Callable[[], Any], ahead: int = 0) -> None:
        """ahead: how many tokens are to be written behind a word, for which the model's context must leave room.

        Raises InputError for a tokenizer that is not the model's.
        """
        self.model, self.bos_id, self.eos_id, self.new_cache = model, bos_id, eos_id, new_cache
        self.tokenizer = Tokenizer.from_str(backend(tokenizer).to_str())
        self.tokenizer.encode_special_tokens = True  # typed text is text: "<|endoftext|>" is these letters
        self.vocabulary = Vocabulary(self.tokenizer, eos_id)
        unknown = int((torch.cat([self.vocabulary.begin.ids, self.vocabulary.rest.ids]) >= vocab_size(model)).sum())
        if unknown:
            raise InputError(f"the tokenizer knows {unknown:,} tokens that the model has no weights for: it is another model's")
        self.device = next(model.parameters()).device
        self.room = (getattr(model.config, "max_position_embeddings", None) or 1 << 60) - DEPTH - ahead  # of finished words

    def ids(self, text: str) -> list[int]:
        """The ids of finished words, after the beginning; the last ones that the model's context can hold."""
        words = " ".join(text.split())
        ids = self.tokenizer.encode(f" {words}", add_special_tokens=False).ids if words else []
        return [self.bos_id, *ids[max(0, len(ids) - self.room + 1):]]

    @torch.inference_mode()
    def logits(self, ids: Tensor, cache: Any) -> Tensor:
        """Float32 logits (rows, vocab) of what follows new ids (rows, new)."""
        return checked_logits(self.model(input_ids=ids.to(self.device), past_key_values=cache, logits_to_keep=1).logits[:, -1])

    def read(self, ids: Tensor, cache: Any = None) -> list[Context]:
        """Let the model read new ids (rows, new), after what a cache holds, which is changed; one context per row."""
        cache = self.new_cache() if cache is None else cache
        probs = self.logits(ids, cache).softmax(-1)
        begins = probs[:, self.vocabulary.begin.ids]
        children = (begins / begins.sum(1, keepdim=True).clamp(min=1e-30)).numpy()
        return [Context(cache, row, Node((), b"", 1.0, 0.0, children[row], self.vocabulary.begin)) for row in range(len(ids))]

    def contexts(self, texts: list[str]) -> list[Context]:
        """What may follow each text of finished words; texts of as many tokens are read together."""
        encoded, alike, contexts = [self.ids(text) for text in texts], defaultdict(list), {}
        for i, ids in enumerate(encoded):
            alike[len(ids)].append(i)
        for members in alike.values():
            for first in range(0, len(members), ROWS):
                part = members[first:first + ROWS]
                contexts.update(zip(part, self.read(torch.tensor([encoded[i] for i in part])), strict=True))
        return [contexts[i] for i in range(len(texts))]

    def find(self, contexts: list[Context], typed: list[str], count: int) -> list[list[tuple[str, float]]]:
        """The `count` likeliest words after each context that begin with the letters typed there, and their probabilities."""
        return [found.words for found in self.search(contexts, typed, count)]

    def search(self, contexts: list[Context], typed: list[str], count: int) -> list[Found]:
        """The same, with what was left out."""
        found, left = [Found([], 1.0)] * len(contexts), range(len(contexts))
        letters = [text.encode() for text in typed]
        for round_ in range(ROUNDS + 1):
            wishes = {}
            for i in left:
                found[i], wishes[i] = contexts[i].look(letters[i], count)
            left = [i for i in left if wishes[i]]
            if not left or round_ == ROUNDS:
                return found
            self.grow([(contexts[i], wish) for i in left for wish in wishes[i]])
        return found

    def grow(self, wishes: list[tuple[Context, Wish]]) -> None:
        """Let the model read these sequences; sequences of one length after contexts of one cache go together."""
        groups = defaultdict(list)
        for context, wish in wishes:
            groups[id(context.cache), len(wish.node.tokens)].append((context, wish))
        for group in groups.values():
            for first in range(0, len(group), ROWS):
                self.grow_alike(group[first:first + ROWS])

    def grow_alike(self, wishes: list[tuple[Context, Wish]]) -> None:
        """The same for sequences of one length after contexts of one cache."""
        sequences = [(*wish.node.tokens, int(wish.node.part.ids[wish.place])) for _, wish in wishes]
        cache = spread(wishes[0][0].cache, [context.row for context, _ in wishes])
        probs = self.logits(torch.tensor(sequences), cache).softmax(-1)
        borders = probs[:, self.vocabulary.borders].sum(1).tolist()
        children = probs[:, self.vocabulary.rest.ids].numpy()
        for row, ((context, wish), tokens) in enumerate(zip(wishes, sequences, strict=True)):
            wish.node.read.add(wish.place)
            letters = wish.node.letters + wish.node.part.letters[wish.place]
            context.nodes.append(Node(tokens, letters, wish.prob, borders[row], children[row], self.vocabulary.rest))


class Typing:
    """One person's text while it is typed: what the model has read is kept, and used when words are added or deleted."""

    def __init__(self, next_words: NextWords) -> None:
        self.source, self.read = next_words, []  # (ids, context) after each finished word, the shortest first

    def next_words(self, text: str, count: int) -> list[tuple[str, float]]:
        """The likeliest words that the letters since the last blank may become, best first, with their probabilities.

        A text that is empty or ends with a blank has no such letters: then it is the next word.
        """
        finished, _, letters = text.rpartition(" ")
        return self.source.find([self.context(self.source.ids(finished))], [letters], count)[0]

    def context(self, ids: list[int]) -> Context:
        """What follows these ids, from the longest beginning of them that was read before."""
        while self.read and self.read[-1][0] != ids[:len(self.read[-1][0])]:
            self.read.pop()
        known, before = self.read[-1] if self.read else ([], None)
        if known != ids:
            cache = spread(before.cache, [before.row]) if before else None
            self.read = [*self.read[1 - KEPT:], (ids, self.source.read(torch.tensor([ids[len(known):]]), cache)[0])]
        return self.read[-1][1]
