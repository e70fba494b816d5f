"""The pictures of replies: what they read, and that something is drawn."""

import json
import sys

from studies.reply_pictures import accuracy, curves, draw_optimised, draw_price, main
from tests.studies.reply_summary import HEADS, ROWS, SUMMARY, row

import matplotlib.image
import pytest


def test_a_line_is_of_rows_that_differ_in_one_setting():
    """By hand: guidance 1 and 2 of one candidate, one and eight candidates at guidance 1. Both at once are on no line."""
    rows = {**ROWS, "token-g2-n8": row("token", 2, 8)}
    found = {key: [(one["guidance"], one["candidates"]) for one in line] for key, line in curves(rows).items()}
    assert found == {("guidance", "token"): [(1, 1), (2.0, 1)], ("candidates", "token"): [(1, 1), (1, 8)]}


def test_without_real_replies_any_tone_counts():
    alone = row("token")
    alone["figures"]["control"]["tone"]["differs"] = None
    assert accuracy(alone)["value"] == 0.5 and accuracy(row("token"))["value"] == 0.8


def test_what_was_not_measured_is_not_drawn(tmp_path):
    assert not draw_price({"lora": row("lora")}, tmp_path / "price.png")
    assert not draw_optimised({"lora": row("lora")}, tmp_path / "optimised.png") and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_pictures_are_drawn(tmp_path, monkeypatch, capsys):
    (tmp_path / "replies").mkdir()
    monkeypatch.setattr(sys, "argv", ["pictures", "--results", str(tmp_path), "--row", "other"])
    for why in ("run the script that writes it first", "no row other: it has real, token"):
        with pytest.raises(SystemExit) as stop:
            main()
        errors = capsys.readouterr().err
        assert stop.value.code == 2 and why in errors and errors.count("\n") == 1
        (tmp_path / "replies" / "evaluation.json").write_text(json.dumps(SUMMARY), "utf-8")
    (tmp_path / "replies" / "heads.json").write_text(json.dumps(HEADS), "utf-8")
    monkeypatch.setattr(sys, "argv", ["pictures", "--results", str(tmp_path)])
    main()
    names = ("price", "matrix", "optimised", "pooling", "tokens")
    assert capsys.readouterr().out.endswith(": " + ", ".join(f"{name}.png" for name in names) + "\n")
    for name in names:
        picture = matplotlib.image.imread(tmp_path / "replies" / f"{name}.png")
        assert picture.shape[1] > 250 and picture[..., :3].std() > 0.01, name
