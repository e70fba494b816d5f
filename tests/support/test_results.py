"""Results files: what they name, what a second run replaces, files that cannot be continued, the page derived from them."""

from support.errors import InputError

import io
import json
import os
import sys

from support.results import (
    describe,
    markdown,
    model_folder,
    order,
    print_result,
    read_json,
    read_results,
    read_task,
    shorten,
)
from tests.helpers import ROOT, Terminal

import pytest

SHIPPED = ROOT / "results" / "shipped" / "generator"


def saved(tmp_path, task):
    return json.loads((tmp_path / "results" / "tiny" / f"{task}.json").read_text())


def test_the_results_name_what_wrote_them(run_script, tmp_path):
    run_script("task1_greedy.py", "--prompt", "json")
    content = saved(tmp_path, "task1_greedy")
    assert set(content["versions"]) == {"python", "torch", "transformers", "tokenizers"}
    assert content["command"].startswith("python task1_greedy.py ") and content["command"].endswith("--prompt json")
    assert {"device", "dtype", "threads", "seed", "seconds"} < set(content)


def test_a_reader_who_leaves_loses_no_text(run_script, tmp_path, monkeypatch):
    """Bug: `task1_greedy.py | head -1` lost the text that it could not print."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert run_script("task1_greedy.py")[0] == 1
    assert [result["prompt"] for result in saved(tmp_path, "task1_greedy")["runs"]] == ["hedgehog"]


def test_a_path_that_is_not_utf_8_loses_no_text(run_script, tmp_path):
    """Bug: a byte FF in a path, which Python keeps as U+DCFF, could not be written into the results at the end of the work."""
    assert run_script("task1_greedy.py", "--prompt", "json", "--results", f"{tmp_path}/\udcff")[0] == 0
    content = json.loads((tmp_path / "\udcff" / "tiny" / "task1_greedy.json").read_text("utf-8"))
    assert "\udcff" in content["command"]


def test_a_text_at_a_terminal_has_no_control_characters(monkeypatch):
    result = {"prompt": "json", "parameters": {}, "sample": 1, "text": "a\x1b[2J\tb", "new_tokens": 2, "stop": "eos",
              "tokens_per_second": 1.0, "log_prob": -1.0}
    for stream, text in ((Terminal(), "\na\ufffd[2J\tb\n---"), (io.StringIO(), "\na\x1b[2J\tb\n---")):
        monkeypatch.setattr(sys, "stdout", stream)
        print_result(result)
        assert text in stream.getvalue()


def test_the_page_is_derived_from_the_results(run_script, tmp_path):
    run_script("task5_beam.py")
    page = (tmp_path / "results" / "tiny" / "task5_beam.md").read_text()
    assert page == markdown(saved(tmp_path, "task5_beam"), "task5_beam")


def test_some_settings_replace_just_their_runs(run_script, tmp_path):
    run_script("task4_nucleus.py")
    before = saved(tmp_path, "task4_nucleus")["runs"]
    run_script("task4_nucleus.py", "--temperature", "0.5", "--top-p", "0.9", "--seed", "3", "--prompt", "json")
    after = saved(tmp_path, "task4_nucleus")["runs"]
    changed = [old["parameters"] for old, new in zip(before, after, strict=True) if old["seed"] != new["seed"]]
    assert changed == [{"temperature": 0.5, "top_p": 0.9}]
    run_script("task4_nucleus.py", "--temperature", "0.7", "--prompt", "json")
    assert [run["parameters"]["top_p"] for run in saved(tmp_path, "task4_nucleus")["runs"][8:]] == [0.9, 0.15]


def test_another_model_starts_the_file_anew(run_script, tmp_path):
    """Bug: the texts of the other model were lost, or of the same one under another version of Python."""
    run_script("task1_greedy.py")
    path = tmp_path / "results" / "tiny" / "task1_greedy.json"
    for number in (1, 2):
        before = path.read_text().replace("sha256:", "other:")
        path.write_text(before)
        _, _, errors = run_script("task1_greedy.py", "--prompt", "json")
        assert f"was written with other model: kept as task1_greedy.old{number}, starting anew" in errors
        assert [run["prompt"] for run in saved(tmp_path, "task1_greedy")["runs"]] == ["json"]
        assert path.with_suffix(f".old{number}").read_text() == before


@pytest.mark.parametrize("content", ["{", "[]", '{"runs": [{}]}', '{"runs": null}', '{"runs": {}}', "[" * 100_000, "\0"])
def test_a_corrupt_results_file_is_kept_aside(content, run_script, tmp_path):
    """Bug: `"runs": {}` was a traceback once the work was done, and so many brackets at once."""
    folder = tmp_path / "results" / "tiny"
    folder.mkdir(parents=True)
    (folder / "task1_greedy.json").write_text(content)
    code, _, errors = run_script("task1_greedy.py", "--prompt", "json")
    assert code == 0 and "corrupt" in errors and len(saved(tmp_path, "task1_greedy")["runs"]) == 1
    assert (folder / "task1_greedy.old1").read_text() == content


def test_the_page_is_ordered_by_prompt_setting_and_sample():
    """Bug: a page had the order in which the texts ended: temperature 0.1, 0.001, 1, 0.5, 10."""
    def result(prompt, temperature, sample):
        return {"prompt": prompt, "parameters": {"temperature": temperature}, "sample": sample}

    written = [result("json", 0.1, 1), result("json", 0.001, 2), result("story", 10.0, 1), result("json", 0.001, 1),
               result("story", 0.5, 1)]
    assert order(written) == [result("json", 0.001, 1), result("json", 0.001, 2), result("json", 0.1, 1),
                              result("story", 0.5, 1), result("story", 10.0, 1)]


def test_a_file_of_figures_is_read_or_refused_in_one_line(tmp_path):
    path = tmp_path / "experiments.json"
    with pytest.raises(InputError, match="run the script that writes it first"):
        read_json(path)
    for broken in ("{", "[]", "[" * 100_000, "\0"):
        path.write_text(broken)
        with pytest.raises(InputError, match="is corrupt"):
            read_json(path)
    path.write_text('{"model": {"name": "a"}}')
    assert read_results(path, {"name": "a"}) == {"model": {"name": "a"}}
    with pytest.raises(InputError, match="other weights"):
        read_results(path, {"name": "b"})


def test_words_for_people(tmp_path):
    assert describe({"temperature": 0.5, "top_p": 0.9}) == "temperature 0.5, top_p 0.9" and describe({}) == "no parameters"
    assert shorten("a\n b") == "a b" and shorten("x" * 61) == "x" * 57 + "..."
    assert model_folder(tmp_path, "runs/decoder") == tmp_path / "decoder" == model_folder(tmp_path, "hub/decoder")


@pytest.mark.parametrize("damage", [{"runs": None}, {"runs": [{}]}, {"runs": {}}, {"model": "x"}])
def test_a_damaged_task_file_is_one_line_for_studies_too(damage, tmp_path):
    """Bug: the token page and the renewal of the snapshot ended in a traceback."""
    path = tmp_path / "task1_greedy.json"
    path.write_text(json.dumps({**json.loads((SHIPPED / "task1_greedy.json").read_text("utf-8")), **damage}), "utf-8")
    with pytest.raises(InputError, match="task1_greedy.json is corrupt"):
        read_task(path)


def test_a_refused_prompt_leaves_the_results_where_they_are(run_script, tmp_path):
    """Bug: the file of another run was set aside first, and then the prompt was refused."""
    run_script("task1_greedy.py")
    path = tmp_path / "results" / "tiny" / "task1_greedy.json"
    path.write_text(path.read_text().replace("sha256:", "other:"))
    before = path.read_bytes()
    assert run_script("task1_greedy.py", "--prompt", "")[0] == 2
    assert path.read_bytes() == before and not list(path.parent.glob("*.old*"))


def test_the_results_of_a_gguf_file_stand_under_its_own_name(tmp_path):
    """The Hugging Face cache names files by their hashes, and links to them by their names."""
    (tmp_path / "a.Q8_0.gguf").symlink_to(tmp_path / "0f3e")
    assert model_folder(tmp_path, str(tmp_path / "a.Q8_0.gguf")) == tmp_path / "a.Q8_0" == model_folder(tmp_path, "a.Q8_0.GGUF")
