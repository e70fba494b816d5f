"""The tables of docs/autocomplete.md: from an evaluation by hand, in both languages."""

import json

from studies.autocomplete_tables import (
    ABLATION,
    COSTS,
    ENDS,
    RESTS,
    WORDS,
    comparison,
    learning_table,
    pairs_table,
    remembered_table,
)
from studies.completion_figures import FIGURES
from studies.doc_tables import Snapshot

import pytest


@pytest.fixture
def snapshot(tmp_path):
    """Every figure is 0.5 (0.4 to 0.6), but for the constant, which has no bits."""
    def row(parameters, without=()):
        found = {name: None if name in without else {"value": 0.5, "low": 0.4, "high": 0.6} for name in FIGURES}
        return {"parameters": parameters, "bytes": 2 * parameters, "figures": found, "key_ms": {"p50": 1.5, "p95": 12.25},
                "calibration": {"error": 0.021}, "learning": None}
    lstm = row(3_800_000) | {"learning": [[57_600, 2.25], [115_156, 2.0]]}
    rows = {"lstm": lstm, "constant": row(0, ("bits_per_character", "rest_bits_per_character", "perplexity"))}
    pairs = [{"figure": figure, "row": "constant", "minus": "lstm", "value": -0.1, "low": -0.15, "high": -0.05}
             for figure in ("bits_per_character", "right_in_1", "right_in_3", "keystrokes_saved")]
    parts = {part: {"1": {"messages": 4, "exact": exact}, "2": {"messages": 8, "exact": 0}, "3": {"messages": 0, "exact": 0}}
             for part, exact in (("train", 2), ("test", 1))}
    (tmp_path / "autocomplete").mkdir()
    for name, content in (("evaluation", {"rows": rows, "pairs": pairs}), ("remembered", {"parts": parts})):
        (tmp_path / "autocomplete" / f"{name}.json").write_text(json.dumps(content), "utf-8")
    return Snapshot(tmp_path)


def test_a_comparison_has_the_constant_first_and_dashes_for_what_is_not_there(snapshot):
    lines = comparison(snapshot, "autocomplete", WORDS, 0).splitlines()
    assert lines[2] == "| constant answer | – | 50.0 (40.0–60.0) | 50.0 (40.0–60.0) | 50.0 (40.0–60.0) |"
    assert lines[3].startswith("| LSTM | 0.500 (0.400–0.600) | ")
    assert "| LSTM | 0,500 (0,400–0,600) | 50,0" in comparison(snapshot, "autocomplete", WORDS, 1)


@pytest.mark.parametrize("columns", [WORDS, RESTS, ENDS, COSTS, ABLATION])
@pytest.mark.parametrize("language", [0, 1])
def test_tables_have_at_most_five_columns(snapshot, columns, language):
    assert all(line.count("|") <= 6 for line in comparison(snapshot, "autocomplete", columns, language).splitlines())


def test_costs_and_learning(snapshot):
    assert "| LSTM | 3.8, 7.6 | 1.5 / 12.2 | " in comparison(snapshot, "autocomplete", COSTS, 0)
    assert "| LSTM | 57 600: 2.250; 115 156: 2.000 |" in learning_table(snapshot, "autocomplete", 0)


def test_a_difference_may_be_asked_for_either_way_round(snapshot):
    """By hand: constant minus LSTM is −0.1 (−0.15 … −0.05), so LSTM minus constant is 0.1 (0.05 … 0.15); shares in points."""
    table = pairs_table(snapshot, "autocomplete", (("lstm", "constant"),), 0)
    assert "| LSTM − constant answer | 0.100 (0.050 … 0.150) | 10.0 (5.0 … 15.0) |" in table
    assert "−0.100 (−0.150 … −0.050)" in pairs_table(snapshot, "autocomplete", (("constant", "lstm"),), 0)


def test_what_is_remembered_stands_beside_what_was_never_seen(snapshot):
    lines = remembered_table(snapshot, "autocomplete", 0).splitlines()
    assert lines[2:] == ["| learned from | 2 / 4 (50 %) | 0 / 8 (0 %) | 0 / 0 (0 %) |",
                         "| held out | 1 / 4 (25 %) | 0 / 8 (0 %) | 0 / 0 (0 %) |"]
