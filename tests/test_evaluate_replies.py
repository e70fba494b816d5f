"""The comparison of replies as a command: its rows, going on, adding a row, bad input."""

import json
import runpy
import sys

from tests.helpers import ROOT
from tests.reply_models import LETTERS, save_model, write_csv

import pytest

ASKED = runpy.run_path(str(ROOT / "evaluate_replies.py"))["asked_row"]


@pytest.fixture(scope="module")
def files(bpe, tmp_path_factory):
    """A file of a few letters, and a random model's folder."""
    folder = tmp_path_factory.mktemp("replies")
    tests = [reply for reply in LETTERS if reply.part == "test"][:4]
    write_csv(folder / "letters.csv", [reply for reply in LETTERS if reply.part == "judge"][:60] + tests)
    save_model(folder / "token", bpe)
    return folder


@pytest.fixture
def evaluate(files, tmp_path, monkeypatch, capsys):
    """Run the script: (exit code, what it printed, its errors)."""
    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["evaluate_replies.py", "--text", str(files / "letters.csv"), "--results",
                                          str(tmp_path), "--num-requests", "2", "--max-new-tokens", "3", *flags])
        code = 0
        try:
            runpy.run_path(str(ROOT / "evaluate_replies.py"), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        return (code, *capsys.readouterr())
    return run


@pytest.mark.slow
def test_a_comparison_goes_on_and_gains_a_row(evaluate, files, tmp_path):
    """Replies that stand in a row's file are not written again, and a row that was not asked for again stands in the table."""
    code, out, errors = evaluate("--models", f"token={files / 'token'}", "--other", str(files / "token"))
    assert code == 0 and "| safe reply |" in out and "| control tokens |" in out, errors
    path = tmp_path / "replies" / "rows" / "token.json"
    stored = json.loads(path.read_text("utf-8"))
    stored["columns"]["tones"][0]["reply"] = "Kept as it is."
    del stored["columns"]["tones"][5:]
    path.write_text(json.dumps(stored), "utf-8")
    code, out, _ = evaluate("--models", f"token-g2-n2={files / 'token'}", f"token={files / 'token'}")
    assert code == 0
    stored = json.loads(path.read_text("utf-8"))["columns"]["tones"]
    assert stored[0]["reply"] == "Kept as it is." and len(stored) == 8
    summary = json.loads((tmp_path / "replies" / "evaluation.json").read_text("utf-8"))
    assert list(summary["rows"]) == ["real", "safe", "token-g2-n2", "token"]
    both = [(row["base"], row["guidance"], row["candidates"]) for row in summary["rows"].values()]
    assert both == [("real", None, None), ("safe", None, None), ("token", 2.0, 2), ("token", 1.0, 1)]
    assert summary["rows"]["real"]["figures"]["control"]["tone"]["differs"] is None
    text = (tmp_path / "replies" / "evaluation.json").read_text("utf-8")
    assert not any(reply.reply in text or reply.request in text for reply in LETTERS)


def test_the_name_of_a_row_tells_its_settings():
    for text, expected in (("token=a/b", ("token", "token", 1, 1)), ("token-g0.5=x", ("token-g0.5", "token", 0.5, 1)),
                           ("own-head-n16=x", ("own-head-n16", "own-head", 1, 16)),
                           ("a-g2-n8=x", ("a-g2-n8", "a", 2, 8)), ("good-new=x", ("good-new", "good-new", 1, 1))):  # fmt: skip
        row = ASKED(text)
        assert (row.name, row.base, row.guidance, row.candidates) == expected


def test_bad_input_is_one_line(evaluate, files, tmp_path):
    (tmp_path / "poor.csv").write_text("request,answer\na,b\n", "utf-8")
    (tmp_path / "empty").mkdir()
    token = str(files / "token")
    for flags, why in ((("--models", "token"), "must be NAME=FOLDER"), (("--models", f"real={token}"), "real is taken"),
                       (("--models", f"x-n0={token}"), "guidance and candidates must be a whole number"),
                       (("--models", "x=/nowhere"), "there is no folder /nowhere"),
                       (("--models", f"x={tmp_path / 'empty'}"), "no model with control"),
                       (("--models", f"x={token}", f"x={token}"), "two rows have one name"),
                       (("--text", str(tmp_path / "poor.csv")), "needs the columns"),
                       (("--text", "missing.csv"), "there is no file")):  # fmt: skip
        code, _, errors = evaluate(*flags)
        assert code == 2 and errors.count("\n") == 1 and why in errors, errors
