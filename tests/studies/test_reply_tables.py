"""The tables of replies: from an evaluation by hand, in both languages."""

import json

from studies.doc_tables import Snapshot
from studies.reply_tables import (
    CATEGORY,
    PRICE,
    SECOND,
    TABLES,
    TONE,
    VARIETY,
    ablations_table,
    comparison,
    judges_table,
    page,
    pooling_table,
    reply_table,
    tokens_table,
    typed_table,
)
from tests.studies.reply_summary import HEADS, ROWS, SUMMARY, figure

import pytest


@pytest.fixture
def snapshot(tmp_path):
    typed = {"totals": {"category_read": {**figure(0.9), "right": 90, "of": 100}}}
    (tmp_path / "replies").mkdir()
    for name, content in (("evaluation", SUMMARY), ("heads", HEADS), ("typed", typed)):
        (tmp_path / "replies" / f"{name}.json").write_text(json.dumps(content), "utf-8")
    return Snapshot(tmp_path)


def lines(text):
    return [line.strip("| ").split(" | ") for line in text.splitlines() if not line.startswith("|---")]


def test_a_line_for_each_row_with_its_settings():
    head, real, token, guided, best, lora = lines(comparison(ROWS, TONE, 0))
    assert head[:2] == ["model", "tone right, %"]
    assert token == ["control tokens", "50.0 (40.0–60.0)", "90.0 (80.0–100.0)", "60.0 (50.0–70.0)", "–"]
    assert [line[0] for line in (real, guided, best, lora)] == ["real replies", "control tokens, γ = 2",
                                                                "control tokens, best of 8", "LoRA"]  # fmt: skip
    assert lines(comparison(ROWS, TONE, 1))[4][0] == "управляющие токены; лучший из 8"


def test_what_was_not_measured_is_a_dash():
    assert lines(comparison(ROWS, PRICE, 0))[2] == ["control tokens", "9.00 (8.90–9.10)", "11.00 (10.90–11.10)", "–",
                                                    "20.00 (19.90–20.10)"]  # fmt: skip
    assert lines(comparison(ROWS, VARIETY, 1))[2] == ["управляющие токены", "10 из 50", "0,432", "–", "1,50 (1,40–1,60)"]
    assert lines(comparison(ROWS, CATEGORY, 0))[2][2:] == ["–", "40.0 (30.0–50.0)", "–"]
    assert lines(comparison(ROWS, SECOND, 0))[2][2:] == ["50.0 (40.0–60.0)", "0.85", "20.0 (10.0–30.0)"]


@pytest.mark.parametrize("language", [0, 1])
def test_tables_have_at_most_five_columns(snapshot, language):
    tables = [comparison(ROWS, columns, language) for columns in TABLES.values()]
    tables += [make(snapshot, "replies", language) for make in (judges_table, ablations_table, typed_table)]
    tables += [make(snapshot, "replies", "tone", language) for make in (pooling_table, tokens_table)]
    for text in tables:
        head, *others = lines(text)
        assert len(head) <= 5 and others and all(len(line) == len(head) for line in others)


def test_heads_judges_and_typed_requests(snapshot):
    assert lines(pooling_table(snapshot, "replies", "tone", 0))[1:] == [
        ["control tokens", "90.0 (80.0–100.0)", "90.0 (80.0–100.0)", "30.0 (20.0–40.0)", "30.0 (20.0–40.0)"],
        ["heads on the first token", "–", "90.0 (80.0–100.0)", "30.0 (20.0–40.0)", "30.0 (20.0–40.0)"]]  # fmt: skip
    assert lines(tokens_table(snapshot, "replies", "tone", 0)) == [
        ["model", "8 tokens, %", "16 tokens, %", "32 tokens, %", "96 tokens, %"],
        ["control tokens", "50.0 (40.0–60.0)", "–", "–", "90.0 (80.0–100.0)"]]  # fmt: skip
    assert lines(ablations_table(snapshot, "replies", 1))[1][:3] == ["управляющие токены", "1,5", "–"]
    assert lines(judges_table(snapshot, "replies", 0))[1:] == [
        ["tone", "95.0 (85.0–105.0)", "90.0", "32", "–"],
        ["tone, the published rule", "95.0 (85.0–105.0)", "90.0", "32", "80.0 (70.0–90.0)"]]  # fmt: skip
    assert lines(typed_table(snapshot, "replies", 0))[1] == ["category read from the request", "90 of 100", "90.0 (80.0–100.0)"]


def test_some_rows_of_an_evaluation_alone(snapshot):
    assert [line[0] for line in lines(reply_table(snapshot, "replies", TONE, 0, ("lora",)))] == ["model", "LoRA"]


def test_the_page_holds_every_table_and_the_signatures():
    text = page(SUMMARY)
    assert all(f"## {title}\n" in text for title in (*TABLES, "judges")) and "BLEU: `nrefs:2`" in text
