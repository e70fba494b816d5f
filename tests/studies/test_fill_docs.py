"""The documents: derived parts are fresh, links and images exist, commands name what there is, READMEs keep their size."""

from support.errors import InputError

import contextlib
import io
import json
import re
import runpy
import shlex
import warnings
from pathlib import Path

from studies.doc_tables import Snapshot, candidates_table, cell, draws_table, exact, number, percent, setting_name, table
from studies.doc_texts import code, folded_text, loop, results_of, source, stories
from studies.fill_docs import PAGES, PART, PARTS, filled
from support.results import print_result
from tests.helpers import ROOT

import pytest

DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")))
TEXTS = {name: (ROOT / name).read_text("utf-8") for name in DOCUMENTS}
TRANSLATED = [("README.md", "README.ru.md"), ("docs/answers.md", "docs/answers.ru.md"),
              ("docs/autocomplete.md", "docs/autocomplete.ru.md")]
LIMITS = {"README.md": (250, 22_000), "README.ru.md": (250, 32_000)}  # lines and bytes, for one sitting
LINK = re.compile(r"!?\[[^\]]*\]\(([^)]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)


# -------------------------------------------------------------------------------------------------- the pages as they are


@pytest.mark.parametrize("page", PAGES)
def test_derived_parts_are_fresh(page):
    """A figure that no results file holds any more, or code that has changed since, would be a lie."""
    assert filled(TEXTS[page], Snapshot(), PAGES[page]) == TEXTS[page], "run python -m studies.fill_docs"


@pytest.mark.parametrize("page", LIMITS)
def test_a_readme_can_be_read_in_one_sitting(page):
    lines, size = LIMITS[page]
    assert TEXTS[page].count("\n") <= lines
    assert len(TEXTS[page].encode()) <= size


@pytest.mark.parametrize("english, russian", TRANSLATED)
def test_both_pages_hold_the_same_parts_commands_and_pictures(english, russian):
    """The Russian page must not fall behind."""
    english, russian = TEXTS[english], TEXTS[russian]
    for pattern in (PART, BLOCK):
        assert len(pattern.findall(english)) == len(pattern.findall(russian))
    assert [part[1] for part in PART.findall(english)] == [part[1] for part in PART.findall(russian)]
    assert set(commands(english)) == set(commands(russian))
    assert {link for link in links(english) if "results" in link} == {link for link in links(russian) if "results" in link}


@pytest.mark.parametrize("page", DOCUMENTS)
def test_links_and_images_are_there(page):
    for link in links(TEXTS[page]):
        if link.startswith(("http://", "https://")):
            continue
        path, _, place = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not place or place in anchors(target), link


def test_the_readmes_lead_to_every_document():
    for page in ("README.md", "README.ru.md"):
        language = page.removeprefix("README")  # .md or .ru.md
        documents = {f"docs/answers{language}", f"docs/autocomplete{language}", "docs/decoder.md", "docs/models.md",
                     "docs/speed.md", "docs/tests.md", "docs/LOG.md"}
        assert documents <= {link.partition("#")[0] for link in links(TEXTS[page])}


def test_every_page_with_parts_is_filled():
    assert {page for page, text in TEXTS.items() if PART.search(text)} == set(PAGES)


def test_tables_have_at_most_five_columns():
    for page, text in TEXTS.items():
        for line in re.findall(r"^\|.*\|$", text, re.MULTILINE):
            assert line.count("|") <= 6, (page, line)


@pytest.mark.parametrize("page", [page for page in DOCUMENTS if "LOG" not in page])
def test_python_files_that_a_page_names_exist(page):
    """`data/corpus/transfer_phrases.py`, or `phrases.py` beside it. The log tells of files that have gone."""
    names = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    for quoted in re.findall(r"`([\w/]+\.py)`", TEXTS[page]):
        assert quoted in names or any(name.endswith("/" + quoted) for name in names), quoted


# ------------------------------------------------------------------------------------------------------------- commands


def test_the_test_command_is_a_line_of_its_own():
    """.ci/run runs the first line of README.md that begins with it."""
    assert "python -m pytest -q" in TEXTS["README.md"].splitlines()


@pytest.mark.slow
def test_every_command_names_a_script_and_flags_that_exist():
    """Usage examples drift from the code unless something reads both."""
    uses = {}
    for page in TEXTS.values():
        for command in commands(page):
            for script, flags in scripts_and_flags(command):
                uses.setdefault(script, set()).update(flags)
    assert len(uses) > 8
    for script, flags in uses.items():
        text = help_of(script)
        for flag in flags:
            assert re.search(rf"{flag}\b", text), f"{script} {flag}"


def help_of(script: str) -> str:
    """What a script, or a module that is run with -m, prints for --help; in this process, so that imports are shared."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # runpy's, about a module that is imported already
        patch.setattr("sys.argv", [script, "--help"])
        with pytest.raises(SystemExit) as stopped:
            if script.endswith(".py"):
                runpy.run_path(str(ROOT / script), run_name="__main__")
            else:
                runpy.run_module(script, run_name="__main__", alter_sys=True)
    assert stopped.value.code == 0, script
    return out.getvalue()


def commands(page: str) -> list[str]:
    """The commands of this project's scripts in a page's code blocks, without comments."""
    lines = [line.split("  #")[0].strip() for block in BLOCK.findall(page) for line in block.splitlines()]
    return [line for line in lines if re.search(r"\b\w+\.py\b|-m studies\.", line)]


def scripts_and_flags(command: str) -> list[tuple[str, list[str]]]:
    """(script or studies module, its flags) of each part of a line, which can hold a pipe."""
    found = []
    for part in re.split(r"[|;]|&&", command):
        words = shlex.split(part)
        places = [i for i, word in enumerate(words) if re.fullmatch(r"\w+\.py|studies\.[\w.]+", word)]
        if places:
            found.append((words[places[0]], [word for word in words[places[0] + 1:] if word.startswith("--")]))
    return found


def test_commands_are_found_in_every_form():
    page = "```\npython task1_greedy.py --model qwen  # a comment\npython -m studies.ship && python chat.py\n```\n"
    assert commands(page) == ["python task1_greedy.py --model qwen", "python -m studies.ship && python chat.py"]
    assert scripts_and_flags("python -m studies.ship --model books && python chat.py | head -1") == \
        [("studies.ship", ["--model"]), ("chat.py", [])]


def links(page: str) -> list[str]:
    return [first or second for first, second in LINK.findall(page)]


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# -------------------------------------------------------------------------------------------------------------- numbers


def test_a_figure_shows_its_interval_and_a_share_its_percent():
    assert cell({"value": 0.5, "low": 0.43, "high": 0.57}, True, 0) == "50 % (43–57)"
    assert cell({"value": 0.975, "low": 0.975, "high": 0.975}, True, 1) == "97,5 %"
    assert cell({"value": 1.25, "low": 1.25, "high": 1.25}, False, 0) == "1.25"
    assert cell({"value": -0.4, "low": -0.45, "high": -0.36}, False, 0) == "−0.40 (−0.45 … −0.36)"
    assert cell(200, False, 0) == "200"


def test_a_figure_lies_within_its_interval_as_it_is_shown():
    """0.2 % (0–0) was no interval of 0.2 %."""
    assert cell({"value": 0.0025, "low": 0.0015, "high": 0.0037}, True, 0) == "0.25 % (0.15–0.37)"
    assert cell({"value": 0.01044, "low": 0.00858, "high": 0.01232}, True, 1) == "1 % (0,86–1,2)"
    shown = [float(percent(share / 100_000, 0)) for share in range(100_001)]
    assert shown == sorted(shown)  # so bounds cannot change places with what they hold


def test_an_interval_that_the_digits_cannot_show_is_left_out():
    assert cell({"value": -0.1006, "low": -0.1031, "high": -0.0982}, False, 0) == "−0.10"


def test_russian_has_decimal_commas_and_names_keep_their_points():
    assert number(-12.5, 2, 1) == "−12,50"
    assert number(-3e-6, 4, 0) == "0.0000"
    assert setting_name({"temperature": 0.5, "top_p": 0.9}, 0) == "temperature 0.5, top_p 0.9"
    assert setting_name({"temperature": 0.5, "top_p": 0.9}, 1) == "температура 0,5; top_p 0,9"
    for page in ("README.ru.md", "docs/answers.ru.md"):
        assert "2,5-0,5B" not in TEXTS[page]


def test_one_text_drawn_200_times_has_no_interval():
    """An interval of 98 to 100 % beside a strategy that draws nothing would be nonsense."""
    figure = {"value": 1.0, "low": 0.98, "high": 1.0}
    assert exact({"distinct_texts": 1, "right": figure}, "right") == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert exact({"distinct_texts": 2, "right": figure}, "right") == figure


# ------------------------------------------------------------------------------------------------------ tables and texts


def test_a_table_is_markdown():
    assert table([["a", "b"], ["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |\n"


def test_tables_quote_the_experiments(tmp_path):
    """The row must be that of the setting asked for, or the page would quote another."""
    rows = [{"what": "draws", "kind": "json", "setting": {"temperature": t, "top_p": p}, "distinct_texts": t * 10 + p}
            for t in (0.5, 1.0) for p in (0.9, 1.0)]
    snapshot = written(tmp_path, "experiments", {"rows": rows})
    columns = {("json", "distinct_texts"): (("different", "разных"), False)}
    made = draws_table(snapshot, [{"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5}, {}], columns, 1)
    assert made.splitlines()[2:] == ["| температура 0,5; top_p 0,9 | 5.9 |", "| температура 0,5 | 6.0 |", "| как есть | 11.0 |"]
    with pytest.raises(InputError, match="holds no json"):
        draws_table(snapshot, [{"temperature": 3.0}], columns, 0)


def test_candidates_are_judged(tmp_path):
    """The exercise's JSON is right whatever its spacing; a name misspelt is not."""
    setting, right = {"num_beams": 2, "length_penalty": 1.0}, '{"contractor":"Mike", "sum":100.5, "currency":"RUB"}'
    candidates = [{"text": right, "log_prob": -1.0, "length": 20, "score": -0.05},
                  {"text": right.replace("Mike", "Mika"), "log_prob": -2.5, "length": 20, "score": -0.125}]
    run = {"prompt": "json", "parameters": setting, "candidates": candidates}
    snapshot = written(tmp_path, "task5_beam", {"runs": [run]})
    assert candidates_table(snapshot, setting, 0).splitlines()[2:] == [
        "| 1 | −0.0500 | −1.0000 | 20 | yes |", "| 2 | −0.1250 | −2.5000 | 20 | no |"]
    with pytest.raises(InputError, match="no JSON with num_beams 4"):
        candidates_table(snapshot, {**setting, "num_beams": 4}, 0)


def test_texts_cannot_break_the_page():
    """At temperature 10 a text can hold anything: bars would end a cell, tags the block."""
    assert code("a | b\n`c` <d>") == "<code>a &#124; b `c` &lt;d&gt;</code>"
    run = {"text": "</pre> & <b>", "stop": "eos", "parameters": {"temperature": 10.0}, "sample": 1, "new_tokens": 5}
    assert "&lt;/pre&gt; &amp; &lt;b&gt;" in folded_text(run, "temperature 10", 0)
    assert len(folded_text({**run, "text": "x" * 5000, "stop": "limit"}, "temperature 10", 0)) < 1000


def test_equal_stories_stand_once(tmp_path):
    def run(text: str, **setting: float) -> dict:
        return {"prompt": "hedgehog", "parameters": setting, "sample": 1, "text": text, "stop": "eos", "new_tokens": 3}

    written(tmp_path, "task1_greedy", {"runs": [run("Greedy's.")]})
    settings = [{"temperature": t} for t in (0.1, 0.5, 1.0)]
    snapshot = written(tmp_path, "task3_temperature", {"runs": [
        run("Another.", temperature=0.5), run("Greedy's.", temperature=0.1), run("Another.", temperature=1.0)]})
    made = stories(snapshot, "task3_temperature", settings, 0)
    assert made.startswith("Story, temperature 0.1: the story of task 1")
    assert made.count("Another.") == 1 and "Story, temperature 0.5 / temperature 1; tokens: 3" in made
    with pytest.raises(InputError, match="no text for hedgehog with temperature 3"):
        stories(snapshot, "task3_temperature", [{"temperature": 3.0}], 0)


def test_what_task_1_prints_is_what_it_prints():
    """The readers' first screen: the words of the script itself, but for wrapped lines."""
    shown = re.search(r"<!-- filled: what task 1 prints -->\n```text\n(.*?)```", TEXTS["README.md"], re.DOTALL)[1]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        for prompt in ("hedgehog", "json"):
            print_result(results_of(Snapshot(), "task1_greedy", prompt, [{}])[0])
    assert shown.split() == out.getvalue().split()


def written(folder: Path, task: str, content: dict) -> Snapshot:
    """A snapshot with one file more."""
    (folder / "generator").mkdir(exist_ok=True)
    (folder / "generator" / f"{task}.json").write_text(json.dumps(content), "utf-8")
    return Snapshot(folder)


# ----------------------------------------------------------------------------------------------------------------- code


def test_code_is_the_source_without_its_docstring():
    assert source("task1_greedy.greedy") == (
        "```python\ndef greedy(logits: Tensor) -> Tensor:\n    return logits.argmax(dim=-1)\n```\n")
    lines = source("common.write_one").splitlines()[1:-1]
    assert set(lines) <= set((ROOT / "common.py").read_text("utf-8").splitlines())
    assert '"""' not in "".join(lines)


def test_a_loop_stands_at_the_left_edge_without_lines_of_comment():
    lines = loop("task5_beam.beam_search").splitlines()
    assert lines[1].startswith("for length in range(")
    assert not any(line.strip().startswith("#") for line in lines)


@pytest.mark.parametrize("name, message", [
    ("task9.greedy", "no module task9"), ("task1_greedy.sample", "task1_greedy.py has no function sample")])
def test_code_that_is_not_there_is_one_line(name, message):
    with pytest.raises(InputError, match=message):
        source(name)


def test_a_function_without_a_loop_is_one_line():
    with pytest.raises(InputError, match="no loop"):
        loop("task1_greedy.greedy")


# ----------------------------------------------------------------------------------------------------------- the parts


def test_an_unknown_part_is_an_error_and_other_text_stays(monkeypatch):
    monkeypatch.setitem(PARTS, "one", lambda snapshot, language: ("new\n", "новое\n")[language])
    page = "before\n<!-- filled: one -->\nold\n<!-- end -->\nafter <!-- end -->"
    snapshot = Snapshot()
    assert filled(page, snapshot, 0) == page.replace("old", "new")
    assert filled(page, snapshot, 1) == page.replace("old", "новое")
    assert filled(filled(page, snapshot, 0), snapshot, 0) == filled(page, snapshot, 0)
    with pytest.raises(InputError, match="no part called two"):
        filled(page.replace("one", "two"), snapshot, 0)


def test_a_missing_result_file_is_one_line(tmp_path):
    with pytest.raises(InputError, match="run the script"):
        Snapshot(tmp_path).json("generator/experiments.json")
    with pytest.raises(InputError, match="there is no"):
        Snapshot(tmp_path).lines("books/training.jsonl")


def test_fresh_files_come_before_the_shipped(tmp_path):
    written(tmp_path, "evaluation", {"of": "the shipped"})
    fresh = tmp_path / "new.json"
    fresh.write_text('{"of": "the new"}', "utf-8")
    snapshot = Snapshot(tmp_path, {"generator/evaluation.json": fresh})
    assert snapshot.json("generator/evaluation.json") == {"of": "the new"}
    assert Snapshot(tmp_path).json("generator/evaluation.json") == {"of": "the shipped"}
