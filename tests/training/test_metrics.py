"""metrics.jsonl and the curve: kept by a resumed training up to its step, readable after a crash."""

from support.errors import InputError

import json
import shutil

from training.metrics import Metrics

import matplotlib.figure
import pytest

EVALUATION = {"step": 2, "train_loss": 2.5, "validation_loss": 2.25, "perplexity": 9.4877, "seconds": 7}


def test_rows_are_a_json_object_a_line(tmp_path):
    metrics = Metrics(tmp_path, 0)
    metrics.add({"step": 1, "loss": 3.0})
    metrics.add(EVALUATION)
    lines = (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()
    assert list(map(json.loads, lines)) == [{"step": 1, "loss": 3.0}, EVALUATION] == metrics.rows


def test_a_resumed_training_drops_what_came_behind_its_step(tmp_path):
    """Guards a kill between two saves: the steps behind the saved one are taken again. A new training begins anew."""
    metrics = Metrics(tmp_path, 0)
    for step in (1, 2, 3):
        metrics.add({"step": step, "loss": 1.0})
    assert [row["step"] for row in Metrics(tmp_path, 2).rows] == [1, 2]
    assert (tmp_path / "metrics.jsonl").read_text("utf-8").count("\n") == 2
    assert Metrics(tmp_path, 0).rows == []


def test_metrics_drop_a_line_cut_short(tmp_path):
    """Guards --resume after a full disk. Bug: a line cut behind a "}" of its sample passed for a whole one."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "sample": "{}', "utf-8")
    assert Metrics(tmp_path, 2).rows == [{"step": 1, "loss": 2.0}]
    assert (tmp_path / "metrics.jsonl").read_text("utf-8") == '{"step": 1, "loss": 2.0}\n'


@pytest.mark.parametrize("content", [None, b"no json\n", b"[1]\n", b"{}\n", b"\0\0\n", b"\xff\n"])
def test_damaged_metrics_are_one_line(tmp_path, content):
    """Guards --resume: an InputError that names the file, and the file as it was."""
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="metrics.jsonl cannot be read"):
        Metrics(tmp_path, 2)
    assert content is None or path.read_bytes() == content


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    (tmp_path / "out").mkdir()
    metrics = Metrics(tmp_path / "out", 0)
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(InputError, match="cannot write .*metrics.jsonl"):
        metrics.add({"step": 1, "loss": 1.0})


def test_an_evaluation_in_words(tmp_path):
    """By hand: e to 2.25 is 9.49."""
    assert Metrics(tmp_path, 0).words(EVALUATION) == (
        "step 2: training loss 2.5000, validation loss 2.2500, perplexity 9.49")
    told = Metrics(tmp_path, 0, share=("right", "answers right")).words({**EVALUATION, "right": 0.123, "sample": "a\n b "})
    assert told == "step 2: training loss 2.5000, validation loss 2.2500, perplexity 9.49, answers right 12.3%\n    … a b"


@pytest.mark.slow
def test_the_curve_shows_means_evaluations_and_the_share(tmp_path, monkeypatch):
    """Oracle: by hand. 51 steps of the losses 0 to 50: the mean of the first 50 is 24.5, that of the last 50 25.5. The share
    0.5 stands at 50 % on the right axis."""
    metrics = Metrics(tmp_path, 0, share=("right", "answers right"))
    metrics.rows = [{"step": step + 1, "loss": float(step)} for step in range(51)] + [{**EVALUATION, "step": 51, "right": 0.5}]
    lines, savefig = {}, matplotlib.figure.Figure.savefig

    def seen(figure, *args, **kwargs):
        lines.update({line.get_label(): list(zip(*line.get_data(), strict=True)) for axes in figure.axes
                      for line in axes.get_lines()})  # fmt: skip
        savefig(figure, *args, **kwargs)
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", seen)
    metrics.draw()
    assert lines == {"training, mean of 50 steps": [(50, pytest.approx(24.5)), (51, pytest.approx(25.5))],
                     "validation": [(51, 2.25)], "answers right (right axis)": [(51, 50.0)]}  # fmt: skip
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
