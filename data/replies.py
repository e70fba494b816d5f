"""Replies to citizens and customers with known labels: the built-in letters, and the files that people have.

    request | reply | {"tone": "firm", "category": "roads", "decision": "negative"} | part

Generator and heads learn from the part "train", the judges from "judge": who guides does not judge. A request stands in one
part only, by the hash of its letters. A tone that a file does not state is read off the reply's opening by a rule.
"""

from support.errors import InputError, first_line

import csv
import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from data.corpus.citizen_topics import CATEGORIES, DECISIONS, TONES
from data.corpus.citizens import drawn_request, safe_letter, write_letter

ATTRIBUTES = ("tone", "category", "decision")
ANY = "any"
PARTS = ("train", "judge", "validation", "test")
CITIZEN_VALUES = {"tone": TONES, "category": CATEGORIES, "decision": DECISIONS}
HELD_OUT_SHARE = 0.2  # of the built-in letters
COLUMNS = {  # of a file of requests and replies: what they can be called
    "request": ("request", "instruction"), "reply": ("reply", "response"), "tone": ("tone",), "category": ("category",),
    "decision": ("decision",), "intent": ("intent",), "default": ("default", "default_reply"), "split": ("split", "part"),
}
NEEDED = "request (or instruction) and reply (or response), or formal and informal; tone, category, decision, intent, " \
    "default_reply and split are read where they stand"
SPLITS = {"valid": "validation", "validation": "validation", "dev": "validation", "test": "test", "judge": "judge"}
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
SORRY = re.compile(r"sorry|apolog|regret")
OPENS_CHEERFULLY = re.compile(r"\W*(certainly|absolutely|of course|sure|definitely|great|no worries|no problem|congratulations|"
                              r"not a problem|wonderful|fantastic|awesome|excellent|absolutely)\b")
TONE_WORDS = {
    "cheerful": re.compile(r"\b(glad|happy|pleased|delighted|excit|thrilled|great to hear)"),
    "grateful": re.compile(r"\bthank|appreciat|we value"),
    "understanding": re.compile(r"underst[ao]|comprehend|empathi|acknowledge|recogni"
                                r"|\baware|concern|worr|\bi see\b|\bi hear you\b"),
}


class Reply(NamedTuple):
    """A request with its reply, and what is known of them."""

    request: str
    reply: str
    labels: dict[str, str]  # attribute -> value, only attributes that the set has
    part: str  # one of PARTS
    intent: str = ""  # replies of one intent are references of one another; "" where unknown
    default: str = ""  # the set's own safe reply of the intent, where it has one


# ---------------------------------------------------------------------------------------------------------- built in


def citizen_replies(num: int, seed: int = 0) -> list[Reply]:
    """`num` built-in letters of all parts, the same for the same seed. Streets, dates, names and hand-written requests of
    validation and test never occur in the other parts."""
    rng = random.Random(f"citizens {seed}")
    return [citizen_reply(rng, held_out=rng.random() < HELD_OUT_SHARE) for _ in range(num)]


def citizen_reply(rng: random.Random, held_out: bool) -> Reply:
    """A built-in letter of validation or test (`held_out`), or of train or judge."""
    while True:
        request = drawn_request(rng, held_out)
        part = part_of(request.text)
        if (part in ("validation", "test")) == held_out:
            break
    letter = write_letter(rng, request)
    labels = {"tone": letter.tone, "category": request.category, "decision": letter.decision}
    about = f"{request.category} {request.topic.other.lstrip('~')}" if request.topic else request.category
    intent = f"{about}, {'a question' if request.question else 'a request'}"
    return Reply(request.text, letter.reply, labels, part, intent, safe_letter(letter.tone, request.category))


def request_category_examples(num: int, seed: int = 0) -> list[tuple[str, str]]:
    """`num` built-in requests of the part "train" with their categories, without replies: more to read for who learns only to
    tell what a request is about."""
    rng = random.Random(f"requests {seed}")
    requests = (drawn_request(rng, held_out=False) for _ in iter(int, 1))
    train = ((request.text, request.category) for request in requests if part_of(request.text) == "train")
    return list(islice(train, num))


def part_of(request: str) -> str:
    """The part of a request, by the hash of its letters: 40 % train, 40 % judge, 10 % validation, 10 % test."""
    letters_alone = re.sub(r"[\W\d_]+", "", request.casefold()) or request
    number = int.from_bytes(hashlib.sha256(letters_alone.encode()).digest()[:4], "big") % 10
    return PARTS[0 if number < 4 else 1 if number < 8 else number - 6]


def values_of(replies: Iterable[Reply]) -> dict[str, tuple[str, ...]]:
    """The values of each attribute that occurs, sorted; those of the built-in letters in their own order."""
    found = {attribute: {reply.labels[attribute] for reply in replies if attribute in reply.labels} for attribute in ATTRIBUTES}
    return {attribute: CITIZEN_VALUES[attribute] if values <= set(CITIZEN_VALUES[attribute]) else tuple(sorted(values))
            for attribute, values in found.items() if values}


def safe_reply(labels: dict[str, str], replies: Sequence[Reply] | None = None) -> str:
    """A safe answer of that tone and category: a built-in one, or where `replies` are given the commonest of their own.

    Labels that are missing or "any" are free. Raises InputError where the set has none for these labels.
    """
    wanted = {attribute: value for attribute, value in labels.items() if value != ANY and attribute != "decision"}
    if replies is None:
        check_labels(wanted, CITIZEN_VALUES)
        return safe_letter(wanted.get("tone", TONES[0]), wanted.get("category", "none"))
    check_labels(wanted, values_of(replies))
    category = wanted.get("category", ANY)
    defaults = Counter(reply.default for reply in replies if reply.default and category in (ANY, reply.labels.get("category")))
    if not defaults:
        raise InputError(f"these replies hold no safe one{f' of {category}' if category != ANY else ''}: the column "
                         "default_reply is missing or empty")
    return max(defaults, key=lambda text: (tone_by_rule(text) == wanted.get("tone"), defaults[text]))


def check_labels(labels: dict[str, str], values: dict[str, tuple[str, ...]]) -> None:
    """Raise InputError, which lists what there is, for an attribute or a value that is unknown."""
    for attribute, value in labels.items():
        if attribute not in values:
            raise InputError(f"there is no attribute {attribute!r}; there are {', '.join(values)}")
        if value not in values[attribute]:
            raise InputError(f"there is no {attribute} {value!r}; there are {', '.join(values[attribute])}")


# ---------------------------------------------------------------------------------------------------------- from files


def read_replies(path: Path) -> list[Reply]:
    """The replies of a CSV in UTF-8: with requests and replies (COLUMNS), or with formal and informal sentences.

    Raises InputError for a file that is missing, empty, damaged, or without these columns.
    """
    if not path.is_file():
        raise InputError(f"{path} is a folder: name a file in it" if path.is_dir() else f"there is no file {path}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            found = [name.strip().lower() for name in reader.fieldnames or ()]
            reader.fieldnames = found
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a CSV in UTF-8: {first_line(error)}") from error
    columns = {key: next((name for name in names if name in found), "") for key, names in COLUMNS.items()}
    if {"formal", "informal"} <= set(found):
        replies = [reply for row in rows for reply in formality_pair(row)]
    elif columns["request"] and columns["reply"]:
        replies = [reply_of(row, columns) for row in rows if (row[columns["reply"]] or "").strip()]
    else:
        raise InputError(f"{path} needs the columns {NEEDED}; it has {', '.join(found) or 'none'}")
    if not replies:
        raise InputError(f"{path} holds no replies")
    return replies


def reply_of(row: dict[str, str], columns: dict[str, str]) -> Reply:
    """A row of requests and replies. A tone that is not stated is read by the rule; a stated split is kept, its training rows
    being halved into "train" and "judge" by the hash of the request."""
    cells = {key: (row.get(name) or "").strip() if name else "" for key, name in columns.items()}
    labels = {"tone": cells["tone"] or tone_by_rule(cells["reply"])}
    labels |= {key: cells[key] for key in ("category", "decision") if cells[key]}
    part = part_of(cells["request"])
    if cells["split"]:
        part = SPLITS.get(cells["split"].lower()) or half_of(cells["request"])
    return Reply(cells["request"], cells["reply"], labels, part, cells["intent"], cells["default"])


def half_of(request: str) -> str:
    """"train" or "judge", by the hash of the request's letters."""
    return PARTS[hashlib.sha256(re.sub(r"[\W\d_]+", "", request.casefold()).encode()).digest()[4] % 2]


def formality_pair(row: dict[str, str]) -> list[Reply]:
    """A sentence in both forms, in one part; they answer no request."""
    part = part_of(row.get("english") or row["informal"])
    return [Reply("", row[form].strip(), {"tone": form}, part, row.get("id") or "")
            for form in ("formal", "informal") if row[form]]


def tone_by_rule(reply: str) -> str:
    """The tone of a customer service's reply by its opening: its first sentence, or two where the first has at most four words.

    "apologetic" where it says sorry; else "cheerful", "grateful" or "understanding" by the earliest of their words; else
    "neutral". Source: the rule stated with the set of replies that this project was tried on.
    """
    sentences = SENTENCE_END.split(reply.strip().lower(), maxsplit=2)
    opening = " ".join(sentences[: 2 if len(sentences[0].split()) <= 4 else 1])
    if SORRY.search(opening):
        return "apologetic"
    if OPENS_CHEERFULLY.match(opening):
        return "cheerful"
    found = {tone: match.start() for tone, pattern in TONE_WORDS.items() if (match := pattern.search(opening))}
    return min(found, key=found.get) if found else "neutral"
