"""reply.py: what the command line and a pipe get, what is asked of the model, bad input, requests at a terminal.

The model is a `FakeReplier`, so that every expectation is worked out by hand.
"""

from support.errors import InputError

import io
import json
import os
import re
import sys
import time

import reply
from data.replies import Reply
from data.tokenizer import make_tokenizer
from decoding.mismatch import Ways
from generator import GeneratorTransformer
from models.control import REPLY_TEMPLATE, REPLY_TOKENS, Controlled, Labels
from models.control_folder import save_control
from models.loading import open_tokenizer
from reply import DEFAULTS, Desk, converse, obey, welcome
from tests.helpers import ROOT, FakeReplier, Terminal, shape
from training.replies import ReplyDataset, Trainer

import pexpect
import pytest
import torch

SORRY, FIRM, CALM = ("Sorry.", "apologetic", 0.9), ("No.", "firm", 0.8), ("Noted.", "official", 0.6)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the script with a model that writes `written`: (exit code, output, errors, calls of the model)."""
    def run(*flags, text="", raw=None, written=(SORRY,), replier=None):
        fake = replier or FakeReplier(written)
        streams = {"stdin": io.TextIOWrapper(io.BytesIO(text.encode() if raw is None else raw), "utf-8"),
                   "stdout": io.TextIOWrapper(io.BytesIO(), "utf-8"), "stderr": io.TextIOWrapper(io.BytesIO(), "utf-8")}
        code = 0
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            if "--model" not in flags:
                patch.setattr(reply, "ROOT", tmp_path)
                (tmp_path / reply.MODEL).mkdir(exist_ok=True)
                patch.setattr(reply.Replier, "load", lambda *args: fake)
            patch.setattr(sys, "argv", ["reply.py", *flags])
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            try:
                reply.main()
            except SystemExit as stop:
                code = stop.code
        told = []
        for name in ("stdout", "stderr"):
            streams[name].flush()
            told.append(streams[name].buffer.getvalue().decode())
        return code, *told, fake.calls
    return run


def desk_of(written=(SORRY,), steps=("retry", "tell"), **settings):
    return Desk(Ways(FakeReplier(written), steps), {"tone": "apologetic"}, "nucleus", DEFAULTS | settings)


# ------------------------------------------------------------------------------------------------------------ what is printed


def test_the_models_text_is_printed_and_nothing_around_it(run):
    """Mistake of the notes: a stock opening that the script puts before the model's text, and that the judge then reads."""
    text = "  Dear all,\n\nwe are sorry: {{Order Number}} 🙂 "
    assert run("My street is dark", "--tone", "apologetic", written=[(text, "apologetic", 0.9)])[:3] == (0, text + "\n", "")
    assert run("My", "street", "is", "dark")[3][0]["request"] == "My street is dark"


def test_a_tone_that_is_missed_is_retried_and_then_told(run):
    """The default of --on-mismatch: a miss costs three retries and is not passed over in silence; no file is written."""
    code, out, err, calls = run("Dark street", "--tone", "apologetic", written=[FIRM, CALM, FIRM])
    assert (code, out, len(calls)) == (0, "Noted.\n", 4)
    assert err.startswith("[the reply missed tone apologetic (judged to be official, 0.60) in 4 tries. What may help: ")
    code, out, err, calls = run("Dark street", "--tone", "apologetic", written=[FIRM, SORRY])
    assert (code, out, err, len(calls)) == (0, "Sorry.\n", "", 2)
    assert run("Dark street", "--tone", "apologetic", "--on-mismatch", "none", written=[FIRM, SORRY])[1:3] == ("No.\n", "")


def test_all_steps_together(run, tmp_path):
    code, out, err, calls = run("Dark street", "--tone", "apologetic", "--on-mismatch", "retry,log,default,tell",
                                "--tries", "1", "--log", "new/log.jsonl", written=[FIRM])
    assert code == 0 and len(calls) == 2 and out not in ("No.\n", "\n")
    warning, told = err.splitlines()
    assert warning.startswith("[warning: 2 of 2 written missed") and "a safe answer stands in its place" in told
    assert len((tmp_path / "new" / "log.jsonl").read_text("utf-8").splitlines()) == 2


def test_json_tells_what_was_asked_and_judged_the_tries_and_why_one_was_kept(run):
    """By hand: the first try misses, the second, with the next seed, is as asked; the category was read from the request."""
    code, out, err, _ = run("Dark street", "--tone", "apologetic", "--seed", "7", "--json", written=[FIRM, SORRY])
    content = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert list(content) == ["request", "asked", "category_read", "replies", "tries", "told"] and content["told"] == []
    assert content["asked"] == {"tone": "apologetic", "category": "roads"} and content["category_read"] == 0.9877
    judged = {"tone": {"value": "apologetic", "probability": 0.9}, "category": {"value": "roads", "probability": 0.9}}
    assert content["replies"] == [{"text": "Sorry.", "judged": judged, "missed": [], "try": 2, "why": "try 2 is as asked"}]
    first, second = content["tries"]
    assert (first["text"], first["missed"], second["missed"]) == ("No.", ["tone"], [])
    assert (first["settings"]["seed"], second["settings"]["seed"], first["settings"]["guidance"]) == (7, 8, 1.0)
    content = json.loads(run("Dark", "--tone", "apologetic", "--category", "any", "--json", written=[FIRM])[1])
    assert content["category_read"] is None and content["told"][0].startswith("the reply missed") and len(content["tries"]) == 4


def test_several_replies_have_a_blank_line_between_them(run):
    assert run("Dark", "--tone", "apologetic", "--num", "2", written=[SORRY, FIRM, CALM, FIRM])[1] == "Sorry.\n\nNoted.\n"


def test_a_terminal_gets_no_control_characters_and_whole_words(monkeypatch):
    """Bug of the kind: a text could turn the screen red."""
    monkeypatch.setenv("COLUMNS", "12")
    for json_lines in (False, True):
        monkeypatch.setattr(sys, "stdout", out := Terminal())
        reply.show(*desk_of([("sorry \x1b[31mindeed sir", "apologetic", 0.9)]).answer("Dark"), json_lines)
        assert "\x1b" not in out.getvalue()
        assert json_lines or out.getvalue() == "sorry\n\ufffd[31mindeed\nsir\n"


# -------------------------------------------------------------------------------------------------- what the model is asked for


def test_a_category_that_is_not_given_is_read_from_the_request(run):
    """Also that it is about none of them, which has an honest answer; `any` leaves it to the model."""
    for flags, expected in (((), {"tone": "firm", "category": "none"}), (("--tone", "any"), {"category": "none"}),
                            (("--category", "taxes"), {"tone": "firm", "category": "taxes"}),
                            (("--category", "any"), {"tone": "firm"})):  # fmt: skip
        assert run("How do I cook spaghetti?", "--tone", "firm", *flags)[3][0]["labels"] == expected


def test_a_model_without_categories_is_asked_for_none(run):
    replier = FakeReplier([FIRM])
    replier.labels, replier.category_of = Labels({"tone": ("firm", "friendly")}), lambda request: ("", 0.0)
    assert run("Dark", "--tone", "firm", replier=replier)[3][0]["labels"] == {"tone": "firm"}


@pytest.mark.parametrize(("flags", "expected"), [
    ((), {"temperature": 0.7, "top_p": 0.95, "top_k": 0}), (("--top-k", "9"), {"temperature": 0.7, "top_p": 0.95, "top_k": 9}),
    (("--strategy", "greedy"), {"temperature": 0.0, "top_p": 1.0, "top_k": 0}),
    (("--strategy", "sampling", "--top-p", "0.5"), {"temperature": 0.7, "top_p": 1.0, "top_k": 0}),
    (("--strategy", "beam", "--num-beams", "3"),
     {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "num_beams": 3, "length_penalty": 1.0})])  # fmt: skip
def test_a_strategy_has_the_settings_that_it_reads(run, flags, expected):
    call = run("Dark", "--seed", "4", "--guidance", "2", "--candidates", "8", "--no-repeat-ngram-size", "3",
               "--max-new-tokens", "64", *flags)[3][0]  # fmt: skip
    others = {"request": "Dark", "labels": {"category": "roads"}, "num": 1, "seed": 4, "guidance": 2.0, "candidates": 8,
              "no_repeat_ngram_size": 3, "max_new_tokens": 64}  # fmt: skip
    assert call == others | expected


def test_without_a_seed_every_request_has_another_one(run):
    calls = run(text="Dark\nDark\n")[3]
    assert calls[0]["seed"] != calls[1]["seed"] and all(0 <= call["seed"] < 2**63 for call in calls)
    assert {call["seed"] for call in run("--seed", "3", text="Dark\nDark\n")[3]} == {3}  # a line's reply is its own


# ----------------------------------------------------------------------------------------------------------------------- pipes


def test_a_pipe_gets_a_reply_a_line_and_a_blank_line_between(run):
    code, out, err, calls = run(text="Dark street\n  My bin \r\n", written=[SORRY, FIRM])
    assert (code, out, err) == (0, "Sorry.\n\nNo.\n", "") and [call["request"] for call in calls] == ["Dark street", "My bin"]
    assert [json.loads(line)["request"] for line in run("--json", text="a\nb\n")[1].splitlines()] == ["a", "b"]


def test_a_line_that_cannot_be_answered_is_one_line_and_the_others_are_answered(run, monkeypatch):
    """An empty one, and one that the model refuses, as too long a one."""
    replier = FakeReplier([SORRY])

    def refusing(request, labels, **settings):
        if request == "long":
            raise InputError("the request is too long")
        return FakeReplier.write(replier, request, labels, **settings)
    replier.write = refusing
    code, out, err, _ = run(text="Dark\n \nlong\nBin\n", replier=replier)
    assert (code, out) == (2, "Sorry.\n\nSorry.\n")
    assert err == ("error: line 2: the request is empty: there is nothing to answer\n"
                   "error: line 3: the request is too long\n")


def test_input_of_any_bytes(run):
    assert run(raw=b"\xef\xbb\xbfDark\r\n")[3][0]["request"] == "Dark"
    assert run(raw=b"so \xff dark")[3][0]["request"] == "so \ufffd dark"
    assert run(raw=b"")[:3] == (2, "", "error: there is nothing to answer: the input is empty\n")


# ------------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(("flags", "why"), [
    (("",), "the request is empty"), ((" ", " "), "the request is empty"), (("so \udcff",), "the request is not valid UTF-8"),
    (("x", "--tone", "rude"), "no tone 'rude': choose from official, friendly, apologetic, firm"),
    (("x", "--category", "cats"), "no category 'cats': choose from roads, taxes, none"),
    (("x", "--decision", "positive"), "no attribute decision: choose from tone, category"), (("x", "--tone", ""), "--tone"),
    (("x", "--on-mismatch", "retry,learn"), "train_replies.py --failures FILE"),
    (("x", "--on-mismatch", "retry,retry"), "none, or some of retry,log,default,tell, each once"),
    (("x", "--on-mismatch", "pray"), "not 'pray'"), (("x", "--on-mismatch", ""), "--on-mismatch"),
    (("x", "--tries", "0"), "--tries"), (("x", "--guidance", "-1"), "--guidance"), (("x", "--candidates", "0"), "--candidates"),
    (("x", "--top-p", "0"), "--top-p"), (("x", "--strategy", "best"), "--strategy"),
    (("x", "--text", "none.csv"), "there is no file none.csv"), (("x", "--on-mismatch", "log", "--log", "."), "cannot write ."),
    (("--model", "nowhere", "x"), "no folder nowhere")])  # fmt: skip
def test_bad_input_is_one_line(run, flags, why):
    code, out, err, calls = run(*flags)
    assert (code, out, calls) == (2, "", []) and err.startswith("error: ") and err.count("\n") == 1 and why in err, err


def test_a_csv_without_the_columns_is_one_line_that_lists_them(run, tmp_path):
    (tmp_path / "cats.csv").write_text("cat,colour\nTom,grey\n", "utf-8")
    code, _, err, _ = run("x", "--on-mismatch", "default", "--text", "cats.csv")
    assert code == 2 and "needs the columns request" in err and "it has cat, colour" in err and err.count("\n") == 1


def test_safe_answers_are_not_those_of_another_set(run, tmp_path):
    """Mistake avoided: a shop's customer would get the city's letter. With the shop's own file there are some."""
    replier = FakeReplier([("No.", "official", 0.8, "ORDER", 0.9)])
    replier.labels = Labels({"tone": ("apologetic", "neutral"), "category": ("ORDER", "REFUND")})
    replier.category_of = lambda request: ("ORDER", 0.9)
    code, _, err, _ = run("x", "--tone", "apologetic", "--on-mismatch", "default", replier=replier)
    assert code == 2 and "name the file of this model's replies by --text" in err
    (tmp_path / "shop.csv").write_text("instruction,response,tone,category,default_reply\nWhere is it?,Sorry,apologetic,ORDER,"
                                       "We are sorry.\n", "utf-8")  # fmt: skip
    flags = ("x", "--tone", "apologetic", "--on-mismatch", "default", "--text", "shop.csv")
    assert run(*flags, replier=replier)[1] == "We are sorry.\n"


def test_the_shipped_model_where_it_is_missing_is_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setattr(reply, "ROOT", tmp_path)
    code, _, err, _ = run("x", "--model", reply.MODEL)
    assert code == 2 and "checkpoint_replies/ is missing: train a model with `python train_replies.py`" in err


def test_ctrl_c_is_130(run):
    replier = FakeReplier([SORRY])

    def interrupted(*args, **settings):
        raise KeyboardInterrupt
    replier.write = interrupted
    assert run("x", replier=replier)[:3] == (130, "", "interrupted\n")
    assert run(text="x\n", replier=replier)[:3] == (130, "", "interrupted\n")


# --------------------------------------------------------------------------------------------------------------- at a terminal


@pytest.fixture
def typed(monkeypatch, signals, capsys):
    """Type lines: (output, errors)."""
    def typed(desk, *told):
        monkeypatch.setattr(reply, "lines", lambda at_terminal: iter(told))
        converse(desk, json_lines=False)
        return capsys.readouterr()
    return typed


def test_requests_and_commands_at_a_terminal(typed):
    """By hand: the second reply is to be firm, without a value the third to be anything; what is wrong changes nothing."""
    desk = desk_of([SORRY, FIRM, CALM])
    out, err = typed(desk, "Dark", "", "/tone firm", "/guidance 2", "Dark", "/tone", "/tone rude", "/top-p 7", "/cats", "Dark",
                     "quit", "never")
    assert out == "Sorry.\nNo.\nNoted.\n"
    assert [(call["labels"].get("tone"), call["guidance"]) for call in desk.ways.replier.calls] == [
        ("apologetic", 1.0), ("firm", 2.0), (None, 2.0)]
    assert err.splitlines() == ["error: there is no tone 'rude': choose from official, friendly, apologetic, firm, any",
                                "error: /top-p must be a number above 0 and at most 1, not '7'",
                                "error: there is no command /cats: see /help"]


def test_tries_can_be_changed(typed):
    desk = desk_of([FIRM])
    typed(desk, "/tries 1", "Dark")
    assert len(desk.ways.replier.calls) == 2


def test_ctrl_c_stops_a_reply_and_not_the_session(typed):
    desk = desk_of()
    write, desk.ways.replier.write = desk.ways.replier.write, lambda *args, **settings: stop()

    def stop():
        desk.ways.replier.write = write
        raise KeyboardInterrupt
    assert typed(desk, "Dark", "Dark")[0] == "Sorry.\n"


def test_help_settings_and_the_first_lines(capsys):
    desk = desk_of()
    obey(desk, "/help", "")
    obey(desk, "/settings", "")
    out = capsys.readouterr().out
    assert "/tone, /category, /decision VALUE" in out
    assert {"tone: apologetic", "category: read from the request", "strategy: nucleus", "guidance: 1.0", "top-p: 0.95",
            "seed: a new one for each request"} <= set(out.splitlines()) and "num-beams" not in out  # fmt: skip
    assert "/tone official|friendly|apologetic|firm\n/category roads|taxes|none\n" in welcome(desk)


def test_help_teaches(capsys, monkeypatch):
    """All five ways to go on stand there, the one that is another command among them."""
    monkeypatch.setattr(sys, "argv", ["reply.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        reply.main()
    out = capsys.readouterr().out
    assert stop.value.code == 0 and "python reply.py" in out and "python train_replies.py --failures FILE" in out
    assert all(f"\n    {step} " in out for step in ("retry", "log", "default", "tell"))


# ------------------------------------------------------------------------------------------------------------------ as a whole


OPENINGS = {"firm": "no . we will not", "friendly": "hello ! we will gladly"}
MATTERS = {"roads": ("my street is dark", "light the street"), "taxes": ("my tax bill is wrong", "check the bill")}
WHERE = ("in the north", "in the south", "by the river", "on the hill", "near the school", "at the end")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that has learned two tones and two categories nearly by heart, as train_replies.py leaves it; some 5 seconds."""
    replies = [Reply(f"{request} {where}", f"{opening} {matter} {where} .", {"tone": tone, "category": category}, "train")
               for tone, opening in OPENINGS.items() for category, (request, matter) in MATTERS.items() for where in WHERE]
    tokenizer = make_tokenizer("bpe", [f"{reply.request} {reply.reply}" for reply in replies] * 3, 330)
    tokenizer.add_special_tokens(list(REPLY_TOKENS))
    torch.manual_seed(0)
    base = GeneratorTransformer(shape(vocab_size=tokenizer.get_vocab_size(), eos_token_id=tokenizer.token_to_id("<end>"),
                                      max_position_embeddings=90, head_dim=8, initializer_range=0.1), tokenizer)  # fmt: skip
    folder = tmp_path_factory.mktemp("trained") / "replies"
    model = Controlled(base, Labels({"tone": tuple(OPENINGS), "category": tuple(MATTERS)}), "token")
    base.save_checkpoint(folder, torch.float32, REPLY_TEMPLATE)
    rows, valid = (ReplyDataset(model, open_tokenizer(folder), some) for some in (replies * 120, replies))
    Trainer(model, rows, valid, lr=1e-2, batch_size=24).train(1)
    base.save_checkpoint(folder, torch.float32, REPLY_TEMPLATE)
    save_control(model, folder)
    return str(folder)


@pytest.mark.slow
def test_a_trained_model_writes_what_is_asked(folder, run):
    """Each tone for requests of both categories, none of which is named: openings and matters as they were learned."""
    for tone, opening in OPENINGS.items():
        for category, (request, matter) in MATTERS.items():
            code, out, err, _ = run(f"{request} by the river", "--model", folder, "--tone", tone, "--json", "--seed", "1")
            content = json.loads(out)
            assert (code, err) == (0, "") and content["asked"] == {"tone": tone, "category": category}
            kept, = content["replies"]
            assert kept["text"].startswith(f"{opening} {matter}") and not kept["missed"], content
            assert {name: told["value"] for name, told in kept["judged"].items()} == content["asked"]


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--strategy", "greedy"), ("--strategy", "beam", "--num", "2"), ("--num", "2"),
                                   ("--strategy", "sampling", "--top-k", "5"), ("--candidates", "4", "--guidance", "2"),
                                   ("--max-new-tokens", "4"), ("--no-repeat-ngram-size", "2"), ("--dtype", "bfloat16")])
def test_every_strategy_writes_and_a_seed_repeats(folder, run, flags):
    ask = ("my street is dark in the north", "--model", folder, "--tone", "firm", "--seed", "2", *flags)
    code, out, err, _ = run(*ask)
    assert code == 0 and out.strip() and run(*ask)[1] == out
    assert out.count("\n\n") == ("--num" in flags)


@pytest.mark.slow
def test_a_category_against_the_request_is_met_or_its_miss_is_told(folder, run):
    """A request about the street, answered as one about taxes: whatever comes is judged, and a miss is said."""
    code, out, err, _ = run("my street is dark", "--model", folder, "--category", "taxes", "--json", "--seed", "1")
    content = json.loads(out)
    kept, = content["replies"]
    assert code == 0 and bool(kept["missed"]) == bool(content["told"]) and (len(content["tries"]) == 4 or not kept["missed"])
    assert kept["judged"]["category"]["value"] == "taxes" or kept["missed"] == ["category"]


@pytest.mark.slow
def test_requests_that_do_not_fit_and_models_without_control_are_one_line(folder, run, model_folder):
    code, out, err, _ = run("--model", folder, "--tone", "firm", text="my street is dark\n" + "dark " * 100 + "\n")
    assert code == 2 and out.startswith("no .") and re.match(r"error: line 2: the request has \d+ tokens, .*shorten it\n$", err)
    code, out, err, _ = run("--model", str(model_folder), "x")
    assert (code, out) == (2, "") and "holds no control.json, so no model with control" in err and err.count("\n") == 1


@pytest.mark.slow
def test_the_script_in_a_pseudo_terminal(folder, tmp_path):
    """What it says first, a reply, another tone, an error that does not end it, Ctrl-C on a line, quit."""
    env = {**os.environ, "HOME": str(tmp_path), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "OMP_NUM_THREADS": "1"}
    child = pexpect.spawn(sys.executable, ["reply.py", "--model", folder, "--tone", "firm", "--seed", "1"], cwd=str(ROOT),
                          env=env, encoding="utf-8", timeout=60, dimensions=(30, 100))  # fmt: skip
    child.expect(re.escape("/tone firm|friendly"))
    for line, expected in (("my street is dark", r"no \. we will not"), ("/tone rude", "error: there is no tone 'rude'"),
                           ("/tone friendly", ""), ("my street is dark", "hello ! we will gladly")):
        child.expect(r"\x1b\[\?2004h")  # prompt_toolkit asks for pastes in brackets when it begins to read a line
        child.send(f"{line}\r")
        child.expect(r"\x1b\[\?2004l")
        child.expect(expected)
    child.expect(r"\x1b\[\?2004h")
    child.send("half a line\x03")
    time.sleep(0.2)
    child.send("quit\r")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0 and "Traceback" not in child.before
