"""The comparison as a command: its rows, its files, going on after an interruption, adding a row, bad input."""

from support.errors import InputError

import json
import runpy
import shutil
import sys
from itertools import islice

from data.messages import learn_tokenizer, read_messages, split_messages, story_sentences
from lstm import LSTMLM
from models.lstm import LSTMConfig
from tests.helpers import ROOT

import pytest
import torch

FEW = ("--num-messages", "3", "--num-typed", "2", "--example", "the fox ran")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of messages and the folder of an LSTM on its tokens, with random weights; large ones, so that it is sure."""
    folder = tmp_path_factory.mktemp("autocomplete")
    messages = list(islice(story_sentences(200, seed=1), 200))
    (folder / "messages.txt").write_text("\n".join(messages), "utf-8")
    tokenizer = learn_tokenizer(split_messages(read_messages(folder / "messages.txt")).train, 8192)
    torch.manual_seed(0)
    model = LSTMLM(LSTMConfig(len(tokenizer), 8, 12, 1, 0, 2), tokenizer)
    with torch.no_grad():
        model.embed_tokens.weight.mul_(20)
    model.save_checkpoint(folder / "lstm")
    return folder


@pytest.fixture
def evaluate(files, tmp_path, monkeypatch, capsys):
    """Run the script: (exit code, what it printed, its errors)."""
    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["evaluate_autocomplete.py", "--text", str(files / "messages.txt"), "--results",
                                          str(tmp_path), *flags])
        code = 0
        try:
            runpy.run_path(str(ROOT / "evaluate_autocomplete.py"), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        return (code, *capsys.readouterr())
    return run


@pytest.mark.slow
def test_a_comparison_goes_on_and_gains_a_row(evaluate, files, tmp_path):
    """What was measured is kept: records that stand in a row's file are not measured again, and a row that was not asked for
    again stands in the table. No message is written to a file."""
    folder = tmp_path / "autocomplete"
    code, out, _ = evaluate(*FEW, "--models", f"lstm={files / 'lstm'}")
    assert code == 0 and [line.split(" | ")[0] for line in out.splitlines()[2:5]] == ["| constant", "| n-gram", "| lstm"]
    stored = json.loads((folder / "rows" / "lstm.json").read_text("utf-8"))
    assert {name: len(records) for name, records in stored["columns"].items()} == {"surprises": 3, "typed": 2, "rests": 2}
    stored["columns"]["surprises"][0]["tokens"] = 1000
    del stored["columns"]["surprises"][2:]
    (folder / "rows" / "lstm.json").write_text(json.dumps(stored), "utf-8")
    code, out, _ = evaluate(*FEW, "--models", f"lstm={files / 'lstm'}")
    again = json.loads((folder / "rows" / "lstm.json").read_text("utf-8"))["columns"]["surprises"]
    assert code == 0 and [record["tokens"] for record in again].index(1000) == 0 and len(again) == 3
    code, out, _ = evaluate(*FEW, "--models", f"other={files / 'lstm'}")
    summary = json.loads((folder / "evaluation.json").read_text("utf-8"))
    assert list(summary["rows"]) == ["constant", "n-gram", "other", "lstm"]
    assert summary["rows"]["other"]["vocabulary"] == summary["rows"]["n-gram"]["vocabulary"]
    pair = next(pair for pair in summary["pairs"] if (pair["row"], pair["minus"]) == ("lstm", "other"))
    assert pair["figure"] == "bits_per_character" and pair["value"] == pytest.approx(0) and pair["messages"] == 3
    message = max(split_messages((files / "messages.txt").read_text("utf-8").splitlines()).test, key=len)
    assert not any(message in path.read_text("utf-8") for path in folder.rglob("*.*"))


@pytest.mark.slow
def test_records_of_other_weights_and_broken_ones_are_kept_aside(evaluate, files, tmp_path):
    evaluate(*FEW, "--models", f"lstm={files / 'lstm'}")
    path = tmp_path / "autocomplete" / "rows" / "lstm.json"
    content = json.loads(path.read_text("utf-8"))
    content["model"]["revision"] = "sha256:0"
    path.write_text(json.dumps(content), "utf-8")
    (tmp_path / "autocomplete" / "rows" / "constant.json").write_text('{"row": ', "utf-8")
    del content["example"]  # the last that is measured
    (tmp_path / "autocomplete" / "rows" / "half.json").write_text(json.dumps(content), "utf-8")
    _, _, errors = evaluate(*FEW, "--models", f"lstm={files / 'lstm'}")
    assert "kept as constant.old1" in errors
    assert "kept as lstm.old1" in errors and json.loads(path.read_text("utf-8"))["model"]["revision"] != "sha256:0"


def test_bad_input_is_one_line(evaluate, files, tmp_path):
    (tmp_path / "same.txt").write_text((files / "messages.txt").read_text("utf-8"), "utf-8")
    for flags, why in ((("--models", "lstm"), "must be NAME=MODEL"), (("--models", "n-gram=checkpoint"), "is taken"),
                       (("--models", "x=/nowhere/at all"), "no model"), (("--text", "missing.csv"), "there is no file"),
                       (("--models", "a/b=checkpoint"), "must be NAME=MODEL"), (("--name", "../up"), "--name: must be a name"),
                       (("--models", f"x={files / 'lstm'}", f"x={files / 'lstm'}"), "two rows have one name")):  # fmt: skip
        code, _, errors = evaluate(*FEW, *flags)
        assert code == 2 and errors.count("\n") == 1 and why in errors, errors


def test_a_model_is_judged_on_messages_cleaned_as_its_own(evaluate, files, tmp_path):
    """Bug: cleaned in another way messages are split in another way, and two in three of the test part were learned from."""
    shutil.copytree(files / "lstm", tmp_path / "lstm")
    (tmp_path / "lstm" / "meta.json").write_text('{"settings": {"keep_case": true}}', "utf-8")
    code, _, errors = evaluate(*FEW, "--models", f"lstm={tmp_path / 'lstm'}")
    assert code == 2 and "lstm was trained with --keep-case: judge it so, too" in errors


@pytest.mark.slow
def test_messages_of_one_word_have_no_rest_and_dashes(evaluate, tmp_path):
    """Bug: a traceback, after which the JSON was written and the table was not."""
    (tmp_path / "words.txt").write_text("\n".join(f"word{i}" for i in range(60)), "utf-8")
    code, out, errors = evaluate(*FEW, "--text", str(tmp_path / "words.txt"))
    assert code == 0, errors
    assert "– / – / –" in out


def test_messages_to_judge_on_are_none_of_those_learned_from(files):
    """--test names another file, in which messages of the training part may stand."""
    read_data = runpy.run_path(str(ROOT / "evaluate_autocomplete.py"))["read_data"]
    data = read_data(files / "messages.txt", files / "messages.txt", False, None)
    assert data.test and not {*data.train} & {*data.test}
    few = read_data(files / "messages.txt", None, False, 3)
    assert few.test == read_data(files / "messages.txt", None, False, None).test[:3]


def test_how_a_model_learned_is_read_beside_it(tmp_path):
    """By hand: after step 10 of 64 messages each 640 were seen. The bits of a training on rests are not those of messages."""
    learning_of = runpy.run_path(str(ROOT / "evaluate_autocomplete.py"))["learning_of"]
    assert learning_of(tmp_path) is None
    lines = ({"step": 1, "loss": 5.0}, {"step": 10, "validation_loss": 4.0, "bits_per_character": 2.5})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    for loss_on, expected in (("all", [(640, 2.5)]), ("rest", None)):
        meta = {"settings": {"batch_size": 64, "loss_on": loss_on}}
        (tmp_path / "meta.json").write_text(json.dumps(meta), "utf-8")
        assert learning_of(tmp_path) == expected
    (tmp_path / "meta.json").write_text('{"settings": {"batch_size": 64, "loss_on": "all"}}', "utf-8")
    (tmp_path / "metrics.jsonl").write_text("no JSON\n", "utf-8")  # bug: a traceback
    with pytest.raises(InputError, match="metrics.jsonl cannot be read"):
        learning_of(tmp_path)
