"""The command line: what a number may be, and the flags that several scripts share.

A rule is stated once, in RULES, and applied in three places: by argparse for a flag, by chat.py for a command, and by a
function that is called with the value.
"""

from support.errors import ROOT, InputError

import argparse
import math
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from support.adapter import adapter_base

DTYPES = ("float32", "bfloat16", "float16")
ENGINES = ("own", "transformers")


class Rule(NamedTuple):
    """What a number may be: its type, whether a value is allowed, and the same in words."""

    kind: type
    allowed: Callable[[float], bool]
    words: str


COUNT = Rule(int, lambda value: value >= 1, "a whole number, 1 or more")
POSITIVE = Rule(float, lambda value: 0 < value < math.inf, "a finite number above 0")
SHARE = Rule(float, lambda value: 0 <= value < 1, "a number of at least 0 and below 1")
RULES = {
    "temperature": Rule(float, lambda value: 0 <= value < math.inf, "a finite number, 0 or more"),
    "top_k": Rule(int, lambda value: value >= 0, "a whole number, 0 (off) or more"),
    "top_p": Rule(float, lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
    "length_penalty": Rule(float, lambda value: -50 <= value <= 50, "a number from -50 to 50"),
    "no_repeat_ngram_size": Rule(int, lambda value: value >= 0, "a whole number, 0 (off) or more"),
    "seed": Rule(int, lambda value: 0 <= value < 2**63, "a whole number, 0 or more, below 2**63"),
    "guidance": Rule(float, lambda value: 0 <= value < math.inf, "a finite number, 0 or more"),
    **dict.fromkeys(("num_beams", "max_new_tokens", "context_len", "candidates"), COUNT),
}


def checked(rule: Rule, value: object) -> int | float:
    """The value as the rule's type; text is parsed. Raises InputError, without a name, for what the rule does not allow."""
    try:
        number = rule.kind(value)
        if number != value and not isinstance(value, str) or not rule.allowed(number):  # int(1.5) is 1: not what was asked
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"must be {rule.words}, not {value!r}") from error
    return number


def check_settings(**settings: object) -> None:
    """Raises InputError, which names the setting, for one whose value its rule does not allow."""
    for name, value in settings.items():
        check_setting(name, value)


def check_setting(name: str, value: object) -> int | float:
    """A setting's value as its type; text is parsed. Raises InputError, which names the setting."""
    try:
        return checked(RULES[name], value)
    except InputError as error:
        raise InputError(f"{name} {error}") from error


class Parser(argparse.ArgumentParser):
    """argparse with a description as it stands and errors of one line, which name the flag."""

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def parse_args(self, args: Sequence[str] | None = None, namespace: None = None) -> argparse.Namespace:
        """The flags; --model, where it is left out, is the base that the adapter names, or the default of `add_model_flags`.

        Raises InputError for what a flag does not allow, and for a folder of --adapter that holds no adapter.
        """
        found = super().parse_args(args)
        default = vars(found).pop("default_model", None)
        if getattr(found, "model", "") is None:
            found.model = adapter_base(found.adapter) if found.adapter else default
        return found

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def number(rule: Rule) -> Callable[[str], int | float]:
    """An argparse type that applies a rule; argparse puts the flag's name in front of the message."""
    def parse(text: str) -> int | float:
        try:
            return checked(rule, text)
        except InputError as error:
            raise argparse.ArgumentTypeError(error) from error
    return parse


def some_text(text: str) -> str:
    """An argparse type for a name that cannot be empty: an empty path would be the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def some_name(text: str) -> str:
    """An argparse type for the name of a file or folder in another folder."""
    if not re.fullmatch(r"\w[\w.-]*", text):
        raise argparse.ArgumentTypeError(f"must be a name of letters, digits, points and dashes, not {text!r}")
    return text


def some_path(text: str) -> Path:
    """The same for a path."""
    return Path(some_text(text))


def flag(setting: str) -> str:
    """The flag of a setting: top_p -> --top-p."""
    return "--" + setting.replace("_", "-")


def command(script: str, *arguments: object) -> str:
    """The command line of one of the project's scripts, to be pasted into a shell: beside the scripts, or, with whole paths,
    anywhere, where it was not there that the script was started."""
    away = Path.cwd() != ROOT
    whole = [argument.absolute() if away and isinstance(argument, Path) else argument for argument in arguments]
    return shlex.join(["python", str(ROOT / script) if away else script, *map(str, whole)])


def add_model_flags(parser: argparse._ActionsContainer, default: str = "generator") -> None:
    """The flags of every script that runs a model: --model, --adapter, --engine, --device, --dtype."""
    parser.set_defaults(default_model=default)
    parser.add_argument("--model", type=some_text, metavar="NAME",
                        help="generator (the checkpoint that comes with the project), qwen (Qwen/Qwen2.5-0.5B-Instruct), "
                             "smollm2 (HuggingFaceTB/SmolLM2-135M-Instruct), any name on the Hugging Face hub, a folder, or "
                             f"a .gguf file (default: {default})")
    parser.add_argument("--adapter", type=some_path, metavar="FOLDER",
                        help="a LoRA adapter of PEFT's, merged into --model, or into the model that it names itself")
    parser.add_argument("--engine", choices=ENGINES,
                        help="what computes the model: our own decoder, which runs the Llama and Qwen2 family, or transformers "
                             "(default: own where it fits)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: %(default)s)")
    parser.add_argument("--dtype", default="float32", choices=DTYPES,
                        help="16 bits are faster, but round so that a text may depend on its batch "
                             "(default: %(default)s)")


def add_results_flag(parser: argparse._ActionsContainer) -> None:
    """The flag of every script that writes results."""
    parser.add_argument("--results", type=some_path, default=ROOT / "results", metavar="FOLDER",
                        help="where <model>/<script>.json and .md are written (default: results/ beside the scripts)")
