"""The one validator: each rule at its borders, and a message that names the setting, or the flag, that was wrong."""

from support.errors import InputError

import argparse
import math

from support.flags import (
    COUNT,
    POSITIVE,
    RULES,
    SHARE,
    Parser,
    add_model_flags,
    add_results_flag,
    check_setting,
    check_settings,
    checked,
    flag,
    number,
)
from tests.helpers import ROOT

import pytest

NAMED = {**RULES, "count": COUNT, "positive": POSITIVE, "share": SHARE}
ALLOWED = {
    "temperature": [0, 0.0, 1e-300, 1e300, "0", "0.5", "1e-3"],
    "top_k": [0, 1, 10**6, "0", "7"],
    "top_p": [5e-324, 0.5, 1, 1.0, "1", "0.95"],
    "length_penalty": [-50, 0, 50, "-50", "0.5"],
    "seed": [0, 2**63 - 1, "0", str(2**63 - 1)],
    "num_beams": [1, 4, "1"],
    "max_new_tokens": [1, 10**9, "200"],
    "context_len": [1, 2.0, "512"],
    "guidance": [0, 1, 1e300, "0", "2.5"],
    "candidates": [1, 8, "16"],
    "no_repeat_ngram_size": [0, 1, 10**30, "3"],
    "count": [1, 10**12, "3"],
    "positive": [5e-324, 1e300, "0.1"],
    "share": [0, 0.999, "0", "0.1"],
}
REFUSED = {
    "temperature": [-1e-300, -1, math.inf, math.nan, "nan", "inf", "hot", "", None],
    "top_k": [-1, 1.5, "1.5", "-1", "x", math.nan],
    "top_p": [0, -0.1, 1.0000001, math.nan, "0", "1.5", "x"],
    "length_penalty": [-50.1, 50.1, math.nan, "51", "x"],
    "seed": [-1, 2**63, 0.5, "-1", str(2**63), "x"],
    "num_beams": [0, -1, 1.5, math.inf, "0", "1.5", "x"],
    "max_new_tokens": [0, -5, "0", "many"],
    "context_len": [0, 0.5, "0", None],
    "guidance": [-0.1, math.inf, math.nan, "much"],
    "candidates": [0, 1.5, "0"],
    "no_repeat_ngram_size": [-1, 1.5, "-1", "x"],
    "count": [0, 2.5, "2.5", []],
    "positive": [0, -1, math.inf, math.nan, "0", "inf"],
    "share": [-0.1, 1, 1.5, math.nan, "1"],
}


def cases(values):
    return [pytest.param(name, value, id=f"{name} {value!r}") for name in NAMED for value in values[name]]


@pytest.mark.parametrize(("name", "value"), cases(ALLOWED))
def test_what_a_rule_allows_comes_back_as_its_type(name, value):
    """By hand: a temperature of "0.5" is the float 0.5; 2.0 is the whole number 2."""
    found = checked(NAMED[name], value)
    assert type(found) is NAMED[name].kind and found == NAMED[name].kind(value)


@pytest.mark.parametrize(("name", "value"), cases(REFUSED))
def test_what_a_rule_refuses_is_said_in_its_words(name, value):
    """By hand: int(1.5) is 1, which is not what was asked for; nan is in no range."""
    with pytest.raises(InputError) as error:
        checked(NAMED[name], value)
    assert str(error.value) == f"must be {NAMED[name].words}, not {value!r}"


def test_a_setting_is_named():
    assert check_setting("top_p", "0.9") == 0.9
    with pytest.raises(InputError, match="^top_p must be a number above 0 and at most 1, not 2$"):
        check_setting("top_p", 2)
    check_settings(top_p=0.9, seed=0)
    with pytest.raises(InputError, match="^seed must be a whole number, 0 or more, "):
        check_settings(top_p=0.9, seed=-1)


@pytest.mark.parametrize("name", RULES)
def test_a_flag_is_named_and_its_error_is_one_line(name):
    """By hand: `--top-p 0` is "argument --top-p: must be a number above 0 and at most 1, not '0'" and nothing more."""
    parser = Parser("what it does")
    parser.add_argument(flag(name), type=number(RULES[name]))
    good, bad = ALLOWED[name][-1], str(REFUSED[name][0])
    assert getattr(parser.parse_args([f"{flag(name)}={good}"]), name) == RULES[name].kind(good)
    with pytest.raises(InputError) as error:
        parser.parse_args([f"{flag(name)}={bad}"])
    assert str(error.value) == f"argument {flag(name)}: must be {RULES[name].words}, not {bad!r}"


@pytest.mark.parametrize(("flags", "says"), [
    (["--unknown"], "unrecognized arguments: --unknown"), (["--dtype", "int8"], "argument --dtype: invalid choice"),
    (["--model"], "argument --model: expected one argument")])
def test_other_wrong_flags_are_one_line(flags, says):
    parser = Parser("what it does")
    add_model_flags(parser)
    with pytest.raises(InputError) as error:
        parser.parse_args(flags)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_the_shared_flags_have_the_documented_defaults():
    parser = Parser("what it does")
    add_model_flags(parser)
    add_results_flag(parser)
    assert parser.parse_args([]) == argparse.Namespace(
        model="generator", adapter=None, engine=None, device="cpu", dtype="float32", results=ROOT / "results")
    other = Parser("of messages")
    add_model_flags(other.add_argument_group("model"), "checkpoint_lstm")
    assert other.parse_args([]).model == "checkpoint_lstm" and other.parse_args(["--model", "qwen"]).model == "qwen"


def test_a_description_keeps_its_lines():
    assert "one\n    two" in Parser("one\n    two").format_help()


@pytest.mark.parametrize("flag", ["--results", "--model"])
def test_an_empty_name_is_refused(flag, run_script):
    """Bug: an empty path is the current folder: the results were written there."""
    code, _, errors = run_script("task1_greedy.py", flag, "")
    assert code == 2 and errors == f"error: argument {flag}: must not be empty\n"
