"""The figures of the comparison, made of the records of `studies.completion`, with 95 % intervals over messages.

A figure is a ratio of two sums over messages: bits over characters, right words over words. So long and short messages count
by what they hold, and nothing is a mean of means. Its interval is a percentile bootstrap of the messages (Efron and Tibshirani
1993, chapter 13); a difference of two models is drawn with the same messages for both.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from data.messages import MIN_WORDS, split_x_target_by_words

import numpy as np

RESAMPLES = 1000
BINS = 10  # of the calibration
ALONG = 20  # words of a message
LN2 = math.log(2)


class Figure(NamedTuple):
    """A figure: the column whose records it is made of, and what a message adds to its numerator and denominator.

    `parts` is called with the message and its record. `shown` makes the figure of the ratio.
    """

    column: str
    parts: Callable[[str, dict], tuple[float, float]]
    shown: Callable[[float], float] = float


def nats(record: dict) -> float:
    return sum(record["words"]) + record["end"]


def rest_bits(text: str, record: dict) -> tuple[float, int]:
    """Bits of a message's rest and its end, and characters of the rest with the blank before it; a short message has none."""
    if len(record["words"]) < MIN_WORDS:
        return 0.0, 0
    context, rest = split_x_target_by_words(text)
    return (sum(record["words"][len(context.split()):]) + record["end"]) / LN2, 1 + len(rest)


FIGURES = {
    "bits_per_character": Figure("surprises", lambda text, record: (nats(record) / LN2, len(text))),
    "rest_bits_per_character": Figure("surprises", rest_bits),
    "perplexity": Figure("surprises", lambda text, record: (nats(record), record["tokens"]), math.exp),
    "right_in_1": Figure("typed", lambda text, record: (sum(place == 1 for place in record["places"]), len(record["places"]))),
    "right_in_3": Figure("typed", lambda text, record: (sum(place > 0 for place in record["places"]), len(record["places"]))),
    "keystrokes_saved": Figure("typed", lambda text, record: (len(text) - sum(record["keys"]), len(text))),
    "keystrokes_bound": Figure("typed", lambda text, record: (len(text) - len(record["keys"]), len(text))),
    **{f"rest_in_{n}": Figure("rests", lambda text, record, n=n: (0 < record["place"] <= n, 1)) for n in range(1, 6)},
    **{f"rouge_{name}": Figure("rests", lambda text, record, i=i: (record["rouge"][i], 1)) for i, name in enumerate("12L")},
    "rest_ended": Figure("rests", lambda text, record: (record["ended"], 1)),
    "length_ratio": Figure("rests", lambda text, record: tuple(record["words"])),
    "end_precision": Figure("surprises", lambda text, record: (record["ends"][0], record["ends"][0] + record["ends"][1])),
    "end_recall": Figure("surprises", lambda text, record: (record["ends"][0], 1)),
}
PAIRED = ("bits_per_character", "rest_bits_per_character", "right_in_1", "right_in_3", "keystrokes_saved", "rest_in_1",
          "rest_in_5", "rouge_1", "rouge_L")


# ------------------------------------------------------------------------------------------------ intervals


@lru_cache(maxsize=4)
def drawn(n: int) -> np.ndarray:
    """How often each of n messages is drawn in each resample, (RESAMPLES, n) float32."""
    rng = np.random.default_rng(0)
    return np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(RESAMPLES)]).astype(np.float32)


def ratios(parts: np.ndarray, shown: Callable[[float], float]) -> tuple[float, np.ndarray]:
    """The figure of all messages, and of each resample: parts (messages, 2) -> a number and (RESAMPLES,); NaN over nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = drawn(len(parts)) @ parts
        return shown(np.divide(*parts.sum(0))), np.array([shown(ratio) for ratio in sums[:, 0] / sums[:, 1]])


def interval(value: float, resampled: np.ndarray) -> dict[str, float] | None:
    """{"value", "low", "high"}; None for a figure over nothing, such as the precision of an end that was never expected."""
    if math.isnan(value):
        return None
    low, high = np.nanpercentile(resampled, (2.5, 97.5)).tolist()
    return {"value": float(value), "low": low, "high": high}


def parts_of(figure: Figure, messages: Sequence[str], columns: dict[str, list]) -> np.ndarray:
    """What each message adds, (messages, 2); messages without a record, or with an empty one, add nothing."""
    records = columns.get(figure.column, [])
    return np.array([figure.parts(text, record) if record else (0.0, 0.0)
                     for text, record in zip(messages, records, strict=False)], np.float64).reshape(-1, 2)  # fmt: skip


def figures(messages: Sequence[str], columns: dict[str, list]) -> dict[str, dict[str, float] | None]:
    """Every figure of a row, by its name; None for those whose column was not measured."""
    found = {}
    for name, figure in FIGURES.items():
        parts = parts_of(figure, messages, columns)
        found[name] = interval(*ratios(parts, figure.shown)) if len(parts) else None
    return found


def difference(name: str, messages: Sequence[str], one: dict[str, list], other: dict[str, list]) -> dict | None:
    """A figure of one row minus that of another, on the messages that both have records of; None where they have none."""
    pair = [parts_of(FIGURES[name], messages, columns) for columns in (one, other)]
    common = min(map(len, pair))
    if not common:
        return None
    (first, firsts), (second, seconds) = (ratios(parts[:common], FIGURES[name].shown) for parts in pair)
    found = interval(first - second, firsts - seconds)
    return found and {**found, "messages": common}


# ------------------------------------------------------------------------------------------------ curves


def tops(columns: dict[str, list]) -> tuple[np.ndarray, np.ndarray]:
    """Of every next word how likely the first chip was, falling, and whether it was right; both (words,)."""
    records = columns.get("typed", [])
    probs = np.array([prob for record in records for prob in record["probs"]])
    right = np.array([place == 1 for record in records for place in record["places"]])
    order = np.argsort(-probs, kind="stable")
    return probs[order], right[order]


def calibration(columns: dict[str, list]) -> dict:
    """The first chips in BINS bins of as many words, each with how likely they were and how many were right, and the mean
    distance of the two, which is the expected calibration error (Naeini et al. 2015)."""
    probs, right = tops(columns)
    bins = [{"prob": float(p.mean()), "right": float(r.mean()), "words": len(p)}
            for p, r in zip(np.array_split(probs, BINS), np.array_split(right, BINS), strict=True) if len(p)]  # fmt: skip
    error = sum(abs(one["prob"] - one["right"]) * one["words"] for one in bins) / max(1, len(probs))
    return {"bins": bins, "error": error}


def coverage(columns: dict[str, list]) -> list[dict[str, float]]:
    """What happens when chips less likely than a threshold are not shown: how many are, and how many of these are right."""
    probs, right = tops(columns)
    shown = np.unique(np.ceil(np.linspace(0.02, 1, 50) * len(probs)).astype(int))
    return [{"threshold": float(probs[n - 1]), "coverage": n / len(probs), "precision": float(right[:n].mean())}
            for n in shown.tolist() if n]  # fmt: skip


def along(messages: Sequence[str], columns: dict[str, list]) -> dict:
    """Bits per character of the first word, the second, ..., each with the blank before it, and bits of the end."""
    bits, characters = np.zeros(ALONG), np.zeros(ALONG)
    records = columns.get("surprises", [])
    for text, record in zip(messages, records, strict=False):
        for j, (word, surprise) in enumerate(zip(text.split()[:ALONG], record["words"], strict=False)):
            bits[j] += surprise / LN2
            characters[j] += len(word) + (j > 0)
    words = (bits / characters.clip(1))[characters > 0].tolist()
    return {"words": words, "end": sum(record["end"] for record in records) / LN2 / max(1, len(records))}
