"""autocomplete.py: what a pipe and the command line get, their probabilities, bad input, a message at a terminal."""

import io
import json
import math
import os
import re
import sys
import time

import autocomplete
from autocomplete import by_beams, by_tokens, open_suggestions, sent, suggesting_line, welcome
from data.messages import clean_string, learn_tokenizer, learned_case
from decoding.words import NextWords
from lstm import LSTMLM
from models.loading import Loaded
from models.lstm import LSTMConfig
from models.ngram import NGram, Recent
from tests.helpers import ROOT, Terminal, has, small_tokenizer, type_at_terminal

import pexpect
import pytest
import torch

MESSAGES = ["so it is so", "it was so late", "so tired of it all", "so tired of you", "so tired of the rain", "late is late",
            "it is so late again", "so tiny and so late", "what the fuck is it", "what the fuck was it", "what the time is it",
            "what the time was it", "what the weather is it"]  # fmt: skip
BOS, EOS = 0, 2


@pytest.fixture(scope="module")
def loaded():
    """A model that has learned the messages nearly by heart, as `load_model` gives it."""
    tokenizer = learn_tokenizer(MESSAGES * 3, 330)
    plain = tokenizer.backend_tokenizer
    texts = [[BOS, *plain.encode(f" {message}", add_special_tokens=False).ids, EOS] for message in MESSAGES * 4]
    model = NGram(texts, len(tokenizer), 5)
    return Loaded(model, tokenizer, frozenset([EOS]), {"name": "tiny", "parameters": 7})


@pytest.fixture
def run(loaded, monkeypatch, tmp_path):
    """Run the script with that model, which learned lower-case letters, unless --model names one: (code, output, errors)."""
    (tmp_path / "meta.json").write_text('{"settings": {"keep_case": false}}', "utf-8")

    def run(*flags, text="", raw=None):
        streams = {"stdin": io.TextIOWrapper(io.BytesIO(text.encode() if raw is None else raw), "utf-8"),
                   "stdout": io.TextIOWrapper(io.BytesIO(), "utf-8"), "stderr": io.TextIOWrapper(io.BytesIO(), "utf-8")}
        code = 0
        with monkeypatch.context() as patch:
            if "--model" not in flags:
                patch.setattr(autocomplete, "load_model", lambda *args: loaded)
                patch.setattr(autocomplete, "growing_cache", lambda config: Recent())
                patch.setattr(autocomplete, "place_of", lambda model: str(tmp_path))
                patch.setattr(autocomplete, "find_model", lambda model: tmp_path)
            patch.setattr(sys, "argv", ["autocomplete.py", *flags])
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            try:
                autocomplete.main()
            except SystemExit as stop:
                code = stop.code
        told = []
        for name in ("stdout", "stderr"):
            streams[name].flush()
            told.append(streams[name].buffer.getvalue().decode())
        return code, *told
    return run


@pytest.fixture
def suggestions(loaded, monkeypatch):
    monkeypatch.setattr(autocomplete, "growing_cache", lambda config: Recent())
    return open_suggestions(loaded, False, False, 0.0)


# ------------------------------------------------------------------------------------------------ completed messages


def test_three_completed_messages_best_first(run):
    """By hand: "so tired of" goes on in three ways, each as often; "so tir" can only become it. What was typed stays."""
    code, out, err = run("--once", "so tir")
    assert (code, err) == (0, "") and set(out.splitlines()) == {"so tired of it all", "so tired of you", "so tired of the rain"}
    code, out, _ = run("--once", "So Tired! of")
    assert {"So Tired! of you", "So Tired! of it all"} <= set(out.splitlines())


@pytest.mark.parametrize("flags", [("--strategy", "greedy"), ("--strategy", "sampling", "--seed", "1"), ("--strategy", "beam"),
                                   ("--strategy", "nucleus", "--seed", "2", "--temperature", "2"), ("--num-beams", "1"),
                                   ("--length-penalty", "1"), ("--no-repeat-ngram-size", "2"), ("--max-new-tokens", "1")])
def test_every_strategy_completes_with_different_messages_of_falling_probability(run, flags):
    """The same seed, the same messages."""
    code, out, _ = run("--once", "so ti", "--json", *flags)
    content = json.loads(out)
    texts = [completion["text"] for completion in content["completions"]]
    probs = [completion["probability"] for completion in content["completions"]]
    assert code == 0 and 1 <= len(texts) == len(set(texts)) <= 3 and all(text.startswith("so ti") for text in texts)
    assert all(0 < prob <= 1 for prob in probs) and sum(probs) <= 1 + 1e-6
    assert "--length-penalty" in flags or probs == sorted(probs, reverse=True)
    assert run("--once", "so ti", "--json", *flags)[1] == out


def test_the_probability_of_a_message_is_that_of_its_tokens_given_what_was_typed(suggestions):
    """Oracle: P(" tired of you" and the end) / P(words that begin with "ti"), both behind "so", from the model's own
    probabilities one by one. The other spellings of these words are too unlikely here to matter.

    By hand for a model that has "so tired" 0.4, "so tiny" 0.1 and " of you", end behind the first 0.25:
    0.4 * 0.25 / (0.4 + 0.1) = 0.2.
    """
    source = suggestions.source

    def prob(before, ids):
        total = 1.0
        for token in ids:
            with torch.no_grad():
                total *= source.model(input_ids=torch.tensor([before])).logits[0, -1].softmax(-1)[token].item()
            before = [*before, token]
        return total

    before = source.ids("so")
    words = {word: source.ids(f"so {word}")[len(before):] for word in ("tired", "tiny")}
    begun = sum(prob(before, ids) for ids in words.values())
    for found in (by_beams(suggestions, "so ti", 5, 0.0, 20, 0), by_tokens(suggestions, "so ti", 20, 0, None, 0.0)):
        for message, log_prob in found[:1]:
            expected = prob(before, [*source.ids(message)[len(before):], EOS]) / begun
            assert math.exp(log_prob) == pytest.approx(expected, rel=0.05)


def test_words_and_json(run):
    """By hand: behind "so" stand "tired" and "tiny", and no third word that begins so was learned."""
    code, out, _ = run("--once", "so ti", "--words")
    assert code == 0 and out.splitlines()[:2] == ["tired", "tiny"] and len(out.splitlines()) == 3
    code, out, _ = run("--json", text="so ti\nIt is\n")
    first, second = map(json.loads, out.splitlines())
    assert list(first) == ["text", "completions", "words"] and first["text"] == "so ti" and second["text"] == "It is"
    assert [word["word"] for word in first["words"][:2]] == ["tired", "tiny"]
    assert first["words"][0]["probability"] == pytest.approx(0.75, abs=0.1)


def test_below_a_threshold_nothing_is_suggested(run):
    assert run("--once", "so ti", "--words", "--threshold", "0.5") == run("--once", "so ti", "--words") != (0, "", "")
    assert run("--once", "so ti", "--threshold", "0.99") == (0, "", "")


def test_profane_words_are_left_out_unless_asked_for(run):
    """By hand: "what the" goes on with "fuck" in two of five messages."""
    for flags in ((), ("--words",), ("--strategy", "greedy"), ("--strategy", "sampling", "--seed", "3", "--temperature", "1")):
        code, out, _ = run("--once", "what the ", *flags)
        assert code == 0 and len(out.splitlines()) == 3 and "fuck" not in out, flags
    for flags in ((), ("--words",)):
        assert "fuck" in run("--once", "what the ", "--allow-profanity", *flags)[1]
    assert "is it" in run("--once", "what the fuck i")[1]  # what a person types is theirs


# ------------------------------------------------------------------------------------------------ pipes


def test_a_pipe_gets_three_lines_for_each_text_and_a_blank_line_between(run):
    code, out, err = run(text="so tir\nit was\n")
    first, second = out.rstrip("\n").split("\n\n")
    assert (code, err) == (0, "") and [line[:6] for line in first.splitlines()] == ["so tir"] * 3
    assert second.splitlines()[0] == "it was so late"


def test_a_blank_at_the_end_of_a_line_ends_its_word(run):
    """Bug avoided: a line without its blanks would end in a half-typed word. "it is " goes on with another word."""
    _, out, _ = run("--words", text="it is \r\n\nit is\n")
    assert out.splitlines()[0] == "so" and out.splitlines()[4] == "is"


def test_a_text_that_cannot_be_completed_is_one_line_and_the_others_are_completed(run):
    """A pipe's exit code says so at its end; what was completed stands as without it."""
    code, out, err = run(text="so tir\n\nпривет\nit was\n")
    assert code == 2 and len(out.splitlines()) == 7
    assert err == ("error: line 2: the text is empty: there is nothing to complete\nerror: line 3: cannot complete 'привет': "
                   "the model has learned words of Latin letters and digits alone, and no mentions or links\n")


def test_input_of_any_bytes(run):
    """A mark of Windows, bytes that are no UTF-8, and nothing at all."""
    assert run("--words", raw=b"\xef\xbb\xbfso ti\r\n")[1].startswith("tired\n")
    assert run("--words", raw=b"so \xff\xfe ti")[1].startswith("tired\n")
    assert run(raw=b"") == (2, "", "error: there is nothing to complete: the input is empty\n")


@pytest.mark.parametrize("text", ["so it is " * 1111 + "s", "ok 🙂", "so \x1b[31mti", "so\tti", "s", "a" * 30 + " "])
def test_unusual_texts_are_completed(run, text):
    code, out, err = run(text=text)
    assert (code, err) == (0, "") and out.startswith(text) and len(out.splitlines()) == 3


def test_a_terminal_gets_no_control_characters(loaded, monkeypatch):
    """Bug of the kind: a text from a file could turn the screen red."""
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    autocomplete.print_lines(["so \x1b[31mtired"])
    assert out.getvalue() == "so \ufffd[31mtired\n"


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(("flags", "why"), [
    (("--once", ""), "--once: the text is empty"), (("--once", "  "), "--once: the text is empty"),
    (("--once", "привет"), "the model has learned words of Latin letters and digits alone"),
    (("--once", "ask @ann"), "no mentions or links"), (("--once", "so \udcff"), "the text is not valid UTF-8"),
    (("--once", "x", "--words", "--json"), "not allowed with argument"), (("--once", "x", "--threshold", "1"), "--threshold"),
    (("--once", "x", "--strategy", "best"), "--strategy"), (("--once", "x", "--top-p", "0"), "--top-p"),
    (("--once", "so", "--num-beams", "5000"), "--num-beams"), (("--once", "x", "--seed", "-1"), "--seed"),
    (("--once", "so " + "x" * 10_000), "no word is suggested that begins with 'xxx")])  # fmt: skip
def test_bad_input_is_one_line(run, flags, why):
    code, out, err = run(*flags)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1 and why in err, err


def test_models_that_cannot_complete_are_one_line(run, model_folder, tmp_path, monkeypatch):
    """A folder that is not there, of no model, of a translator, of words without blanks; the project's own, missing."""
    (tmp_path / "translator").mkdir()
    (tmp_path / "translator" / "config.json").write_text(json.dumps(
        {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}), "utf-8")
    words = small_tokenizer("words")
    LSTMLM(LSTMConfig(len(words), 4, 6, 1, words.bos_token_id, words.eos_token_id), words).save_checkpoint(tmp_path / "words")
    monkeypatch.setattr(autocomplete, "ROOT", tmp_path)
    for model, why in ((tmp_path / "none", "no model"), (tmp_path, "no config.json"), ("checkpoint_lstm", "`python train"),
                       (tmp_path / "words", "no tokens that"), (tmp_path / "translator", "which is no decoder")):
        code, out, err = run("--model", str(model), "--once", "so")
        assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1 and why in err, err


def test_ctrl_c_is_130(run, monkeypatch):
    def interrupted(*args, **settings):
        raise KeyboardInterrupt
    monkeypatch.setattr(autocomplete, "by_beams", interrupted)
    assert run("--once", "so") == (130, "", "interrupted\n")


def test_whether_a_text_is_cleaned_is_read_where_the_model_was_trained(tmp_path):
    """None, for no cleaning at all, where no training of ours says it: SmolLM2 as it is."""
    assert learned_case([tmp_path]) is None
    for content, expected in (({"settings": {"keep_case": True}}, True), ({"settings": {"keep_case": False}}, False),
                              ({"settings": {}}, None), ({"settings": 3}, None), ({}, None)):  # fmt: skip
        (tmp_path / "meta.json").write_text(json.dumps(content), "utf-8")
        assert learned_case([tmp_path / "adapter", tmp_path]) is expected


@pytest.mark.slow
def test_an_lstm_from_its_folder(tmp_path, run):
    """All that the other tests put in its place: a folder as train_autocomplete.py leaves it, and its random words."""
    tokenizer = learn_tokenizer(MESSAGES * 3, 330)
    torch.manual_seed(0)
    LSTMLM(LSTMConfig(len(tokenizer), 8, 12, 1, BOS, EOS), tokenizer).save_checkpoint(tmp_path / "lstm")
    (tmp_path / "lstm" / "meta.json").write_text('{"settings": {"keep_case": false}}', "utf-8")
    for flags in ((), ("--words",), ("--dtype", "bfloat16"), ("--strategy", "sampling", "--seed", "1")):
        code, out, err = run("--model", str(tmp_path / "lstm"), "--once", "I'm SO ti", *flags)
        assert (code, err) == (0, "") and len(out.splitlines()) == 3, err
        assert "--words" in flags or all(line.startswith("I'm SO ti") for line in out.splitlines())


@pytest.mark.slow
def test_a_pretrained_model_completes_what_is_typed_as_it_is(run, model_folder):
    """A random Qwen2 on bytes, in its own alphabet; nothing is cleaned where no training of ours was."""
    code, out, err = run("--model", str(model_folder), "--once", "Привет, м", "--json", "--max-new-tokens", "4")
    assert (code, err) == (0, "") and all(found["text"].startswith("Привет, м") for found in json.loads(out)["completions"])


# ------------------------------------------------------------------------------------------------ at a terminal


def test_the_first_lines_say_what_the_keys_do_and_that_profanity_is_kept_out(loaded):
    first, second = welcome(loaded, False).splitlines()
    assert first == "tiny, 7 parameters. Profanity is kept out of what is suggested (--allow-profanity)."
    assert "Tab or → takes the grey text" in second and "Ctrl-D ends" in second
    assert "is suggested, too" in welcome(loaded, True)


def test_a_message_at_a_terminal(suggestions, signals):
    """By hand: "so ti" is completed by Tab, a chip by its digit, an empty line is no message, `quit` ends."""
    suggestions.threshold = 0.1
    told, error = type_at_terminal(
        lambda: suggesting_line(suggestions), sent, (has(""), "so tired of y"), (has("so tired of y", "ou"), "\t"),
        (has("so tired of you"), "\r"), (has(""), " \r"), (has(""), "it was so l"), (has("it was so l", "ate"), "1"),
        (has("it was so late "), "\r"), (has(""), "quit\r"))
    assert (told, error) == (["so tired of you", "it was so late "], None)


@pytest.mark.slow
def test_the_script_in_a_pseudo_terminal(tmp_path):
    """What it says first, a message sent and printed, Ctrl-C on a line and on an empty one."""
    tokenizer, folder = learn_tokenizer(MESSAGES * 3, 330), str(tmp_path / "lstm")
    LSTMLM(LSTMConfig(len(tokenizer), 8, 12, 1, BOS, EOS), tokenizer).save_checkpoint(folder)
    env = {**os.environ, "HOME": str(tmp_path), "TERM": "xterm"}
    child = pexpect.spawn(sys.executable, ["autocomplete.py", "--model", folder, "--threshold", "0"], cwd=str(ROOT), env=env,
                          encoding="utf-8", timeout=30, dimensions=(30, 100))  # fmt: skip
    child.expect("Profanity is kept out")
    for line in ("hello there", "half a line"):
        child.expect(re.escape("\x1b[6n"))  # where is the cursor? Terminals say it
        child.send("\x1b[5;1R")
        child.expect(r"\x1b\[0;1;7m 1 ")  # the first word, bright
        child.send(line)
        child.expect(line[-1])
        if line == "hello there":
            child.send("\r")
            child.expect(r"\x1b\[\?2004lhello there\r\n")
    time.sleep(0.2)
    child.send("\x03")
    time.sleep(0.2)
    child.send("\x03")
    child.expect("interrupted")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130 and "Traceback" not in child.before


def test_flags_of_pipes_are_refused_at_a_terminal(monkeypatch):
    for flags in (["--json"], ["--words"], ["--strategy", "greedy"]):
        streams = {"stdin": Terminal(), "stdout": Terminal(), "stderr": Terminal()}
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["autocomplete.py", *flags])
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            with pytest.raises(SystemExit) as stop:
                autocomplete.main()
        assert stop.value.code == 2 and re.match("error: .*are for --once and a pipe", streams["stderr"].getvalue())


def test_what_is_typed_is_cleaned_as_the_training_messages_were(suggestions):
    """Oracle: the words suggested for a text are those for the text that `clean_string` makes of it."""
    assert isinstance(suggestions.source, NextWords)
    for text in ("It's, SO ti", "@ann So tired!! Of", "AT&amp;T so l"):
        assert [chip[:2] for chip in suggestions.chips(text)] == [chip[:2] for chip in suggestions.chips(clean_string(text))]
