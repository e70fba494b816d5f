"""What is measured of whatever completes short messages, message by message: a record for each, of which figures are made.

    surprises   nats of each word and of the end, and whether the end was expected where it came, and only there
    typed       an ideal user types the message: the place of each next word among three chips, and the keys it took
    rests       the last quarter: its place among five continuations, and the ROUGE of the greedy one

A word is a word of the cleaned message: none is unknown. What a model writes is cleaned as the messages were, and judged
alone, without the beginning that it was given, and without anything behind its end.
"""

from support.errors import InputError

import re
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from data.messages import MIN_WORDS, clean_string, split_x_target_by_words
from data.profanity import is_profane
from decoding.suggestions import Suggestions
from decoding.words import NextWords, Typing
from strategies import continue_ids
from task5_beam import beam_search, rank

import torch
from torch import nn

CHIPS = 3
BEAMS = 5
CAP = 20  # tokens of a rest
LOGITS = 1 << 24  # that are held at a time


class Words(Protocol):
    """What offers next words. A context is finished words that were read."""

    def contexts(self, texts: list[str]) -> list[Any]: ...

    def find(self, contexts: list[Any], typed: list[str], count: int) -> list[list[tuple[str, float]]]: ...


# ------------------------------------------------------------------------------------------------ surprises


@torch.inference_mode()
def token_nats(model: nn.Module, texts: list[list[int]], eos_id: int) -> list[tuple[list[float], list[bool]]]:
    """Of each text from its beginning to its end: the nats of every token but the first, and where the end was likeliest.

    Texts of one length are read together, so no pad is ever read.
    """
    alike, results, device = defaultdict(list), {}, next(model.parameters()).device
    for i, ids in enumerate(texts):
        alike[len(ids)].append(i)
    for length, members in alike.items():
        rows = max(1, LOGITS // (length * model.config.vocab_size))
        for first in range(0, len(members), rows):
            part = members[first:first + rows]
            ids = torch.tensor([texts[i] for i in part], device=device)
            log_probs = model(input_ids=ids[:, :-1]).logits.float().log_softmax(-1)
            nats = -log_probs.gather(2, ids[:, 1:, None])[..., 0]
            results.update(zip(part, zip(nats.tolist(), (log_probs.argmax(-1) == eos_id).tolist(), strict=True), strict=True))
    return [results[i] for i in range(len(texts))]


def surprises(model: nn.Module, next_words: NextWords, messages: list[str]) -> list[dict]:
    """Per message: nats of each word and of the end, the number of tokens, and `ends`: whether the end was the likeliest token
    where it came (0 or 1), and behind how many words it was where it did not come.

    Raises InputError for a message that the model's tokenizer cannot write, or its context not hold: what is lost costs no
    bits.
    """
    texts = [[*next_words.ids(message), next_words.eos_id] for message in messages]
    for message, ids in zip(messages, texts, strict=True):
        if next_words.tokenizer.decode(ids).split() != message.split():
            raise InputError(f"the model cannot read {message!r} without loss: it has unknown words or a short context, and "
                             "its bits per character would be no measure")
    records = []
    for ids, (nats, ends) in zip(texts, token_nats(model, texts, next_words.eos_id), strict=True):
        starts = next_words.vocabulary.starts(ids)  # places in ids; the nats of ids[i] are nats[i - 1]
        bounds = [*starts, len(ids) - 1]
        words = [sum(nats[start - 1:end - 1]) for start, end in zip(bounds, bounds[1:], strict=False)]
        records.append({"words": rounded(words), "end": round(nats[-1], 4), "tokens": len(nats),
                        "ends": [int(ends[-1]), sum(ends[start - 1] for start in starts[1:])]})
    return records


def rounded(values: list[float], digits: int = 4) -> list[float]:
    return [round(value, digits) for value in values]


# ------------------------------------------------------------------------------------------------ typed


def typed(source: Words, messages: list[str]) -> list[dict]:
    """Per message and word: its place among the chips before a letter is typed (0: none), how likely the first chip was, keys.

    The ideal user looks at the chips before every letter and takes the right one, which is one key and inserts its blank.
    Otherwise a letter is a key, and so is the blank behind a word; sending the message is none.
    """
    places = [(i, j) for i, message in enumerate(messages) for j in range(len(message.split()))]
    words = [message.split() for message in messages]
    contexts = source.contexts([" ".join(words[i][:j]) for i, j in places])
    records = [{"places": [0] * len(row), "probs": [0.0] * len(row), "keys": [len(word) + 1 for word in row]} for row in words]
    for row in records:
        row["keys"][-1] -= 1  # behind the last word stands no blank
    left = list(range(len(places)))
    for letters in range(max(map(len, (word for row in words for word in row)))):
        offers = source.find([contexts[n] for n in left], [words[i][j][:letters] for i, j in (places[n] for n in left)], CHIPS)
        still = []
        for n, offer in zip(left, offers, strict=True):
            (i, j), chips = places[n], [word for word, _ in offer]
            word, record = words[i][j], records[i]
            place = chips.index(word) + 1 if word in chips else 0
            if not letters:
                record["places"][j], record["probs"][j] = place, round(offer[0][1], 4) if offer else 0.0
            if place:
                record["keys"][j] = letters + 1
            elif letters + 1 < len(word):
                still.append(n)
        left = still
    return records


def key_seconds(source: Words, message: str) -> list[float]:
    """The time of each key while a message is typed letter by letter, the memory of finished words being kept."""
    seconds, suggest = [], suggesting(source)
    for end in range(len(message) + 1):
        start = time.perf_counter()
        suggest(message[:end])
        seconds.append(time.perf_counter() - start)
    return seconds


def suggesting(source: Words) -> Callable[[str], object]:
    """What is done at a key: of a model, all that autocomplete.py does, which is chips without profane words and the rest."""
    if isinstance(source, NextWords):
        suggestions = Suggestions(source, None, is_profane)
        return lambda text: (suggestions.chips(text), suggestions.rest(text))
    offer = interactive(source)
    return lambda text: offer(text, CHIPS)


def interactive(source: Words) -> Callable[[str, int], list[tuple[str, float]]]:
    """The words offered for a text as it is typed: (text, count) -> offers."""
    if isinstance(source, NextWords):
        return Typing(source).next_words

    def offer(text: str, count: int) -> list[tuple[str, float]]:
        finished, _, letters = text.rpartition(" ")
        return source.find(source.contexts([finished]), [letters], count)[0]
    return offer


def example(source: Words, message: str) -> list[dict]:
    """A message as the ideal user types it, key by key: the text before the key, the chips, and the chip that the key takes,
    None where it is a letter, or the blank behind a word."""
    words, offer, steps = message.split(), interactive(source), []
    for j, word in enumerate(words):
        for letters in range(len(word) + (j + 1 < len(words))):
            text = " ".join([*words[:j], word[:letters]])
            chips = [chip for chip, _ in offer(text, CHIPS)]
            taken = word if word in chips and letters < len(word) else None
            steps.append({"text": text, "chips": chips, "taken": taken})
            if taken:
                break
    return steps


# ------------------------------------------------------------------------------------------------ rests


class Rest(NamedTuple):
    """What was written behind a context: the greedy text, whether it ended by itself, and the likeliest texts, best first."""

    text: str
    ended: bool
    likeliest: list[str]


def write_rest(model: nn.Module, next_words: NextWords, context: str) -> Rest:
    """Greedy, and by beam search of BEAMS, both with at most CAP tokens. The beams' texts are ranked by their probability."""
    ids, eos_ids = torch.tensor([next_words.ids(context)]), frozenset([next_words.eos_id])
    greedy = write_greedily(model, next_words, context)
    beams = beam_search(model, ids, BEAMS, eos_ids, CAP, cache=next_words.new_cache())
    return Rest(text_of(next_words, greedy), greedy[-1] in eos_ids,
                [text_of(next_words, beam.ids) for _, beam in rank(beams, 0.0)])


def write_greedily(model: nn.Module, next_words: NextWords, context: str) -> list[int]:
    """The ids that a model writes behind a context greedily, CAP at most."""
    return list(continue_ids(model, torch.tensor([next_words.ids(context)]), frozenset([next_words.eos_id]), temperature=0,
                             max_new_tokens=CAP, cache=next_words.new_cache()))


def text_of(next_words: NextWords, written: list[int]) -> str:
    """The text of written ids, without the end."""
    return next_words.tokenizer.decode([token for token in written if token != next_words.eos_id])


def rests(write: Callable[[str], Rest], messages: list[str], keep_case: bool) -> list[dict | None]:
    """Per message, None for one too short to be cut in two: the place of the rest among the likeliest texts (0: none of BEAMS),
    the F-measures of ROUGE-1, 2 and L, the words written and wanted, and whether the text ended by itself."""
    score, records = rouge(), []
    for message in messages:
        context, rest = split_x_target_by_words(message)
        if len(message.split()) < MIN_WORDS:
            records.append(None)
            continue
        written = write(context)
        likeliest = list(dict.fromkeys(clean_string(text, keep_case) for text in written.likeliest))[:BEAMS]
        text = clean_string(written.text, keep_case)
        records.append({"place": likeliest.index(rest) + 1 if rest in likeliest else 0, "rouge": rounded(score(rest, text)),
                        "words": [len(text.split()), len(rest.split())], "ended": written.ended})
    return records


class AllAlphabets:
    """A tokenizer for rouge-score that keeps every alphabet: its own keeps Latin letters alone, so that Russian scores 0."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())


def rouge() -> Callable[[str, str], list[float]]:
    """A function (wanted, written) -> the F-measures of ROUGE-1, ROUGE-2 and ROUGE-L. Source: Lin 2004, by `rouge-score`.

    Raises InputError where that package is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise InputError("the comparison needs rouge-score: pip install -r requirements.txt") from error
    names = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(names, tokenizer=AllAlphabets())
    return lambda wanted, written: [scorer.score(wanted, written)[name].fmeasure for name in names]
