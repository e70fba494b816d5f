"""pictures.py: what it reads, what it refuses, and that it draws."""

import json

from common import InputError, Loaded

import matplotlib.image
import pytest
import torch
from conftest import random_model
from pictures import along, curve, draw_along, draw_step, draw_tradeoff, read, run_of
from test_experiments import Letters


@pytest.fixture
def loaded():
    return Loaded(random_model(3, vocab=26), Letters(), frozenset([0]), {"name": "tiny"})


def row(temperature, top_p, kind, **values):
    figures = {name: {"value": value, "low": value, "high": value} for name, value in values.items()}
    return {"what": "draws", "kind": kind, "setting": {"temperature": temperature, "top_p": top_p}, **figures}


def test_files_of_other_weights_and_missing_ones_are_refused(loaded, tmp_path):
    """Old token ids under new weights would be a picture of nothing."""
    path = tmp_path / "task1_greedy.json"
    with pytest.raises(InputError, match="run the script"):
        read(path, loaded)
    run = {"prompt": "hedgehog", "parameters": {}, "token_ids": [1, 2, 0]}
    path.write_text(json.dumps({"model": {"name": "other"}, "runs": [run]}), "utf-8")
    with pytest.raises(InputError, match="other weights"):
        read(path, loaded)
    path.write_text(json.dumps({"model": loaded.identity, "runs": [run]}), "utf-8")
    assert run_of(loaded, path) == run
    with pytest.raises(InputError, match="no hedgehog story"):
        run_of(loaded, path, temperature=10.0)
    for broken in ('{"model": ', "[]", "{}"):
        path.write_text(broken, "utf-8")
        with pytest.raises(InputError, match="corrupt"):
            read(path, loaded)


def test_a_curve_is_sorted_and_an_unfinished_file_is_an_error():
    rows = [row(1.0, 1.0, "json", right=0.5), row(0.5, 1.0, "json", right=0.9), row(0.5, 0.9, "json", right=1.0)]
    assert curve(rows, "json", 1.0, "right") == [(0.5, 0.9, 0.9, 0.9), (1.0, 0.5, 0.5, 0.5)]
    with pytest.raises(InputError, match="not finished"):
        curve(rows, "hedgehog", 1.0, "right")


def test_probability_and_entropy_along_a_text(loaded):
    """Oracle: one token at a time, with no batch of positions."""
    run = {"prompt": "<|im_start|>x", "token_ids": [5, 7, 2]}
    with torch.no_grad():
        probs, entropy = along(loaded, run)
        for i, token in enumerate(run["token_ids"]):
            ids = torch.tensor([[3, 4, 5, 3, *run["token_ids"][:i]]])
            expected = loaded.model(ids).logits[0, -1].double().softmax(-1)
            assert probs[i] == pytest.approx(expected[token].item(), abs=1e-5)
            assert entropy[i] == pytest.approx(-(expected * expected.log()).sum().item(), abs=1e-4)


@torch.no_grad()
def test_the_pictures_are_drawn(loaded, tmp_path):
    rows = [row(t, p, kind, right=0.5, kept=0.5, distinct_2=0.5) for t in (0, 1) for p in (1.0, 0.9)
            for kind in ("json", "hedgehog")]  # fmt: skip
    draw_tradeoff(rows, tmp_path / "tradeoff.png")
    draw_step(loaded, "<|im_start|>x", tmp_path / "step.png")
    run = {"prompt": "<|im_start|>x", "token_ids": [5, 7, 2]}
    draw_along(loaded, {"one": run, "another": run}, tmp_path / "along.png")
    for path in tmp_path.iterdir():
        assert matplotlib.image.imread(path).std() > 0.05  # not blank
