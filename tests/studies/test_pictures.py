"""The pictures: what is read, what is refused, the figures that are drawn, and that something is drawn."""

from support.errors import InputError

import json
import math

from models.loading import Loaded
from studies.pictures import (
    along,
    at_temperature,
    curve,
    draw_along,
    draw_entropy,
    draw_step,
    draw_top_p,
    draw_tradeoff,
    entropies,
    result_of,
)
from support.results import read_results
from tests.helpers import Letters, random_model

import matplotlib.image
import pytest
import torch


@pytest.fixture
def loaded():
    return Loaded(random_model(3, vocab=26), Letters(), frozenset([0]), {"name": "tiny"})


def row(temperature, top_p, kind, **values):
    figures = {name: {"value": value, "low": value, "high": value} for name, value in values.items()}
    return {"what": "draws", "kind": kind, "setting": {"temperature": temperature, "top_p": top_p}, "answers": 4,
            "distinct_texts": 3, **figures}  # fmt: skip


def test_files_of_other_weights_and_missing_ones_are_refused(loaded, tmp_path):
    """Old token ids under new weights would be a picture of nothing."""
    path = tmp_path / "task1_greedy.json"
    with pytest.raises(InputError, match="run the script"):
        read_results(path, loaded.identity)
    run = {"prompt": "hedgehog", "parameters": {}, "token_ids": [1, 2, 0]}
    path.write_text(json.dumps({"model": {"name": "other"}, "runs": [run]}), "utf-8")
    with pytest.raises(InputError, match="other weights"):
        read_results(path, loaded.identity)
    path.write_text(json.dumps({"model": loaded.identity, "runs": [run]}), "utf-8")
    assert result_of(path, loaded.identity) == run
    with pytest.raises(InputError, match="no hedgehog story"):
        result_of(path, loaded.identity, temperature=10.0)
    for broken, why in (('{"model": ', "corrupt"), ("[]", "corrupt"), ("{}", "corrupt")):
        path.write_text(broken, "utf-8")
        with pytest.raises(InputError, match=why):
            read_results(path, loaded.identity)


def test_a_curve_is_sorted_and_an_unfinished_file_is_an_error():
    rows = [row(1.0, 1.0, "json", right=0.5), row(0.5, 1.0, "json", right=0.9), row(0.5, 0.9, "json", right=1.0)]
    assert curve(rows, "json", 1.0, "right") == [(0.5, 0.9, 0.9, 0.9), (1.0, 0.5, 0.5, 0.5)]
    with pytest.raises(InputError, match="not finished"):
        curve(rows, "hedgehog", 1.0, "right")


def test_probability_and_entropy_along_a_text(loaded):
    """Oracle: one token at a time, with no batch of positions.

    By hand: of the probabilities 0.5, 0.25 and 0.25 the entropy is 0.5 ln 2 + 2 * 0.25 ln 4 = 0.347 + 0.693 = 1.040 nats.
    """
    assert entropies(torch.tensor([[0.5, 0.25, 0.25, 0.0]]).log()).tolist() == pytest.approx([1.5 * math.log(2)])
    run = {"prompt": "<|im_start|>x", "parameters": {}, "token_ids": [5, 7, 2]}
    with torch.no_grad():
        probs, entropy = along(loaded, run)
        for i, token in enumerate(run["token_ids"]):
            ids = torch.tensor([[3, 4, 5, 3, *run["token_ids"][:i]]])
            expected = loaded.model(ids).logits[0, -1].double().softmax(-1)
            assert probs[i] == pytest.approx(expected[token].item(), abs=1e-5)
            assert entropy[i] == pytest.approx(-(expected * expected.log()).sum().item(), abs=1e-4)


def test_what_is_drawn_is_the_distribution_after_the_temperature(loaded):
    """By hand: the probabilities 1/6, 2/6, 3/6 at T = 0.5 are squared and normalised: 1/14, 4/14, 9/14."""
    squared = at_temperature(torch.tensor([[1.0, 2.0, 3.0]]).log(), 0.5).exp()
    assert squared[0].tolist() == pytest.approx([1 / 14, 4 / 14, 9 / 14])
    run = {"prompt": "<|im_start|>x", "parameters": {}, "token_ids": [5, 7, 2]}
    flat = along(loaded, {**run, "parameters": {"temperature": 1e6}})
    assert flat[0] == pytest.approx([1 / 26] * 3, rel=1e-3) and flat[1] == pytest.approx([math.log(26)] * 3, rel=1e-3)
    assert along(loaded, {**run, "parameters": {"temperature": 1.0}}) == along(loaded, run)


@pytest.mark.slow
@torch.no_grad()
def test_the_pictures_are_drawn(loaded, tmp_path):
    rows = [row(t, p, kind, right=0.5, kept=0.5, distinct_2=0.5) for t in (0, 1) for p in (1.0, 0.9)
            for kind in ("json", "hedgehog")]  # fmt: skip
    draw_tradeoff(rows, tmp_path / "tradeoff.png")
    draw_top_p(rows, tmp_path / "top_p.png")
    draw_step(loaded, "<|im_start|>x", "Sonic", tmp_path / "step.png")
    run = {"prompt": "<|im_start|>x", "parameters": {}, "token_ids": [5, 7, 2]}
    draw_along(loaded, {"one": run, "another": run}, tmp_path / "along.png")
    draw_entropy(loaded, run, [{**run, "parameters": {"temperature": 0.5}}], tmp_path / "entropy.png")
    assert len(list(tmp_path.iterdir())) == 5
    for path in tmp_path.iterdir():
        assert matplotlib.image.imread(path).std() > 0.05  # not blank
