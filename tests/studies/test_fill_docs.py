"""README.md and README.ru.md: derived parts are fresh, links and images exist, commands name what there is."""

import json
import re
import shlex
import subprocess
import sys

from common import InputError

import fill_readme
import pytest
from fill_readme import PAGES, PARTS, ROOT, cell, code, exact, filled, folded_text, table

PAGE_TEXTS = {name: (ROOT / name).read_text("utf-8") for name in PAGES}
LINK = re.compile(r"!?\[[^\]]*\]\(([^)]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_derived_parts_are_fresh(page):
    """A figure in the README that no result file holds any more would be a lie."""
    assert filled(PAGE_TEXTS[page], PAGES[page]) == PAGE_TEXTS[page], "run python fill_readme.py"


def test_both_pages_hold_the_same_parts_commands_and_pictures():
    """The Russian page must not fall behind."""
    english, russian = PAGE_TEXTS.values()
    for pattern in (fill_readme.PART, BLOCK):
        assert len(pattern.findall(english)) == len(pattern.findall(russian))
    assert [part[1] for part in fill_readme.PART.findall(english)] == [part[1] for part in fill_readme.PART.findall(russian)]
    assert set(commands(english)) == set(commands(russian))
    assert {link for link in links(english) if link.startswith("results")} == \
        {link for link in links(russian) if link.startswith("results")}  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_links_and_images_are_there(page):
    found = [link for link in links(PAGE_TEXTS[page]) if not link.startswith(("http://", "https://"))]
    headings = {anchor(heading) for heading in re.findall(r"^#+ (.+)$", PAGE_TEXTS[page], re.MULTILINE)}
    assert found
    for link in found:
        path, _, place = link.partition("#")
        assert not path or (ROOT / path).exists(), link
        assert not place or path or place in headings, link


def links(page: str) -> list[str]:
    return [first or second for first, second in LINK.findall(page)]


def anchor(heading: str) -> str:
    """What GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def commands(page: str) -> list[str]:
    """The commands of this project's scripts in a page's code blocks, without comments."""
    lines = [line.split("  #")[0].strip() for block in BLOCK.findall(page) for line in block.splitlines()]
    return [line for line in lines if re.search(r"\b\w+\.py\b", line)]


def scripts_and_flags(command: str) -> list[tuple[str, list[str]]]:
    """(script, its flags) of a line, which can hold a pipe."""
    found = []
    for part in re.split(r"[|;]|&&", command):
        words = shlex.split(part)
        scripts = [i for i, word in enumerate(words) if re.fullmatch(r"[\w/]+\.py", word)]
        if scripts:
            found.append((words[scripts[0]], [word for word in words[scripts[0] + 1 :] if word.startswith("--")]))
    return found


def test_every_command_names_a_script_and_flags_that_exist():
    """Usage examples drift from the code unless something reads both."""
    uses = {}
    for page in PAGE_TEXTS.values():
        for command in commands(page):
            for script, flags in scripts_and_flags(command):
                uses.setdefault(script, set()).update(flags)
    assert len(uses) > 8
    for script, flags in uses.items():
        assert (ROOT / script).is_file(), script
        text = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True).stdout
        for flag in flags:
            assert re.search(rf"{flag}\b", text), f"{script} {flag}"


def test_a_figure_shows_its_interval_and_a_share_its_percent():
    assert cell({"value": 0.5, "low": 0.43, "high": 0.57}, True, 0) == "50 % (43–57)"
    assert cell({"value": 0.975, "low": 0.975, "high": 0.975}, True, 1) == "97,5 %"
    assert cell({"value": 1.25, "low": 1.25, "high": 1.25}, False, 0) == "1.25"
    assert cell({"value": -0.4, "low": -0.45, "high": -0.36}, False, 0) == "−0.40 (−0.45 … −0.36)"
    assert cell(200, False, 0) == "200"


def test_one_text_drawn_200_times_has_no_interval():
    """An interval of 98 to 100 % beside a strategy that draws nothing would be nonsense."""
    figure = {"value": 1.0, "low": 0.98, "high": 1.0}
    assert exact({"distinct_texts": 1, "right": figure}, "right") == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert exact({"distinct_texts": 2, "right": figure}, "right") == figure


def test_texts_cannot_break_the_page():
    """At temperature 10 a text can hold anything: bars would end a cell, tags the block."""
    assert code("a | b\n`c` <d>") == "<code>a &#124; b `c` &lt;d&gt;</code>"
    run = {"text": "</pre> & <b>", "stop": "eos", "parameters": {"temperature": 10.0}, "sample": 1, "new_tokens": 5}
    assert "&lt;/pre&gt; &amp; &lt;b&gt;" in folded_text(run, 0)
    assert len(folded_text({**run, "text": "x" * 5000, "stop": "limit"}, 0)) < 1000


def test_an_unknown_part_is_an_error_and_other_text_stays(monkeypatch):
    monkeypatch.setitem(PARTS, "one", lambda language: ("new\n", "новое\n")[language])
    page = "before\n<!-- filled: one -->\nold\n<!-- end -->\nafter <!-- end -->"
    assert filled(page, 0) == page.replace("old", "new")
    assert filled(page, 1) == page.replace("old", "новое")
    assert filled(filled(page, 0), 0) == filled(page, 0)
    with pytest.raises(InputError, match="no part called two"):
        filled(page.replace("one", "two"), 0)


def test_a_missing_result_file_is_one_line(tmp_path):
    with pytest.raises(InputError, match="run the script"):
        fill_readme.read(tmp_path / "experiments.json")


def test_a_table_is_markdown():
    assert table([["a", "b"], ["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |\n"


def test_tables_quote_the_experiments(monkeypatch, tmp_path):
    """The row must be that of the setting asked for, or the README would quote another."""
    monkeypatch.setattr(fill_readme, "RESULTS", tmp_path)
    rows = [{"what": "draws", "kind": "json", "setting": {"temperature": t, "top_p": p}, "distinct_texts": t * 10 + p}
            for t in (0.5, 1.0) for p in (0.9, 1.0)]  # fmt: skip
    (tmp_path / "experiments.json").write_text(json.dumps({"rows": rows}), "utf-8")
    columns = {("json", "distinct_texts"): (("different", "разных"), False)}
    made = fill_readme.draws_table([{"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5}, {}], columns, 1)
    assert made.splitlines()[2:] == ["| температура 0.5, top_p 0.9 | 5.9 |", "| температура 0.5 | 6.0 |", "| как есть | 11.0 |"]
    with pytest.raises(InputError, match="holds no json"):
        fill_readme.draws_table([{"temperature": 3.0}], columns, 0)
