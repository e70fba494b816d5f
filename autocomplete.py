"""Complete short messages: at a terminal while you type, or texts of the command line and of a pipe.

    python autocomplete.py                               # type; Tab takes the grey text, 1 2 3 a word, Enter sends
    python autocomplete.py --once "i am so ti"           # three completed messages, best first
    python autocomplete.py --once "i am so ti" --words   # three next words
    python autocomplete.py --once "i am so " --json      # both, with their probabilities
    cat begun.txt | python autocomplete.py               # a text a line, three messages for each, a blank line between
    python autocomplete.py --once "see you" --strategy nucleus --temperature 0.7 --seed 1
    python autocomplete.py --model smollm2 --threshold 0.2

The last word is taken for half-typed unless a blank stands behind it. At a terminal the likeliest rest of the message stands in
grey behind the cursor: Tab or → takes it. Under the line stand three next words: the keys 1 2 3 take one, with its blank. Where
no word of its number is shown, and behind another digit, such a key is a digit; Ctrl-Q before it makes it one anywhere. Enter
sends the message: it is printed, and the next one begins. Ctrl-C clears the line, and on an empty one it ends; so do Ctrl-D and
quit.

Profane words are never suggested (the list is data/profanity.txt) unless --allow-profanity says so; you may type any.
"""

from support.errors import FAILED, ROOT, InputError, one_line_errors, report

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from common import decode
from data.messages import ends_of, learned_case
from data.profanity import is_profane
from decoding.suggestions import CHIPS, REST, THRESHOLD, Chip, Suggestions
from decoding.words import NextWords, spread
from models.cache import growing_cache
from models.chatml import check_unicode
from models.loading import Loaded, load_model
from models.places import find_model
from models.transformer import Output
from strategies import STRATEGIES, choose
from support.flags import RULES, SHARE, Parser, add_model_flags, flag, number
from support.results import shorten
from support.streams import visible
from support.suggesting import SuggestingLine
from support.terminal import piped_lines
from support.wrapping import wrapped
from task5_beam import beam_search

import numpy as np
import torch
from torch import Tensor, nn

MODEL = "checkpoint_lstm"  # the folder beside this script
DEFAULTS = {"temperature": 0.8, "top_p": 0.95, "top_k": 0, "num_beams": 5, "length_penalty": 0.0, "no_repeat_ngram_size": 0,
            "seed": None, "max_new_tokens": REST}  # fmt: skip
MESSAGES = 3
DRAWN = 20  # words from which the first one is drawn
TRIES = 30  # to draw three messages that differ


# ------------------------------------------------------------------------------------------------ completed messages


class Begun(NamedTuple):
    """A text up to the end of its first suggested word, from which `model` writes on.

    `ids` (1, T), of which `cache` holds the first; `log_prob` is that of the word given what was typed.
    """

    text: str
    model: nn.Module
    ids: Tensor
    cache: Any
    log_prob: float


def begin(suggestions: Suggestions, text: str, chip: Chip) -> Begun:
    """A text with a chip that was suggested for it."""
    ids, context, _ = suggestions.place(text)
    ids = torch.tensor([[*ids, *context.spelling(chip.word).tokens]])
    model = BorderNext(suggestions.source.model, suggestions.source.vocabulary.borders)
    return Begun(text + chip.completion, model, ids, spread(context.cache, [context.row]), math.log(chip.prob))


class BorderNext(nn.Module):
    """A model that is asked for a border first: the word before it has ended, which is what its probability says."""

    def __init__(self, model: nn.Module, borders: Tensor) -> None:
        super().__init__()
        self.model, self.config, self.borders = model, model.config, borders

    def forward(self, **inputs: Any) -> Output:
        logits = self.model(**inputs).logits
        if self.borders is not None:
            borders, self.borders = self.borders.to(logits.device), None
            logits = torch.full_like(logits, -torch.inf).index_copy(-1, borders, logits[..., borders])
        return Output(logits)


def whole(suggestions: Suggestions, begun: Begun, written: list[int]) -> str | None:
    """The message that ids complete, None for one with a blocked word."""
    words = suggestions.words(written)
    if suggestions.allowed("".join(begun.text.split()[-1:]), words) != words:
        return None
    return begun.text + suggestions.as_typed(begun.text, "".join(f" {word}" for word in words))


def by_beams(suggestions: Suggestions, text: str, num_beams: int, length_penalty: float, max_new_tokens: int,
             no_repeat_ngram_size: int) -> list[tuple[str, float]]:
    """Completed messages and their log-probabilities, best first: of the likeliest words a beam search each.

    Token sequences of one text are added up. The penalty's length counts the tokens behind the first word.
    """
    ends, found = suggestions.source.vocabulary.ends, {}
    for chip in suggestions.chips(text, max(num_beams, MESSAGES)):
        begun = begin(suggestions, text, chip)
        for beam in beam_search(begun.model, begun.ids, num_beams, ends, max_new_tokens, cache=begun.cache,
                                no_repeat_ngram_size=no_repeat_ngram_size):
            message = whole(suggestions, begun, beam.ids)
            if message is not None:
                log_prob, length = found.get(message, (-math.inf, len(beam.ids)))
                found[message] = float(np.logaddexp(log_prob, begun.log_prob + beam.log_prob)), length
    ranked = sorted(found, key=lambda message: -found[message][0] / found[message][1] ** length_penalty)
    return [(message, found[message][0]) for message in ranked[:MESSAGES]]


def by_tokens(suggestions: Suggestions, text: str, max_new_tokens: int, no_repeat_ngram_size: int, seed: int | None,
              temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> list[tuple[str, float]]:  # fmt: skip
    """Completed messages and their log-probabilities, best first, each written token by token behind a word.

    The word is chosen as the tokens are, among DRAWN; where nothing is drawn, at temperature 0, it is each in its turn.
    """
    ends, found = suggestions.source.vocabulary.ends, {}
    strategy = partial(choose, temperature=temperature, top_k=top_k, top_p=top_p)
    chips = suggestions.chips(text, DRAWN)
    log_probs = torch.tensor([[math.log(chip.prob) for chip in chips]])
    for attempt in range(TRIES if temperature and chips else len(chips)):
        generator = torch.Generator()
        generator.seed() if seed is None else generator.manual_seed((seed + attempt) % 2**63)
        place = int(strategy(log_probs, [generator])) if temperature else attempt
        begun = begin(suggestions, text, chips[place])
        events = decode(begun.model, begun.ids, strategy, {"generators": [generator]}, ends, max_new_tokens, cache=begun.cache,
                        no_repeat_ngram_size=no_repeat_ngram_size)
        _, tokens, of_tokens = zip(*events, strict=True)
        message = whole(suggestions, begun, list(tokens))
        if message is not None:
            found.setdefault(message, begun.log_prob + sum(of_tokens))
        if len(found) == MESSAGES:
            break
    return sorted(found.items(), key=lambda item: -item[1])


# ------------------------------------------------------------------------------------------------ texts and what is printed


def check(suggestions: Suggestions, text: str) -> None:
    """Raises InputError, in one line that says why, for a text that nothing completes."""
    if not text.strip():
        raise InputError("the text is empty: there is nothing to complete")
    check_unicode("text", text)
    place = suggestions.place(text)
    if place is None:
        letters = "" if suggestions.keep_case else "words of Latin letters and digits alone, and "
        raise InputError(f"cannot complete {shorten(text)!r}: the model has learned {letters}no mentions or links")
    if not suggestions.chips(text) and not suggestions.threshold:
        raise InputError(f"no word is suggested that begins with {shorten(place[2])!r}: if it is whole, put a blank behind it")


def completed(suggestions: Suggestions, text: str, complete: Callable[[str], list[tuple[str, float]]], words: bool,
              as_json: bool) -> list[str]:
    """The lines to print for a text: its completed messages, its next words, or both as JSON; raises InputError as `check`."""
    check(suggestions, text)
    if words:
        return [chip.word for chip in suggestions.chips(text)]
    messages = complete(text)
    if not as_json:
        return [message for message, _ in messages]
    content = {"text": text,
               "completions": [{"text": message, "probability": short(math.exp(log_prob))} for message, log_prob in messages],
               "words": [{"word": chip.word, "probability": short(chip.prob)} for chip in suggestions.chips(text)]}  # fmt: skip
    return [json.dumps(content, ensure_ascii=False)]


def short(prob: float) -> float:
    """A probability with six digits that mean something."""
    return float(f"{prob:.6g}")


def print_lines(lines: list[str]) -> None:
    for line in lines:
        print(visible(line))


def complete_lines(lines_for: Callable[[str], list[str]], blank_between: bool) -> bool:
    """Print the lines for each text of a pipe, or report why there are none; returns whether all texts could be completed.

    Raises InputError for an empty pipe.
    """
    count, printed, failed = 0, False, False
    for count, text in enumerate(piped_lines(), 1):
        try:
            lines = lines_for(text.rstrip("\r\n"))
        except InputError as error:
            report(f"error: line {count}: {error}")
            failed = True
            continue
        if printed and blank_between:
            print()
        print_lines(lines)
        printed = True
    if not count:
        raise InputError("there is nothing to complete: the input is empty")
    return not failed


# ------------------------------------------------------------------------------------------------ the command


def open_suggestions(loaded: Loaded, keep_case: bool | None, allow_profanity: bool, threshold: float) -> Suggestions:
    """Suggestions by a model. Raises InputError for one whose tokenizer has no words."""
    next_words = NextWords(loaded.model, loaded.tokenizer, *ends_of(loaded.tokenizer),
                           partial(growing_cache, loaded.model.config), ahead=REST)
    if not next_words.vocabulary.begins:
        raise InputError(f"{loaded.identity['name']} has no tokens that begin a word with a blank: its tokenizer is of single "
                         "characters, or of whole words; use a model whose tokenizer is byte-level BPE")
    return Suggestions(next_words, keep_case, (lambda word: False) if allow_profanity else is_profane, threshold)


def place_of(model: str) -> str:
    """What `load_model` takes for --model. Raises InputError where the folder that is to come with the project is missing."""
    if model != MODEL:
        return model
    if not (ROOT / MODEL).is_dir():
        raise InputError(f"the folder {MODEL}/ is missing: train a model with `python train_autocomplete.py`, and name its "
                         "folder by --model")
    return str(ROOT / MODEL)


def suggesting_line(suggestions: Suggestions) -> SuggestingLine:
    """The line at a terminal, with its suggestions."""
    return SuggestingLine(lambda text: [(chip.word, chip.completion) for chip in suggestions.chips(text)], suggestions.rest)


def sent(line: SuggestingLine) -> Iterator[str]:
    """The messages that a person types and sends, until they leave."""
    for message in line.lines():
        if message.strip() == "quit":
            return
        if message.strip():
            yield message


def welcome(loaded: Loaded, allow_profanity: bool) -> str:
    """What stands above the first line."""
    profanity = "is suggested, too" if allow_profanity else "is kept out of what is suggested (--allow-profanity)"
    return (f"{loaded.identity['name']}, {loaded.identity['parameters']:,} parameters. Profanity {profanity}.\n"
            f"Tab or → takes the grey text, 1 2 3 a word (Ctrl-Q 1 is a digit), Enter sends; quit or Ctrl-D ends.")


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add_model_flags(parser, MODEL)
    parser.add_argument("--threshold", type=number(SHARE), metavar="P",
                        help="suggest nothing where the likeliest word is less likely "
                             f"(default: {THRESHOLD} at the terminal, otherwise 0)")
    parser.add_argument("--allow-profanity", action="store_true", help="suggest the words of data/profanity.txt, too")
    texts = parser.add_argument_group("texts of the command line and of a pipe")
    texts.add_argument("--once", metavar="TEXT", help="complete this and end")
    form = texts.add_mutually_exclusive_group()
    form.add_argument("--words", action="store_true", help=f"print {CHIPS} next words, one a line")
    form.add_argument("--json", action="store_true",
                      help='print one object a line: {"text", "completions": [{"text", "probability"}], "words": [{"word", '
                           '"probability"}]}; probabilities are given what was typed')
    texts.add_argument("--strategy", choices=STRATEGIES,
                       help="how the messages are written: a word first, then token by token behind it (default: beam)")
    for name, default in DEFAULTS.items():
        texts.add_argument(flag(name), type=number(RULES[name]), default=default, metavar="N",
                           help={"seed": "the same seed gives the same messages (default: a new one each time)",
                                 "max_new_tokens": "tokens behind the first word (default: %(default)s)",
                                 "length_penalty": "0 ranks by probability (default: %(default)s)"}.get(
                                     name, "(default: %(default)s)"))
    return parser.parse_args()


def main() -> None:
    """Complete the text of --once, the lines of a pipe, or what a person types. Exit code 2 if a line could not be."""
    with one_line_errors():
        args = parse_arguments()
        at_terminal = args.once is None and sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
        if at_terminal and (args.words or args.json or args.strategy):
            raise InputError("--words, --json and --strategy are for --once and a pipe: at the terminal three words are shown, "
                             "and the likeliest rest")
        if args.once is not None and not args.once.strip():
            raise InputError("--once: the text is empty")
        model, strategy = place_of(args.model), args.strategy or "beam"
        loaded = load_model(model, args.device, args.dtype, args.engine, args.adapter)
        threshold = args.threshold if args.threshold is not None else THRESHOLD if at_terminal else 0.0
        keep_case = learned_case([*([args.adapter] if args.adapter else []), find_model(model)])
        suggestions = open_suggestions(loaded, keep_case, args.allow_profanity, threshold)
        if at_terminal:
            print(wrapped(welcome(loaded, args.allow_profanity), sys.stdout))
            for message in sent(suggesting_line(suggestions)):
                print_lines([message])
            return
        settings = {name: getattr(args, name) for name in (*STRATEGIES[strategy], "max_new_tokens", "no_repeat_ngram_size")}
        if strategy == "beam":
            complete = partial(by_beams, suggestions, **settings)
        else:
            settings |= {"seed": args.seed, **({"temperature": 0.0} if strategy == "greedy" else {})}
            complete = partial(by_tokens, suggestions, **settings)
        lines_for = partial(completed, suggestions, complete=complete, words=args.words, as_json=args.json)
        if args.once is not None:
            print_lines(lines_for(args.once))
        elif not complete_lines(lines_for, not args.json):
            sys.exit(FAILED)


if __name__ == "__main__":
    main()
