"""The replies of a training: which are taken, how they are kept for --resume, and the tokenizer learned on them.

Also the file of failures that reply.py logs, one JSON object a line, of which "request" and "asked" are read.
"""

from support.errors import InputError, first_line

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.replies import ATTRIBUTES, Reply
from data.tokenizer import make_tokenizer
from models.control import REPLY_TEMPLATE, REPLY_TOKENS
from support.files import write_text

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

REPEATS = 4  # times at most that a rare tone's reply stands in an epoch
NAME = re.compile(r"(?<=[a-zа-яё,] )[A-ZА-ЯЁ][\w'-]*")  # a capitalised word within a sentence


def chosen(replies: Sequence[Reply], count: int, seed: int) -> list[Reply]:
    """At most `count` replies, in an order drawn from the seed in which the tones take turns: so of few none is rare."""
    queues = defaultdict(list)
    for i in np.random.default_rng(seed).permutation(len(replies)):
        queues[replies[i].labels.get("tone")].append(replies[i])
    turns = itertools.zip_longest(*queues.values())
    return [reply for turn in turns for reply in turn if reply is not None][:count]


def weighted(replies: Sequence[Reply]) -> list[Reply]:
    """The replies, those of a rare tone several times: until it is half as frequent as the commonest, or REPEATS times."""
    counts = Counter(reply.labels.get("tone") for reply in replies)
    often = max(counts.values(), default=0)
    times = {tone: max(1, min(REPEATS, round(often / 2 / count))) for tone, count in counts.items()}
    return [reply for reply in replies for _ in range(times[reply.labels.get("tone")])]


def counted(replies: Iterable[Reply]) -> dict[str, dict[str, int]]:
    """How many replies there are of each part, and of each value of each attribute."""
    counts = defaultdict(Counter)
    for reply in replies:
        counts["part"][reply.part] += 1
        for attribute in ATTRIBUTES:
            if attribute in reply.labels:
                counts[attribute][reply.labels[attribute]] += 1
    return {name: dict(sorted(found.items())) for name, found in counts.items()}


def write_rows(path: Path, learned: Sequence[Reply], held_out: Sequence[Reply]) -> None:
    """Keep the replies to learn from and those to validate on, in their order. Raises InputError where that fails."""
    rows = [reply._asdict() | {"part": part} for part, replies in (("train", learned), ("validation", held_out))
            for reply in replies]  # fmt: skip
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: Path) -> tuple[list[Reply], list[Reply]]:
    """What `write_rows` kept. Raises InputError where it is gone or damaged."""
    try:
        rows = [Reply(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read: {first_line(error)}") from error
    return tuple([row for row in rows if row.part == part] for part in ("train", "validation"))


def read_failures(path: Path) -> list[tuple[str, dict[str, str]]]:
    """The requests that reply.py logged as missed, each with the labels that were asked for, once.

    Raises InputError, which names the line, for a file that is missing, empty or something else.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}: `python reply.py … --on-mismatch log --log {path}` writes it")
    found = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = json.loads(line)
            asked = {str(name): str(value) for name, value in row["asked"].items()}
            found[json.dumps([row["request"], sorted(asked.items())])] = str(row["request"]), asked
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f'{path}: line {number} is no failure as reply.py logs it, with "request" and "asked"') from error
    if not found:
        raise InputError(f"{path} holds no failures: there is nothing to learn")
    return list(found.values())


def learn_tokenizer(replies: Sequence[Reply], vocab_size: int) -> "PreTrainedTokenizerFast":
    """Byte-level BPE learned on requests and replies, with the tokens that stand around them.

    Names are left out: a name that is one token could not be copied from a request where no reply has shown it.
    """
    from transformers import PreTrainedTokenizerFast

    texts = (NAME.sub("", text) for reply in replies for text in (reply.request, reply.reply))
    backend = make_tokenizer("bpe", texts, vocab_size - len(REPLY_TOKENS))
    backend.add_special_tokens(list(REPLY_TOKENS))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=REPLY_TOKENS[-1], chat_template=REPLY_TEMPLATE,
                                   clean_up_tokenization_spaces=False)
