"""The pictures of the comparison: what they read, what their titles say, and that something is drawn."""

from support.errors import InputError

import json
import sys

from studies.autocomplete_pictures import (
    best,
    draw_along,
    draw_learning,
    draw_rouge,
    draw_saved,
    draw_sure,
    draw_typed,
    main,
    styles,
)
from studies.completion_figures import FIGURES

import matplotlib.image
import pytest


def row(value, **others):
    figure = {"value": value, "low": value - 0.01, "high": value + 0.01}
    return {"figures": {name: figure for name in FIGURES}, "bytes": 10**6, "key_ms": {"p50": 1.0, "p95": 2.0},
            "coverage": [{"threshold": 0.5, "coverage": 0.1, "precision": 0.6},
                         {"threshold": 0.1, "coverage": 1.0, "precision": 0.2}],
            "calibration": {"bins": [{"prob": 0.1, "right": 0.2, "words": 5}], "error": 0.1},
            "learning": [(64, 3.0), (640, 2.0)], "along": {"words": [2.0, 1.5], "end": 3.0},
            "example": {"text": "go to", "keys": [{"text": "", "chips": ["so", "go"], "taken": "go"}]}, **others}  # fmt: skip


@pytest.fixture
def rows():
    known = row(0.3)
    known["figures"] = {**known["figures"], "bits_per_character": None, "perplexity": None}
    return {"constant": {**known, "along": None}, "n-gram": row(0.4), "lstm": row(0.5), "big": row(0.45)}


def test_the_best_row_of_a_figure(rows):
    assert best(rows, "keystrokes_saved") == ("lstm", 0.5)
    assert best(rows, "bits_per_character", lowest=True) == ("n-gram", 0.4)  # constant has none
    with pytest.raises(InputError, match="no bits_per_character"):
        best({"constant": rows["constant"]}, "bits_per_character")


def test_a_row_looks_the_same_in_every_picture(rows):
    assert styles(rows)["big"] == styles({name: rows[name] for name in ("n-gram", "lstm", "big")})["big"]
    assert len({(look["color"], look["marker"]) for look in styles(rows).values()}) == 4


@pytest.mark.slow
def test_the_pictures_are_drawn(rows, tmp_path):
    for draw, name in ((draw_along, "along"), (draw_saved, "saved"), (draw_sure, "sure"), (draw_rouge, "rouge"),
                       (draw_learning, "learning")):  # fmt: skip
        draw(rows, tmp_path / f"{name}.png")
    draw_typed("lstm", rows["lstm"]["example"], tmp_path / "typed.png")
    for path in tmp_path.iterdir():
        picture = matplotlib.image.imread(path)
        assert picture.shape[1] > 300 and picture[..., :3].std() > 0.01, path


def test_a_missing_file_and_a_missing_row_are_one_line(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pictures", "--results", str(tmp_path), "--row", "other"])
    for why in ("run the script that writes it first", "no row other"):
        with pytest.raises(SystemExit) as stop:
            main()
        errors = capsys.readouterr().err
        assert stop.value.code == 2 and why in errors and errors.count("\n") == 1
        (tmp_path / "autocomplete").mkdir(exist_ok=True)
        (tmp_path / "autocomplete" / "evaluation.json").write_text(json.dumps({"rows": rows}), "utf-8")
