"""Renewing the shipped snapshot: what is copied, what is refused, and that nothing changes where anything is wrong."""

from support.errors import InputError

import json
import shutil
from pathlib import Path

from models.places import CHECKPOINT, revision
from studies import ship
from studies.doc_tables import SHIPPED
from studies.fill_docs import PAGES
from tests.helpers import ROOT

import pytest


@pytest.fixture
def pages(tmp_path) -> Path:
    """A folder with copies of the documents."""
    root = tmp_path / "pages"
    for page in PAGES:
        (root / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / page, root / page)
    return root


@pytest.fixture
def shipped(tmp_path) -> Path:
    """A copy of the snapshot's figures."""
    return shutil.copytree(SHIPPED, tmp_path / "shipped", ignore=shutil.ignore_patterns("*.png", "*.svg", "*.html"))


@pytest.fixture
def results(tmp_path) -> Path:
    """A model's results as its scripts write them, in part: an evaluation that differs from the shipped one, a picture."""
    folder = tmp_path / "results" / "generator"
    folder.mkdir(parents=True)
    evaluation = json.loads((SHIPPED / "generator" / "evaluation.json").read_text("utf-8"))
    evaluation["summary"]["median_words"] = 123
    (folder / "evaluation.json").write_text(json.dumps(evaluation), "utf-8")
    (folder / "step.png").write_bytes(b"picture")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_results_are_copied_and_documents_filled(results, shipped, pages, capsys):
    before = content(shipped)
    ship.ship(results, shipped, pages)
    after = content(shipped)
    assert after["generator/step.png"] == b"picture"
    assert after["generator/evaluation.json"] == (results / "evaluation.json").read_bytes()
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"generator/step.png", "generator/evaluation.json"}  # what was not written again stays
    assert "| words in a story, median | 123 |" in (pages / "docs" / "decoder.md").read_text("utf-8")
    assert (pages / "README.md").read_bytes() == (ROOT / "README.md").read_bytes()
    assert "docs/decoder.md is filled anew" in capsys.readouterr().out


def test_files_aside_half_written_or_of_another_kind_stay(results, shipped, pages):
    for name in ("evaluation.old1", "evaluation.old2.json", ".along.png.4711", ".hidden.json", "notes.txt", "weights.pt"):
        (results / name).write_text("not for shipping", "utf-8")
    ship.ship(results, shipped, pages)
    assert not [name for name in content(shipped) if "old" in name or "hidden" in name or "4711" in name]
    assert not [name for name in content(shipped) if name.endswith((".txt", ".pt"))]


@pytest.mark.parametrize("exists", [True, False])
def test_no_results_are_one_line(exists, tmp_path, shipped):
    folder = tmp_path / "results" / "qwen"
    if exists:
        folder.mkdir(parents=True)
    with pytest.raises(InputError, match="there are no results in .*qwen: run the scripts"):
        ship.ship(folder, shipped)


def test_results_of_other_weights_change_nothing(results, shipped, pages):
    evaluation = json.loads((results / "evaluation.json").read_text("utf-8"))
    evaluation["model"]["revision"] = "sha256:0123456789abcdef"
    (results / "evaluation.json").write_text(json.dumps(evaluation), "utf-8")
    before = content(shipped)
    with pytest.raises(InputError, match="evaluation.json was written by other weights than those in checkpoint/"):
        ship.ship(results, shipped, pages)
    assert content(shipped) == before


def test_another_models_results_are_not_compared_with_the_checkpoint(results, shipped, pages):
    other = results.rename(results.parent / "qwen")
    ship.ship(other, shipped, pages)
    assert (shipped / "qwen" / "step.png").read_bytes() == b"picture"
    assert "| words in a story, median | 180 |" in (pages / "docs" / "decoder.md").read_text("utf-8")


@pytest.mark.parametrize("file, text, message", [
    ("task4_nucleus.json", '{"runs": [', "task4_nucleus.json is corrupt"),
    ("task4_nucleus.json", '{"runs": []}', "task4_nucleus.json holds no text for"),  # of flags that are not the exercise's
    ("experiments.json", '{"rows": []}', "experiments.json holds no .*: run it to its end"),  # stopped
])  # fmt: skip
def test_unfinished_results_change_nothing(file, text, message, results, shipped, pages):
    (results / file).write_text(text, "utf-8")
    before, written = content(shipped), content(pages)
    with pytest.raises(InputError, match=message):
        ship.ship(results, shipped, pages)
    assert (content(shipped), content(pages)) == (before, written)


def test_the_script_ends_with_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["ship", "--results", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        ship.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: there are no results in {tmp_path / 'generator'}: " \
                                      "run the scripts that write them first\n"


def test_the_shipped_snapshot_is_of_the_shipped_checkpoint():
    ship.check_weights(ship.results_to_ship(SHIPPED / "generator"), revision(CHECKPOINT))


def test_a_slur_ships_with_its_first_letter_alone(results, shipped, pages):
    """Bug: a loser of the JSON's beam search spelt one as the contractor, and stood in the shipped page."""
    beams = json.loads((SHIPPED / "generator" / "task5_beam.json").read_text("utf-8"))
    beams["runs"][0]["candidates"][-1]["text"] = '{"contractor": "' + "Kike" + '"}'
    (results / "task5_beam.json").write_text(json.dumps(beams), "utf-8")
    ship.ship(results, shipped, pages)
    assert b'"K***' in (shipped / "generator" / "task5_beam.json").read_bytes().replace(b"\\", b"")
    for path in (*SHIPPED.glob("generator/*"), shipped / "generator" / "task5_beam.json"):
        assert not ship.SLUR.search(path.read_bytes()), path


def test_a_text_of_ones_own_prompt_is_not_shipped(results, shipped, pages):
    greedy = json.loads((SHIPPED / "generator" / "task1_greedy.json").read_text("utf-8"))
    greedy["runs"].append({**greedy["runs"][0], "prompt": "A story about my secret"})
    (results / "task1_greedy.json").write_text(json.dumps(greedy), "utf-8")
    before = content(shipped)
    with pytest.raises(InputError, match="another prompt"):
        ship.ship(results, shipped, pages)
    assert content(shipped) == before
