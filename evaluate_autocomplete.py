"""Compare models that complete short messages: bits per character, next words, keystrokes saved, rests, ROUGE, time, size.

    python evaluate_autocomplete.py --text tweets.csv --models lstm=runs/lstm generator=runs/generator
    python evaluate_autocomplete.py --text tweets.csv --models smollm2=smollm2 tuned=runs/tuned    # adds these two rows
    python evaluate_autocomplete.py --text tweets.csv --test others.csv --models lstm=runs/lstm    # judged on other messages

--text is what the models were trained on: they are judged on its test part, and a constant answer and n-grams, learned from its
training part, stand beside them. Without it the built-in writer's sentences take its place. The messages are taken in the order
of their hashes, so the first 500 are the same for every model. Each row is kept in results/autocomplete/rows as it is measured,
so that an interrupted evaluation goes on, and a later one adds rows; evaluation.json and .md beside that hold the figures.
"""

from support.errors import InputError, one_line_errors

import argparse
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data.messages import (
    clean_messages,
    encode,
    ends_of,
    learn_tokenizer,
    learned_case,
    read_messages,
    split_messages,
    story_sentences,
)
from decoding.words import NextWords
from models.cache import growing_cache
from models.loading import load_model
from models.ngram import NGram, Recent, WordNGram
from models.places import find_model
from studies.completion import BEAMS, CAP, CHIPS, Rest, Words, example, key_seconds, rests, surprises, typed, write_rest
from studies.completion_figures import PAIRED, along, calibration, coverage, difference, figures
from studies.completion_table import table
from studies.row_file import RowFile, hash_of, read_rows
from support.adapter import adapter_base
from support.files import check_writable, write_text
from support.flags import COUNT, DTYPES, Parser, add_results_flag, number, some_name, some_path
from support.results import read_json, run_facts, write_json

from torch import nn

LARGE = 50_000_000  # parameters: such a model writes on fewer messages
TIMED = 20  # messages
ORDER, WORD_ORDER = 5, 4  # of the n-grams over tokens and over words
VOCABULARY = 8192  # tokens of the n-gram's tokenizer: as train_autocomplete.py learns it from the same messages
SENTENCES = 20_000  # of the built-in writer


class Row(NamedTuple):
    """One line of the comparison, ready to be measured. `model` and `next_words` are None where nothing has a probability."""

    identity: dict
    words: Words
    write: Callable[[str], Rest]
    parameters: int
    bytes: int
    model: nn.Module | None = None
    next_words: NextWords | None = None
    learning: list[tuple[int, float]] | None = None  # bits per character after so many messages, where the folder tells them


class Data(NamedTuple):
    """What is learned from and what is judged on; both cleaned."""

    train: list[str]
    test: list[str]  # by hash, the first of those in the file
    identity: str  # of all messages to judge on
    keep_case: bool


# ------------------------------------------------------------------------------------------------ rows


def constant(data: Data) -> Row:
    """The answer of one who knows nothing of the context: the most frequent words, always."""
    words = WordNGram(data.train, order=1)
    text = " ".join(word for word, _ in words.find(words.contexts([""]), [""], 7)[0])
    return Row(learned(data), words, lambda context: Rest(text, True, [text]), 0, 0)


def ngram(data: Data) -> Row:
    """Kneser-Ney over the tokens that train_autocomplete.py learns for bits and rests, over words for next words."""
    tokenizer = learn_tokenizer(data.train, VOCABULARY)
    bos_id, eos_id = ends_of(tokenizer)
    model = NGram(([bos_id, *ids, eos_id] for ids in encode(tokenizer, data.train)), len(tokenizer), ORDER)
    next_words, words = NextWords(model, tokenizer, bos_id, eos_id, Recent), WordNGram(data.train, WORD_ORDER)
    grams, size = map(sum, zip(model.counts.size(), words.counts.size(), strict=True))
    return Row(learned(data), words, partial(write_rest, model, next_words), grams, size, model, next_words)


def learned(data: Data) -> dict:
    """The identity of what is learned here: that of the messages."""
    return {"name": "learned from the training part", "revision": hash_of(data.train)}


def trained(name: str, adapter: Path | None, device: str, dtype: str) -> Row:
    """A model that was trained, by its name, folder or file, and the folder of its adapter."""
    loaded = load_model(name, device, dtype, adapter=adapter)
    new_cache = partial(growing_cache, loaded.model.config)
    next_words = NextWords(loaded.model, loaded.tokenizer, *ends_of(loaded.tokenizer), new_cache)
    places = [find_model(name), *([adapter] if adapter else [])]
    files = [path for place in places for path in (place.glob("*.safetensors") if place.is_dir() else [place])]
    return Row({**loaded.identity, "dtype": dtype}, next_words, partial(write_rest, loaded.model, next_words),
               loaded.identity["parameters"], sum(path.stat().st_size for path in files), loaded.model, next_words,
               learning_of(places[-1]))


def learning_of(folder: Path) -> list[tuple[int, float]] | None:
    """The bits per character of a training on its validation messages, as train_autocomplete.py left them in its folder."""
    if not all((folder / name).is_file() for name in ("meta.json", "metrics.jsonl")):
        return None
    settings = read_json(folder / "meta.json").get("settings", {})
    if settings.get("loss_on") != "all":  # its bits are those of the last quarter
        return None
    try:
        lines = map(json.loads, (folder / "metrics.jsonl").read_text("utf-8").splitlines())
        evaluations = [line for line in lines if "bits_per_character" in line]
        return [(line["step"] * settings["batch_size"], line["bits_per_character"]) for line in evaluations]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder / 'metrics.jsonl'} cannot be read: remove it, and its learning curve is left out") from error


def check_learned(name: str, places: list[Path], keep_case: bool) -> None:
    """Raises InputError for a row whose model learned from messages that were cleaned in another way.

    They would be split in another way too, and messages that it is judged on stand in its training part.
    """
    if learned_case(places) not in (None, keep_case):
        raise InputError(f"{name} was trained {'without' if keep_case else 'with'} --keep-case: judge it so, too")


# ------------------------------------------------------------------------------------------------ measuring


def measure(file: RowFile, row: Row, data: Data, num_typed: int, sample: str) -> None:
    """Everything that a row's file lacks."""
    content, at_once = file.content, 4 if is_large(row) else 32
    content |= {"parameters": row.parameters, "bytes": row.bytes, "learning": row.learning}
    if row.next_words:
        content["vocabulary"] = hash_of([f"{token} {text}" for text, token in row.next_words.tokenizer.get_vocab().items()])
        file.fill("surprises", data.test, partial(surprises, row.model, row.next_words), 8 * at_once)
    file.fill("typed", data.test[:num_typed], partial(typed, row.words), at_once)
    file.fill("rests", data.test[:num_typed], lambda messages: rests(row.write, messages, data.keep_case), at_once)
    if "key_seconds" not in content:
        content["key_seconds"] = sorted(seconds for message in data.test[:TIMED] for seconds in key_seconds(row.words, message))
    if content.get("example", {}).get("text") != sample:
        content["example"] = {"text": sample, "keys": example(row.words, sample)}
    file.save()


def is_large(row: Row) -> bool:
    return isinstance(row.words, NextWords) and row.parameters > LARGE


# ------------------------------------------------------------------------------------------------ the figures


def measured_rows(folder: Path, names: list[str], facts: dict, num_messages: int) -> dict[str, dict]:
    """The files of these rows, and then of all others that were measured to their end, with their first messages alone."""
    contents = read_rows(folder, names, facts, "example")
    for content in contents.values():
        content["columns"] = {column: records[:num_messages] for column, records in content["columns"].items()}
    return contents


def summary_of(content: dict, data: Data) -> dict:
    """A row's figures, of its records."""
    columns, seconds = content["columns"], content["key_seconds"]
    return {"model": content["model"], "parameters": content["parameters"], "bytes": content["bytes"],
            "vocabulary": content.get("vocabulary"), "messages": {name: len(records) for name, records in columns.items()},
            "figures": figures(data.test, columns), "calibration": calibration(columns), "coverage": coverage(columns),
            "along": along(data.test, columns) if "surprises" in columns else None, "example": content["example"],
            "learning": content["learning"],
            "key_ms": {f"p{share}": 1000 * seconds[round(share / 100 * (len(seconds) - 1))] for share in (50, 95)}}  # fmt: skip


def pairs_of(contents: dict[str, dict], data: Data) -> Iterator[dict]:
    """Every figure of PAIRED for every two rows, the later minus the earlier, on the messages that both were measured on."""
    names = list(contents)
    for i, one in enumerate(names):
        for other in names[:i]:
            for figure in PAIRED:
                found = difference(figure, data.test, contents[one]["columns"], contents[other]["columns"])
                if found:
                    yield {"figure": figure, "row": one, "minus": other, **found}


# ------------------------------------------------------------------------------------------------ the command


def read_data(text: Path | None, test: Path | None, keep_case: bool, limit: int | None) -> Data:
    """The messages, those to judge on by the hash of their text. Raises InputError where there are none."""
    raw = list(story_sentences(SENTENCES, seed=0)) if text is None else read_messages(text)
    messages = split_messages(raw, keep_case)
    judged = messages.test
    if test:
        learned = {message.casefold() for message in (*messages.train, *messages.validation)}
        judged = [message for message in clean_messages(read_messages(test), keep_case)[0] if message.casefold() not in learned]
        if not judged:
            raise InputError(f"{test} holds no message that is not in the training part of --text")
    judged = sorted(judged, key=lambda message: hashlib.sha256(message.encode()).digest())
    return Data(messages.train, judged[:limit], hash_of(judged), keep_case)


def named(text: str) -> tuple[str, tuple[str, Path | None]]:
    """An argparse type: NAME=MODEL, NAME=ADAPTER, or NAME=MODEL,ADAPTER -> the name, and what `load_model` takes."""
    name, _, place = text.partition("=")
    model, _, adapter = place.partition(",")
    if not re.fullmatch(r"[\w.-]+", name) or not model.strip():
        raise argparse.ArgumentTypeError(f"must be NAME=MODEL, as lstm=runs/lstm, not {text!r}")
    if name in ("constant", "n-gram"):
        raise argparse.ArgumentTypeError(f"{name} is taken: choose another name")
    if not adapter and (Path(model) / "adapter_config.json").is_file():
        model, adapter = adapter_base(Path(model)), model
    return name, (model, Path(adapter) if adapter else None)


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--models", type=named, nargs="+", default=[], metavar="NAME=MODEL",
                        help="a row and its model: a folder, an adapter's folder, a .gguf file, smollm2 or any name on the "
                             "Hugging Face hub; NAME=MODEL,FOLDER is a model with an adapter")
    parser.add_argument("--text", type=some_path, metavar="FILE",
                        help="what the models were trained on: Sentiment140's .csv or its .zip, or a message a line")
    parser.add_argument("--test", type=some_path, metavar="FILE",
                        help="judge on all messages of this file instead, less those in the training part of --text")
    parser.add_argument("--keep-case", action="store_true", help="as in train_autocomplete.py")
    parser.add_argument("--num-messages", type=number(COUNT), metavar="N", help="judge on this many messages only")
    parser.add_argument("--num-typed", type=number(COUNT), default=4000, metavar="N",
                        help="messages that are typed and completed (default: %(default)s)")
    parser.add_argument("--num-typed-large", type=number(COUNT), default=500, metavar="N",
                        help=f"the same for models of more than {LARGE // 10**6} million parameters (default: %(default)s)")
    parser.add_argument("--example", default="happy birthday i hope you have a great day", metavar="TEXT",
                        help="a message that is shown letter by letter (default: %(default)s)")
    parser.add_argument("--name", type=some_name, default="autocomplete", metavar="NAME",
                        help="the folder in --results: another for other messages (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: %(default)s)")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="(default: %(default)s)")
    add_results_flag(parser)
    return parser.parse_args()


def main() -> None:
    with one_line_errors():
        args = parse_arguments()
        folder = args.results / args.name
        check_writable(folder / "rows")
        for name, (model, adapter) in args.models:  # what does not fit is better known before the work
            check_learned(name, [*([adapter] if adapter else []), find_model(model)], args.keep_case)
        if len(dict(args.models)) < len(args.models):
            raise InputError("two rows have one name")
        data = read_data(args.text, args.test, args.keep_case, args.num_messages)
        rows = {"constant": partial(constant, data), "n-gram": partial(ngram, data)}
        rows |= {name: partial(trained, *model, args.device, args.dtype) for name, model in args.models}
        facts = {"messages": data.identity, "keep_case": data.keep_case, "chips": CHIPS, "beams": BEAMS, "cap": CAP}
        for name, opened in rows.items():
            row = opened()
            file = RowFile(folder / "rows" / f"{name}.json", {"row": name, "model": row.identity, **facts})
            file.content |= run_facts(args.device, args.dtype)
            measure(file, row, data, args.num_typed_large if is_large(row) else args.num_typed, args.example)
        contents = measured_rows(folder / "rows", list(rows), facts, len(data.test))
        summary = {**run_facts(args.device, args.dtype), **facts, "num_messages": len(data.test),
                   "num_words": sum(len(message.split()) for message in data.test),
                   "num_characters": sum(map(len, data.test)),
                   "rows": {name: summary_of(content, data) for name, content in contents.items()},
                   "pairs": list(pairs_of(contents, data))}  # fmt: skip
        write_json(folder / "evaluation.json", summary)
        write_text(folder / "evaluation.md", table(summary))
        print(table(summary))


if __name__ == "__main__":
    main()
