"""How much a model that completes messages remembers of those that it learned from.

    python -m studies.remembered --model checkpoint_lstm --text tweets.csv

It reads the first three quarters of a message and writes on greedily. Counted is how often the last quarter comes word for
word: for messages of the training part that stand in the file only once, beside messages of the test part, which it never saw.
What it gets right there it knows of the language; only what it gets right more often of its own messages it remembers.
Writes results/autocomplete/remembered.json.
"""

from support.errors import InputError, one_line_errors

import hashlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from data.messages import MAX_CHARACTERS, MIN_WORDS, clean_string, ends_of, part_of, read_messages, split_x_target_by_words
from decoding.words import NextWords
from models.cache import growing_cache
from models.loading import load_model
from studies.completion import CAP, text_of, write_greedily
from support.files import check_writable
from support.flags import COUNT, Parser, add_results_flag, number, some_name, some_path, some_text
from support.results import run_facts, write_json

from torch import nn
from tqdm import tqdm

LONG = 3  # words of a last quarter: all longer ones are counted together


def unique_messages(path: Path, keep_case: bool, count: int) -> dict[str, list[str]]:
    """Up to `count` messages of the training and the test part that stand in a file once, by the hash of their text.

    Raises InputError where there are none.
    """
    cleaned = [clean_string(text, keep_case) for text in read_messages(path)]
    times = Counter(map(str.casefold, cleaned))  # training takes them for one, whatever their case
    once = [message for message in cleaned
            if times[message.casefold()] == 1 and len(message.split()) >= MIN_WORDS and len(message) <= MAX_CHARACTERS]
    once.sort(key=lambda message: hashlib.sha256(message.encode()).digest())
    parts = {part: [message for message in once if part_of(message) == part][:count] for part in ("train", "test")}
    for part, messages in parts.items():
        if not messages:
            raise InputError(f"{path} holds no message of {MIN_WORDS} words for {part}: take more")
    return parts


def write(model: nn.Module, next_words: NextWords, context: str) -> str:
    """What the model writes behind a context greedily."""
    return text_of(next_words, write_greedily(model, next_words, context))


def reproduced(write: Callable[[str], str], messages: list[str]) -> dict[str, dict[str, int]]:
    """By the number of words in the last quarter, "1", "2", "3": {"messages", "exact"}, exact where the text begins with it."""
    counts = {str(words): {"messages": 0, "exact": 0} for words in range(1, LONG + 1)}
    for message in tqdm(messages, unit="message", disable=None):
        context, rest = split_x_target_by_words(message)
        wanted = rest.split()
        count = counts[str(min(LONG, len(wanted)))]
        count["messages"] += 1
        count["exact"] += write(context).split()[:len(wanted)] == wanted
    return counts


def main() -> None:
    with one_line_errors():
        parser = Parser(__doc__)
        parser.add_argument("--model", type=some_text, required=True, metavar="NAME", help="a folder, a .gguf file, a name")
        parser.add_argument("--text", type=some_path, required=True, metavar="FILE", help="what it was trained on")
        parser.add_argument("--keep-case", action="store_true", help="as in train_autocomplete.py")
        parser.add_argument("--num-messages", type=number(COUNT), default=3000, help="of each part (default: %(default)s)")
        parser.add_argument("--name", type=some_name, default="autocomplete", metavar="NAME",
                            help="the folder in --results (default: %(default)s)")
        add_results_flag(parser)
        args = parser.parse_args()
        check_writable(args.results / args.name)
        parts = unique_messages(args.text, args.keep_case, args.num_messages)
        loaded = load_model(args.model)
        next_words = NextWords(loaded.model, loaded.tokenizer, *ends_of(loaded.tokenizer),
                               partial(growing_cache, loaded.model.config))  # fmt: skip
        counts = {part: reproduced(partial(write, loaded.model, next_words), messages) for part, messages in parts.items()}
        write_json(args.results / args.name / "remembered.json",
                   {"model": loaded.identity, **run_facts("cpu", "float32"), "cap": CAP, "parts": counts})
        print("last quarter reproduced word for word, by its number of words (the last: and more)")
        for part, count in counts.items():
            print(f"{part}: " + ", ".join(f"{words}: {one['exact']} of {one['messages']}" for words, one in count.items()))


if __name__ == "__main__":
    main()
