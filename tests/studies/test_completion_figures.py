"""The figures: by hand; sums over messages and no means of means; intervals and differences by brute force."""

import math

from studies.completion_figures import (
    FIGURES,
    RESAMPLES,
    along,
    calibration,
    coverage,
    difference,
    drawn,
    figures,
    interval,
    ratios,
    rest_bits,
)
from studies.completion_table import table

import numpy as np
import pytest

LN2 = math.log(2)
MESSAGES = ["ab", "abcd efgh ij"]  # 2 and 12 characters, 1 and 3 words
COLUMNS = {
    "surprises": [{"words": [2 * LN2], "end": LN2, "tokens": 2, "ends": [1, 0]},
                  {"words": [10 * LN2, 5 * LN2, LN2], "end": 2 * LN2, "tokens": 8, "ends": [0, 2]}],
    "typed": [{"places": [1], "probs": [0.9], "keys": [1]}, {"places": [0, 3, 2], "probs": [0.2, 0.4, 0.3], "keys": [3, 1, 1]}],
    "rests": [None, {"place": 2, "rouge": [0.5, 0.0, 0.5], "words": [4, 1], "ended": True}],
}


def values(columns=COLUMNS, messages=MESSAGES):
    return {name: figure and figure["value"] for name, figure in figures(messages, columns).items()}


def test_figures_by_hand():
    """Bits 3 and 18 over 2 and 12 characters: 21 / 14 = 1.5. Of 4 words one is right in one, three in three. 6 keys of 14
    characters: 57 % saved, at most 10 / 14. The end was expected 3 times, once where it came, of two that came."""
    found = values()
    assert found["bits_per_character"] == pytest.approx(1.5)
    assert (found["right_in_1"], found["right_in_3"]) == (0.25, 0.75)
    assert (found["keystrokes_saved"], found["keystrokes_bound"]) == pytest.approx((8 / 14, 10 / 14))
    assert (found["rest_in_1"], found["rest_in_2"], found["rest_in_5"]) == (0, 1, 1)
    assert (found["rouge_1"], found["rouge_2"], found["rouge_L"]) == (0.5, 0, 0.5)
    assert (found["end_precision"], found["end_recall"]) == pytest.approx((1 / 3, 1 / 2))
    assert found["length_ratio"] == 4


def test_bits_of_the_rest_by_hand():
    """The rest of "a b c de" is " de", three characters, for 4 bits, and 2 of the end; three words have no last quarter."""
    record = {"words": [LN2, LN2, LN2, 4 * LN2], "end": 2 * LN2}
    assert rest_bits("a b c de", record) == pytest.approx((6, 3))
    assert rest_bits(MESSAGES[1], COLUMNS["surprises"][1]) == (0, 0)


def test_perplexity_is_weighted_by_tokens():
    """The published bug: perplexity averaged over batches, or messages. By hand: 3 ln 2 nats over 2 tokens and 18 ln 2 over 8
    are 2^1.5 = 2.83 and 2^2.25 = 4.76, whose mean is 3.79; all tokens together, 2^(21 / 10) = 4.29."""
    assert values()["perplexity"] == pytest.approx(2**2.1)
    halves = [values({"surprises": [record]}, [text])["perplexity"]
              for text, record in zip(MESSAGES, COLUMNS["surprises"], strict=True)]
    assert sum(halves) / 2 == pytest.approx((2**1.5 + 2**2.25) / 2)


def test_what_was_not_measured_and_what_is_over_nothing_has_no_figure():
    found = values({"typed": COLUMNS["typed"]})
    assert found["bits_per_character"] is None and found["rouge_1"] is None and found["right_in_1"] == 0.25
    never = [{**record, "ends": [0, 0]} for record in COLUMNS["surprises"]]
    assert values({"surprises": never})["end_precision"] is None and values({"surprises": never})["end_recall"] == 0


def test_intervals_are_those_of_resampled_messages():
    """Oracle: each resample drawn and summed one by one."""
    rng = np.random.default_rng(5)
    parts = np.stack([rng.random(30), 1 + rng.random(30)], axis=1)
    value, resampled = ratios(parts, float)
    assert value == pytest.approx(parts[:, 0].sum() / parts[:, 1].sum())
    rng = np.random.default_rng(0)
    for i in range(5):
        chosen = parts[rng.integers(30, size=30)]
        assert resampled[i] == pytest.approx(chosen[:, 0].sum() / chosen[:, 1].sum(), rel=1e-5)
    assert drawn(30).shape == (RESAMPLES, 30) and (drawn(30).sum(1) == 30).all()
    found = interval(value, resampled)
    assert found["low"] < found["value"] < found["high"]
    deviation = (parts[:, 0] - value * parts[:, 1]).std() / parts[:, 1].mean() / math.sqrt(30)  # the delta method
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * deviation, rel=0.15)


def test_a_difference_is_of_the_common_messages_and_narrower_than_its_two_figures():
    """Two rows that differ by the same on each message differ by exactly that; a longer row is cut to the shorter."""
    rng = np.random.default_rng(1)
    messages = ["abcd"] * 40
    one = {"typed": [{"places": [1], "probs": [0.5], "keys": [int(n)]} for n in rng.integers(1, 4, 40)]}
    other = {"typed": [{**record, "keys": [record["keys"][0] + 1]} for record in one["typed"][:25]]}
    found = difference("keystrokes_saved", messages, one, other)
    assert found == {"value": pytest.approx(0.25), "low": pytest.approx(0.25), "high": pytest.approx(0.25), "messages": 25}
    assert difference("bits_per_character", messages, one, other) is None


def test_calibration_and_coverage_by_hand():
    """Four chips of 0.9, 0.4, 0.3 and 0.2, the first right alone: |0.9 - 1| + 0.4 + 0.3 + 0.2 = 1, over four words 0.25.
    Shown from 0.9 on: a quarter, all right; from 0.4: a half, half right."""
    found = calibration(COLUMNS)
    assert found["error"] == pytest.approx(0.25) and [one["prob"] for one in found["bins"]] == [0.9, 0.4, 0.3, 0.2]
    points = coverage(COLUMNS)
    assert [(p["threshold"], p["coverage"], p["precision"]) for p in points] == [
        (0.9, 0.25, 1.0), (0.4, 0.5, 0.5), (0.3, 0.75, pytest.approx(1 / 3)), (0.2, 1.0, 0.25)]  # fmt: skip


def test_along_a_message_by_hand():
    """First words: 2 and 10 bits over 2 and 4 letters; the second: 5 bits over 4 letters and a blank; ends: 1 and 2 bits."""
    assert along(MESSAGES, COLUMNS) == {"words": pytest.approx([2, 1, 1 / 3]), "end": pytest.approx(1.5)}


def test_the_table_has_a_dash_for_what_is_not_there():
    row = {"parameters": 0, "bytes": 0, "figures": {name: None for name in FIGURES}, "key_ms": {"p50": 1, "p95": 2},
           "messages": {"typed": 2}}
    row["figures"] |= {name: {"value": 0.5, "low": 0.4, "high": 0.6} for name in FIGURES if name.startswith(("rouge", "keys"))}
    text = table({"rows": {"constant": row}, "num_messages": 2, "num_words": 4, "cap": 20, "beams": 5})
    cells = [cell.strip() for cell in text.splitlines()[2].strip("|").split("|")]
    assert cells[:8] == ["constant", "0", "0.0", "–", "–", "–", "–", "50.0 (40.0–60.0)"]
    assert cells[10] == "0.500 / 0.500 / 0.500"
