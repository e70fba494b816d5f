"""The loop: its cache and context, write_one and decode, prompts, and a task's script from its flags to its results."""

from support.errors import InputError

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import common
from common import (
    Batch,
    columns_of,
    context_of,
    decode,
    make_row,
    write_one,
)
from strategies import continue_ids
from task1_greedy import greedy
from task2_sampling import sample
from task3_temperature import sample_at_temperature
from task4_nucleus import sample_from_nucleus
from tests.helpers import ROOT, continuations, random_model

import pytest
import torch
from safetensors.torch import load_file, save_file

SCRIPTS = [f"task{name}.py" for name in ("1_greedy", "2_sampling", "3_temperature", "4_nucleus", "5_beam")]


# --- the loop


@pytest.mark.parametrize("seed", range(6))
def test_cached_equals_recomputed_before_and_past_the_context(seed, prompt):
    """Oracle: transformers' model on the last `context` ids, with no cache.

    By hand, with a context of 7 and a prompt of 4: predictions 1 to 4 see 4, 5, 6, 7 tokens from the cache; the fifth would
    see 8, so it sees the last 7, at positions 0 to 6 again.
    """
    model, context = random_model(seed), 7
    rows, ids = Batch(model, prompt, context), prompt
    for _ in range(10):
        with torch.no_grad():
            expected = model(ids[:, -context:]).logits[:, -1]
        logits = rows.next_logits()
        assert torch.allclose(logits, expected, atol=1e-4)
        token = logits.argmax(-1)
        rows.append(token)
        ids = torch.cat([ids, token[:, None]], dim=1)


def test_the_models_own_context_is_the_default_and_the_limit(prompt):
    assert context_of(random_model(0, context=9)) == 9
    assert context_of(random_model(2, context=9), context_len=50) == 9
    assert context_of(random_model(2, context=9), context_len=5) == 5
    without_limit = random_model(2)
    without_limit.config.max_position_embeddings = -1  # as XLNet's, which was refused for every prompt
    assert context_of(without_limit) > 10**6


def sample_first(logits, rows):
    """Greedy, for as many rows as there are."""
    return greedy(logits)


def test_a_prompt_longer_than_the_context_is_read_from_its_end():
    model, ids = random_model(1), torch.randint(12, (1, 20), generator=torch.Generator().manual_seed(0))
    assert continuations(model, ids, sample_first, {"rows": [0, 1]}, context_len=4) == 2 * continuations(
        model, ids[:, -4:], greedy, {}, context_len=4)


def test_selecting_rows_reorders_their_cache(prompt):
    model, rows = random_model(0), Batch(random_model(0), prompt)
    rows.next_logits()
    rows.select([0, 0, 0])
    rows.append(torch.tensor([1, 2, 3]))
    rows.next_logits()
    rows.select([2, 0])
    rows.append(torch.tensor([4, 5]))
    with torch.no_grad():
        expected = model(rows.ids).logits[:, -1]
    assert rows.ids[:, -2:].tolist() == [[3, 4], [1, 5]] and torch.allclose(rows.next_logits(), expected, atol=1e-5)


def test_log_probs_are_the_models_own(prompt):
    model = random_model(3)
    events = list(decode(model, prompt, sample, columns_of(sample, [make_row(0, "p", {}, 1)]), {0}, 8))
    tokens = [token for _, token, _ in events]
    with torch.no_grad():
        logits = model(torch.cat([prompt, torch.tensor([tokens])], dim=1)).logits[0, prompt.shape[1] - 1:-1]
    expected = logits.log_softmax(-1)[range(len(tokens)), tokens]
    assert torch.tensor([log_prob for *_, log_prob in events]).allclose(expected, atol=1e-4)


def test_broken_weights_are_an_error_not_a_text(prompt):
    model = random_model(0)
    next(model.parameters()).data.fill_(torch.nan)
    with pytest.raises(InputError, match="not numbers"):
        continuations(model, prompt, greedy, {})


class Fixed(torch.nn.Module):
    """A model whose next token has these logits, whatever came before."""

    def __init__(self, row: list[float]) -> None:
        super().__init__()
        self.row, self.model = torch.nn.Parameter(torch.tensor(row)), random_model(0)
        self.config = self.model.config

    def forward(self, input_ids, past_key_values=None, logits_to_keep=0):
        self.model(input_ids=input_ids, past_key_values=past_key_values)  # fills the cache
        return SimpleNamespace(logits=self.row.expand(len(input_ids), 1, -1))


INF, NAN = float("inf"), float("nan")
SETTINGS = [{"temperature": 0}, {"temperature": 1}, {"temperature": 0.001}, {"temperature": 10, "top_k": 3}, {"top_p": 0.9},
            {"temperature": 1, "top_p": 0.1}, {"num_beams": 1}, {"num_beams": 4}]  # fmt: skip


@pytest.mark.parametrize("row", [[0, INF, 0, 0], [INF, INF, INF, INF], [0, NAN, 0, 0], [-INF, NAN, 0, 0], [INF, -INF, NAN, 0],
                                 [-INF, -INF, -INF, -INF]])
@pytest.mark.parametrize("setting", SETTINGS)
def test_logits_that_are_no_numbers_are_one_clear_line(row, setting, prompt):
    """Bug: only NaN was looked for. +inf is NaN after the softmax: sampling ended in a traceback of torch.multinomial, greedy
    and beams wrote a text whose log-probability was NaN, with exit code 0. A row of -inf alone has no token to choose.

    By hand: logits 0 and +inf less their maximum are -inf and inf - inf = NaN.
    """
    with pytest.raises(InputError, match="not numbers") as error:
        list(continue_ids(Fixed([float(logit) for logit in row]), prompt, frozenset([0]), max_new_tokens=3, **setting))
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="not numbers"):
        write_one(Fixed([float(logit) for logit in row]), prompt, greedy, frozenset([0]), 3)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("row", [[-INF, 2, -INF, 1, -INF], [-INF, -INF, -INF, 0, -INF]])
def test_tokens_of_probability_0_are_never_written(row, setting, prompt):
    """Masked tokens, as some models have, are -inf. Bug: with fewer tokens than beams, beam search offered the impossible ones,
    and took an impossible EOS for a finished text, of log-probability -inf.

    By hand: of the logits -inf, 2, -inf, 1, -inf only tokens 1 and 3 have a probability, 0.73 and 0.27.
    """
    model = Fixed([float(logit) for logit in row])
    for seed in range(4):
        written = list(continue_ids(model, prompt, frozenset([0]), max_new_tokens=5, seed=seed, **setting))
        assert len(written) == 5 and all(row[token] > -INF for token in written)
    with_log_probs = list(decode(model, prompt, greedy, {}, {0}, 3))
    assert all(math.isfinite(log_prob) for *_, log_prob in with_log_probs)


def test_a_script_says_it_in_one_line(run_script, model_folder, tmp_path):
    """Oracle: float16 holds numbers to 65504. Bug: a traceback, or results with the log-probability NaN and exit code 0."""
    folder = shutil.copytree(model_folder, tmp_path / "loud")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(6e4)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    for script in SCRIPTS:
        flags = ("--model", str(folder), "--dtype", "float16", "--prompt", "json")
        code, out, errors = run_script(script, *flags)
        assert code == 2 and not out and errors.count("\n") == 1 and "not numbers" in errors and "float32" in errors


STRATEGIES = [
    (greedy, {}), (sample, {}), (sample_at_temperature, {"temperature": 1.7}),
    (sample_from_nucleus, {"temperature": 1.3, "top_p": 0.8})]


@pytest.mark.parametrize(("choose", "setting"), STRATEGIES)
@pytest.mark.parametrize("seed", range(6))
def test_the_plain_loop_is_the_batched_one(choose: Callable, setting: dict, seed: int, prompt):
    """Oracle: write_one, a dozen lines for one text, beside decode with four rows of which each is that text's own.

    By hand: a model that gives the ids 5, 3, 0 in turn, with 0 as the end, writes [5, 3, 0] in both; with a limit of 2, [5, 3].
    """
    model, rows = random_model(seed), [make_row(seed, "p", setting, number) for number in range(4)]
    together = continuations(model, prompt, choose, columns_of(choose, rows), limit=12)
    for row, text in zip([make_row(seed, "p", setting, number) for number in range(4)], together, strict=False):
        own = columns_of(choose, [row])
        assert write_one(model, prompt, lambda logits, own=own: choose(logits, **own), frozenset([0]), 12) == text


@pytest.mark.parametrize("seed", range(6))
def test_several_prompts_of_one_length_are_each_as_alone(seed):
    """Oracle: each prompt decoded by itself, two texts for each, drawn with the same random numbers; the first's come first."""
    model, ids = random_model(seed), torch.randint(1, 12, (3, 5), generator=torch.Generator().manual_seed(seed))

    def written(prompts, numbers):
        texts = [[] for _ in numbers]
        generators = [torch.Generator().manual_seed(number) for number in numbers]
        for row, token, _ in decode(model, prompts, sample, {"generators": generators}, frozenset([0, 1]), 10, 2):
            texts[row].append(token)
        return texts
    alone = [written(ids[i:i + 1], [2 * i, 2 * i + 1]) for i in range(3)]
    assert written(ids, range(6)) == alone[0] + alone[1] + alone[2]


def test_a_strategy_is_given_what_its_signature_names():
    rows = [make_row(0, "p", {"temperature": t, "top_p": 0.9}, 1) for t in (0.5, 2.0)]
    columns = columns_of(sample_from_nucleus, rows)
    assert list(columns) == ["generators", "temperature", "top_p"]
    assert columns["temperature"].tolist() == [[0.5], [2.0]] and columns["generators"] == [row.generator for row in rows]
    assert columns_of(greedy, rows) == {}


def test_rows_that_end_take_their_columns_with_them(prompt):
    """A row that stays must keep its own temperature: here rows 0 and 2 end at once, and only row 1 is hot."""
    seen = []

    def choose(logits, temperature):
        seen.append(temperature[:, 0].tolist())
        return torch.tensor([5 if hot > 1 else 0 for hot in temperature[:, 0]])

    texts = continuations(random_model(0), prompt, choose, {"temperature": torch.tensor([[1.0], [9.0], [1.0]])}, limit=3)
    assert texts == [[0], [5, 5, 5], [0]] and seen == [[1.0, 9.0, 1.0], [9.0], [9.0]]


# --- scripts and results


def saved(tmp_path, task):
    return json.loads((tmp_path / "results" / "tiny" / f"{task}.json").read_text())


@pytest.mark.parametrize(("script", "runs"), [*zip(SCRIPTS, [2, 6, 10, 8, 10], strict=True)])
def test_each_script_writes_the_exercises_settings(script, runs, run_script, tmp_path):
    code, out, _ = run_script(script)
    content = saved(tmp_path, script.removesuffix(".py"))
    assert code == 0 and len(content["runs"]) == runs == out.count("=== ")
    assert {run["prompt"] for run in content["runs"]} == {"hedgehog", "json"}
    assert content["model"]["name"] == "tiny" and content["model"]["revision"].startswith("sha256:")
    for run in content["runs"]:
        assert run["new_tokens"] == len(run["token_ids"]) and ("json_valid" in run) == (run["prompt"] == "json")
        assert run["stop"] == ("eos" if run["token_ids"][-1] == 0 else "limit")
        best = run.get("candidates", [{"text": run["text"]}])[0]
        assert best["text"] == run["text"]


def test_the_same_seed_writes_the_same_texts(run_script, tmp_path):
    texts = []
    for seed in ("1", "1", "2"):
        run_script("task2_sampling.py", "--seed", seed)
        texts.append([run["token_ids"] for run in saved(tmp_path, "task2_sampling")["runs"]])
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.slow
def test_a_fresh_process_writes_the_same_texts(run_script, model_folder, tmp_path):
    """Nothing may depend on what ran before, on hash randomisation or on a global generator."""
    run_script("task4_nucleus.py")
    command = [sys.executable, str(ROOT / "task4_nucleus.py"), "--model", str(model_folder), "--max-new-tokens", "8",
               "--results", str(tmp_path / "fresh")]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    here, fresh = (json.loads((tmp_path / place / model_folder.name / "task4_nucleus.json").read_text("utf-8"))["runs"]
                   for place in ("results", "fresh"))
    assert [run["token_ids"] for run in here] == [run["token_ids"] for run in fresh]


@pytest.mark.slow
def test_an_output_that_is_full_is_one_line(tmp_path):
    """Once, a full disk under the printed texts was a traceback."""
    script = f"env -u PYTHONUNBUFFERED {sys.executable} task1_greedy.py --prompt json --results {tmp_path} > /dev/full"
    done = subprocess.run(script, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.endswith("error: cannot go on: [Errno 28] No space left on device\n")
    assert "Traceback" not in done.stderr


def test_ctrl_c_keeps_what_is_finished(run_script, tmp_path, monkeypatch):
    """The ninth step belongs to the second prompt, which is lost; the first is saved."""
    steps, step = iter(range(100)), common.step
    def interrupted_step(*arguments):
        if next(steps) == 9:
            raise KeyboardInterrupt
        return step(*arguments)
    monkeypatch.setattr(common, "step", interrupted_step)
    code, _, errors = run_script("task1_greedy.py")
    assert code == 130 and "interrupted" in errors
    assert [run["prompt"] for run in saved(tmp_path, "task1_greedy")["runs"]] == ["hedgehog"]


def test_temperature_zero_says_that_it_is_greedy(run_script):
    assert "temperature 0 (the limit: greedy)" in run_script("task3_temperature.py", "--temperature", "0")[1]


# --- bad input: one line, exit code 2, the flag named


@pytest.mark.parametrize(("flags", "says"), [
    (["--prompt", ""], "empty"), (["--prompt", "  \n"], "empty"), (["--prompt", "\udcff"], "UTF-8"),
    (["--prompt", "word " * 1000], "context"), (["--max-new-tokens", "0"], "1 or more"),
    (["--samples", "-1"], "1 or more"), (["--temperature", "-1"], "0 or more"), (["--temperature", "nan"], "finite"),
    (["--temperature", "inf"], "finite"), (["--top-p", "0"], "at most 1"), (["--top-p", "1.5"], "at most 1"),
    (["--top-p", "x"], "at most 1"), (["--seed", "-1"], "0 or more"), (["--device", "abacus"], "device"),
    (["--unknown"], "unrecognized"), (["--dtype", "int8"], "invalid choice"),
    (["--results", "/dev/null/results"], "cannot write")])
def test_bad_flags(flags, says, run_script):
    code, out, errors = run_script("task4_nucleus.py", *flags)
    assert code == 2 and not out and errors.count("\n") == 1 and errors.startswith("error: ") and says in errors


def test_more_beams_than_tokens(run_script):
    code, _, errors = run_script("task5_beam.py", "--num-beams", "260")
    assert code == 2 and "vocabulary" in errors and errors.count("\n") == 1
