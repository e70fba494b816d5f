"""The figures of the experiments, against formulas worked out by hand and against the model's own distributions."""

import json
import math
import subprocess
import sys
import time
from argparse import Namespace

from common import InputError, Loaded

import psutil
import pytest
import torch
from conftest import PROMPT, ROOT, random_model
from experiments import (
    OUTSIDE,
    Request,
    Sample,
    answered,
    distinct,
    draw,
    mean,
    repetition,
    settings,
    share,
    side_by_side,
    summary,
)

REQUEST = Request("<|im_start|>x", "right", None)


class Letters:
    """A tokenizer of one letter per id, whose every prompt is PROMPT."""

    def encode(self, text, **settings):
        return PROMPT

    def decode(self, ids, **settings):
        return "".join(chr(97 + i) for i in ids)


@pytest.fixture
def loaded():
    return Loaded(random_model(3), Letters(), frozenset([0]), {})


def test_wilsons_interval():
    """8 of 10, worked out by hand from Wilson's formula with z = 1.96."""
    found = share([True] * 8 + [False] * 2)
    assert found["value"] == 0.8
    assert (found["low"], found["high"]) == pytest.approx((0.4902, 0.9433), abs=1e-3)


def test_the_interval_of_a_mean_holds_it_and_is_as_wide_as_the_normal_one():
    values = [float(i % 10) for i in range(400)]
    found = mean(values)
    width = 1.96 * 2.8723 / math.sqrt(400)
    assert (found["value"], found["low"], found["high"]) == pytest.approx((4.5, 4.5 - width, 4.5 + width), abs=0.05)
    assert mean([2.0, 2.0]) == {"value": 2.0, "low": 2.0, "high": 2.0}


def test_repetition_and_distinct_of_known_texts():
    assert repetition("a b c d e") == 0.0
    assert repetition("a b c d a b c d") == pytest.approx(1 - 4 / 5)
    assert repetition("too short") == 0.0
    assert distinct("a b c", "a b d") == pytest.approx(3 / 4)
    assert distinct("a b", "a b") == 0.5


def test_what_is_seen_while_drawing_is_what_the_whole_text_gives(loaded):
    """Oracle: one forward pass over each finished text, with no cache."""
    setting = {"temperature": 1.3, "top_k": 0, "top_p": 1.0}
    for sample in draw(loaded, REQUEST, setting, 6, 12):
        ids = [ord(letter) - 97 for letter in sample.text] + [0] * sample.ended
        with torch.no_grad():
            logits = loaded.model(torch.tensor([PROMPT + ids])).logits[0, len(PROMPT) - 1 : -1].double()
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
    """Written once and counted so often, as so many equal rows would be."""
    setting = {"temperature": 0, "top_k": 0, "top_p": 0.9}
    once, each = answered(loaded, REQUEST, setting, 6, 12)[0], draw(loaded, REQUEST, setting, 6, 12)
    assert [sample.text for sample in once] == [sample.text for sample in each]
    assert [sample[1:] for sample in once] == [pytest.approx(sample[1:]) for sample in each]


def test_many_answers_to_few_requests_have_wide_intervals():
    """Once, 200 greedy answers to 20 requests counted as 200: the interval was three times too narrow."""
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


def test_a_stopped_run_goes_on_where_it_ended(run_script, tmp_path):
    """The second run measures only what the first did not write."""
    flags = ("--seeds", "2", "--held-out", "1", "--processes", "1")
    assert run_script("experiments.py", *flags)[0] == 0
    path = next((tmp_path / "results").rglob("experiments.json"))
    whole = json.loads(path.read_text("utf-8"))
    cut = {**whole, "rows": whole["rows"][:-3]}
    cut["rows"][0]["seconds"] = -1
    cut["threads"] = 64  # --processes changes it: following the advice to try another number once began anew
    path.write_text(json.dumps(cut), "utf-8")
    assert run_script("experiments.py", *flags)[0] == 0
    again = json.loads(path.read_text("utf-8"))
    assert again["rows"][0]["seconds"] == -1

    assert figures(again) == figures(whole)


def figures(content):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in content["rows"]]


def test_processes_side_by_side_find_what_one_finds(model_folder, tmp_path):
    found = []
    for processes in ("1", "2"):
        command = [sys.executable, str(ROOT / "experiments.py"), "--model", str(model_folder), "--processes", processes,
                   "--seeds", "2", "--held-out", "1", "--max-new-tokens", "8", "--results", str(tmp_path / processes)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        found.append(json.loads(next((tmp_path / processes).rglob("experiments.json")).read_text("utf-8")))
    assert figures(found[0]) == figures(found[1]) and found[0]["rows"]


def test_a_process_that_dies_is_one_clear_line(loaded):
    """A pool of another kind waits for ever for what a killed process would have answered."""
    args = Namespace(processes=2, model="no such folder", device="cpu", dtype="float32")  # its processes end as they begin
    with pytest.raises(InputError, match="--processes 1"), side_by_side(args, loaded) as spread:
        list(spread([(REQUEST, None, 1, 1)]))


def test_its_processes_end_with_it(model_folder, tmp_path):
    """Killed, it left its processes waiting for work for ever."""
    command = [sys.executable, str(ROOT / "experiments.py"), "--model", str(model_folder), "--results", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as script:
        while len(children := psutil.Process(script.pid).children()) < 3:  # two, and the one that watches their resources
            assert script.poll() is None
            time.sleep(0.1)
        time.sleep(5)
        script.kill()
    assert not psutil.wait_procs(children, timeout=30)[1]


def test_a_folder_that_cannot_be_written_is_known_before_the_work(run_script, tmp_path):
    (tmp_path / "results").write_text("a file")
    code, out, errors = run_script("experiments.py", "--seeds", "2", "--held-out", "1", "--processes", "1")
    assert code == 2 and "cannot write" in errors and "request" not in errors
