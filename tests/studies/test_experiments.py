"""The figures of the experiments, against formulas worked out by hand and against the model's own distributions."""

from support.errors import InputError

import json
import math
import subprocess
import sys
import time
from functools import partial

from models.loading import Loaded
from studies import experiments
from studies.experiments import (
    OUTSIDE,
    Request,
    Sample,
    answered,
    draw,
    finished_entries,
    settings,
    side_by_side,
    step_figures,
    summary,
)
from studies.measures import distinct, mean, repetition, share
from tests.helpers import PROMPT, ROOT, Letters, random_model

import psutil
import pytest
import torch

REQUEST = Request("<|im_start|>x", "right", None)


@pytest.fixture
def loaded():
    return Loaded(random_model(3), Letters(), frozenset([0]), {})


def test_wilsons_interval():
    """8 of 10, by hand from Wilson 1927 with z = 1.96.

    The middle is (p + z^2 / 2n) / (1 + z^2 / n) = (0.8 + 0.1921) / 1.3842 = 0.7167, and half the width is
    z sqrt(p (1 - p) / n + z^2 / 4n^2) / (1 + z^2 / n) = 1.96 sqrt(0.016 + 0.0096) / 1.3842 = 0.2266.
    """
    found = share([True] * 8 + [False] * 2)
    assert found["value"] == 0.8
    assert (found["low"], found["high"]) == pytest.approx((0.4902, 0.9433), abs=1e-3)


def test_the_interval_of_a_mean_holds_it_and_is_as_wide_as_the_normal_one():
    """By hand: 0 to 9 in equal parts have the mean 4.5 and the standard deviation sqrt(99 / 12) = 2.8723; of 400 values half
    the width is 1.96 * 2.8723 / 20 = 0.2815.
    """
    values = [float(i % 10) for i in range(400)]
    found = mean(values)
    width = 1.96 * 2.8723 / math.sqrt(400)
    assert (found["value"], found["low"], found["high"]) == pytest.approx((4.5, 4.5 - width, 4.5 + width), abs=0.05)
    assert mean([2.0, 2.0]) == {"value": 2.0, "low": 2.0, "high": 2.0}


def test_repetition_and_distinct_of_known_texts():
    """By hand: "a b c d a b c d" has the 4-grams abcd, bcda, cdab, dabc, abcd, of which 4 are different (Welleck et al. 2020,
    section 6.1); "a b c" and "a b d" have the pairs ab, bc, ab, bd, of which 3 are different (Li et al. 2016, section 5.3).
    """
    assert repetition("a b c d e") == 0.0
    assert repetition("a b c d a b c d") == pytest.approx(1 - 4 / 5)
    assert repetition("too short") == 0.0
    assert distinct("a b c", "a b d") == pytest.approx(3 / 4)
    assert distinct("a b", "a b") == 0.5


def test_what_is_seen_while_drawing_is_what_the_whole_text_gives(loaded):
    """Oracle: one forward pass over each finished text, with no cache.

    By hand: the entropy of 0.5, 0.25, 0.25 is 0.5 ln 2 + 0.5 ln 4 = 1.0397 nats (Shannon 1948, section 6), and above a token
    of 0.25 lies 0.5 of the probability, which is less than 0.9: not outside. Of 0.95, 0.05 the second is outside.
    """
    ((entropy,), outside) = step_figures(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([1]))
    assert entropy == pytest.approx(1.0397, abs=1e-4) and outside == [False]
    assert step_figures(torch.tensor([[0.95, 0.05]]).log(), torch.tensor([1]))[1] == [True]
    setting = {"temperature": 1.3, "top_k": 0, "top_p": 1.0}
    for sample in draw(loaded, REQUEST, setting, 6, 12):
        ids = [ord(letter) - 97 for letter in sample.text] + [0] * sample.ended
        with torch.no_grad():
            logits = loaded.model(torch.tensor([PROMPT + ids])).logits[0, len(PROMPT) - 1:-1].double()
        log_probs = logits.log_softmax(-1)
        chosen = log_probs.gather(1, torch.tensor(ids)[:, None])
        above = (log_probs.exp() * (log_probs > chosen)).sum(-1)
        assert sample.tokens == len(ids)
        assert sample.log_prob == pytest.approx(chosen.mean().item(), abs=1e-4)
        assert sample.entropy == pytest.approx(-(log_probs.exp() * log_probs).sum(-1).mean().item(), abs=1e-4)
        assert sample.outside == pytest.approx((above >= OUTSIDE).double().mean().item(), abs=1e-9)


def test_a_nucleus_of_less_than_nine_tenths_leaves_nothing_outside(loaded):
    samples = draw(loaded, REQUEST, {"temperature": 1.0, "top_k": 0, "top_p": 0.8}, 8, 12)
    assert all(sample.outside == 0 for sample in samples)


def test_a_summary_counts_texts_and_compares_seeds_of_the_same_request_only(loaded):
    greedy = draw(loaded, REQUEST, {"temperature": 0, "top_k": 0, "top_p": 1.0}, 4, 12)
    found = summary([REQUEST, REQUEST._replace(expected=greedy[0].text)], [greedy, greedy])
    assert (found["answers"], found["distinct_texts"]) == (8, 2)
    assert found["pairs_differ"]["value"] == 0 and found["log_prob"]["low"] == found["log_prob"]["high"]


def test_one_greedy_text_stands_for_all_seeds(loaded):
    """A greedy text is written once and counted once per seed, as that many equal rows would be."""
    setting = {"temperature": 0, "top_k": 0, "top_p": 0.9}
    once, each = answered(loaded, REQUEST, setting, 6, 12)[0], draw(loaded, REQUEST, setting, 6, 12)
    assert [sample.text for sample in once] == [sample.text for sample in each]
    assert [sample[1:] for sample in once] == [pytest.approx(sample[1:]) for sample in each]


def test_many_answers_to_few_requests_have_wide_intervals():
    """200 greedy answers to 20 requests once counted as 200: the interval was three times too narrow.

    By hand: of 20 requests half are right, so half the width is 1.96 * 0.5 / sqrt(20) = 0.219; of 200 it would be 0.069.
    """
    def alike(right):
        return [Sample('{"a": 1}' if right else '{"a": 2}', 5, True, -1.0, 1.0, 0.0)] * 10
    request = Request("x", '{"a": 1}', None)
    found = summary([request] * 20, [alike(i % 2) for i in range(20)])["right"]
    assert found["value"] == 0.5
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(20), abs=0.1)


def test_every_setting_of_the_exercise_is_measured_once():
    found = [(setting["temperature"], setting["top_p"]) for setting in settings()]
    assert len(found) == len(set(found))
    assert {(0.001, 1.0), (10.0, 1.0), (1.0, 0.9), (1.0, 0.15), (0.5, 0.9), (0.5, 0.15)} <= set(found)


@pytest.fixture
def run(model_folder, tmp_path, monkeypatch, capsys):
    """Run the command with three settings of thirty and the random model: (exit code, its errors)."""
    def run(*flags):
        monkeypatch.setattr(experiments, "settings", lambda: settings()[:3])
        monkeypatch.setattr(sys, "argv", ["studies/experiments.py", "--model", str(model_folder), "--results",
                                          str(tmp_path / "results"), "--max-new-tokens", "8", *flags])  # fmt: skip
        code = 0
        try:
            experiments.main()
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().err
    return run


@pytest.fixture
def path(tmp_path):
    """Where that command writes."""
    return tmp_path / "results" / "tiny" / "experiments.json"


def read(path):
    return json.loads(path.read_text("utf-8"))


def figures(content):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in content["rows"]]


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_ended(run, path):
    """The second run measures only what the first did not write."""
    flags = ("--seeds", "2", "--held-out", "1", "--processes", "1")
    assert run(*flags)[0] == 0
    whole = read(path)
    cut = {**whole, "rows": whole["rows"][:-3]}
    cut["rows"][0]["seconds"] = -1
    cut["threads"] = 64  # --processes changes it: following the advice to try another number once began anew
    path.write_text(json.dumps(cut), "utf-8")
    assert run(*flags)[0] == 0
    again = read(path)
    assert again["rows"][0]["seconds"] == -1
    assert figures(again) == figures(whole) and len(whole["rows"]) > 10


def test_a_file_that_cannot_be_continued_is_kept_aside(tmp_path, capsys):
    path, head = tmp_path / "experiments.json", {"seeds": 2, "threads": 1}
    assert finished_entries(path, head) == []
    path.write_text(json.dumps({"seeds": 2, "threads": 64, "rows": [{"kind": "json"}]}), "utf-8")
    assert finished_entries(path, head) == [{"kind": "json"}]
    for number, (content, why) in enumerate((('{"seeds": 3, "rows": []}', "is of another model, version or setting"),
                                             ('{"seeds": 2}', "is corrupt"), ("[", "is corrupt")), 1):  # fmt: skip
        path.write_text(content, "utf-8")
        assert finished_entries(path, head) == [] and not path.exists()
        assert why in capsys.readouterr().err and path.with_suffix(f".old{number}").read_text("utf-8") == content


@pytest.mark.slow
def test_the_shipped_file_is_finished(tmp_path, monkeypatch):
    """With the facts that it was written with, a run with the default flags measures nothing anew."""
    shipped = read(ROOT / "results" / "shipped" / "generator" / "experiments.json")
    path = tmp_path / "generator" / "experiments.json"
    path.parent.mkdir()
    path.write_text(json.dumps(shipped), "utf-8")
    facts = {key: shipped[key] for key in ("versions", "device", "dtype", "threads", "command")}
    monkeypatch.setattr(experiments, "run_facts", lambda device, dtype: facts)
    monkeypatch.setattr(experiments, "answered", None)
    monkeypatch.setattr(sys, "argv", ["studies/experiments.py", "--results", str(tmp_path), "--processes", "1"])
    experiments.main()
    assert read(path) == shipped and not list(path.parent.glob("*.old*"))


@pytest.mark.slow
def test_processes_side_by_side_find_what_one_finds(run, path):
    found = []
    for processes in ("1", "2"):
        assert run("--processes", processes, "--seeds", "2", "--held-out", "1")[0] == 0
        found.append(read(path))
        path.unlink()
    assert figures(found[0]) == figures(found[1]) and found[0]["rows"]


@pytest.mark.slow
def test_a_process_that_dies_is_one_clear_line(loaded):
    """A pool of another kind waits for ever for what a killed process would have answered."""
    load = partial(int, "no model")  # fails: the processes end as they begin
    with pytest.raises(InputError, match="--processes 1"), side_by_side(2, loaded, load) as spread:
        list(spread([(REQUEST, None, 1, 1)]))


@pytest.mark.slow
def test_its_processes_end_with_it(model_folder, tmp_path):
    """When it was killed, its processes once waited for work for ever."""
    command = [sys.executable, "-m", "studies.experiments", "--model", str(model_folder), "--results", str(tmp_path),
               "--seeds", "2", "--held-out", "1"]  # fmt: skip
    path = tmp_path / "tiny" / "experiments.json"
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as script:
        while not path.exists() or not read(path)["rows"]:  # until its processes have begun to answer
            assert script.poll() is None
            time.sleep(0.1)
        children = psutil.Process(script.pid).children()
        assert len(children) == 3  # two, and the one that watches their resources
        script.kill()
    assert not psutil.wait_procs(children, timeout=30)[1]


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_known_before_the_work(run, tmp_path):
    (tmp_path / "results").write_text("a file")
    code, errors = run("--seeds", "2", "--held-out", "1", "--processes", "1")
    assert code == 2 and "cannot write" in errors and "request" not in errors
