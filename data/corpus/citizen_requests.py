"""Requests as citizens type them: short, long, polite, angry, in a hurry, with slips; by templates, or written by hand."""

import random
import re
from functools import cache
from typing import NamedTuple

from data.corpus.citizen_topics import (
    Topic,
    agree,
    is_plural,
    particulars,
    random_words,
    read_blocks,
    read_category,
    titled,
    with_article,
)
from data.corpus.names import reserved
from data.corpus.stories import expand

KINDS = ("problem",) * 8 + ("wish",) * 4 + ("question",) * 5 + ("short",) * 2 + ("loose",) * 10 + ("free",) * 8
LENGTHS = {"short": 0, "loose": 0.5, "free": 0.5, "templates": 0.6}  # how much may stand around a core; others: 1
ASKING = re.compile(r"(?:how|what|where|when|who|whom|which|whose|is|are|can|may|do|does|must|could i|will|whats|hows)\b")
SENDER = re.compile(r"(?:regards|yours|sincerely|thanks|thank you|my name is|this is|signed|respectfully|name|i am|i'm)[,:.]? "
                    r"\{name\}|[.!?] ?\{name\}$", re.IGNORECASE)
SHORT_FORMS = {
    "you": "u", "are": "r", "please": "pls", "because": "bc", "for": "4", "thanks": "thx", "people": "ppl", "your": "ur",
    "before": "b4", "appointment": "appt", "minutes": "min", "weeks": "wks", "and": "n", "with": "w", "tomorrow": "tmrw",
    "what": "wat", "to": "2", "why": "y", "information": "info", "though": "tho", "about": "abt", "hours": "hrs", "be": "b",
    "message": "msg", "good": "gd", "right": "rite", "night": "nite", "the": "da", "have": "hv", "is": "iz", "really": "rly",
    "someone": "sb", "something": "smth", "again": "agn", "cannot": "cant", "not": "nt", "people's": "ppls",
}
FOREIGN = (  # what speakers of other languages write
    (r"\b(?:the|a|an) ", ""), (r"\bi am (\w+ing)\b", r"i \1"), (r"\bdoes not\b", "not"), (r"\bdo not\b", "not"),
    (r"\bthere (?:is|are) no\b", "not have"), (r"\bthere is\b", "is"), (r"\bhow do i\b", "how i can"),
    (r"\bi want to\b", "i want"), (r"\bhas been\b", "is"), (r"\bhave been\b", "be"), (r"\bwhen will\b", "when you will"),
    (r"\bfor (two|three) (\w+)s\b", r"\1 \2"), (r"\bnobody\b", "nobody not"), (r"\bplease\b", "please to"),
    (r"\bthey\b", "he"), (r"\bis\b", "it is"),
)
BESIDE = dict(zip("abcdeghiklmnoprstuwy", "svxfrhjolknmptaysieu", strict=False))  # the key beside a letter's


class Request(NamedTuple):
    """A request, and what a reply can take up of it."""

    text: str
    category: str
    topic: Topic | None  # None: of its category nothing more is known
    thing: str
    question: bool
    slots: dict[str, str]  # the street, date and sender that occur in it


# ---------------------------------------------------------------------------------------------------------- the core


def template_request(rng: random.Random, category: str, held_out: bool) -> Request:
    """A request by the tables, with streets, dates and names that are all reserved (`held_out`), or none of them."""
    slots = particulars(rng, held_out) | random_words(rng)
    topic, thing, kind, core = none_core(rng, slots) if category == "none" else city_core(rng, category, slots)
    text, signed = in_a_letter(rng, core, slots, LENGTHS.get(kind, 1))
    found = {key: slots[key] for key in ("street", "date") if slots[key] in text}
    found |= {"name": slots["name"]} if signed else {}
    asks, text = kind == "question" or core.startswith("how"), noisy(rng, text, slots)
    return Request(text, category, topic, thing.lstrip("~"), asks, legible(found, text))


def legible(slots: dict[str, str], text: str) -> dict[str, str]:
    """The street, date and sender that a text still spells right, whatever its capitals: no reply can name another."""
    return {key: value for key, value in slots.items() if value.lower() in text.lower()}


def city_core(rng: random.Random, category: str, slots: dict[str, str]) -> tuple[Topic | None, str, str, str]:
    """(topic, thing, kind, core) of a request to one of the offices: what a reply can name, and the core itself."""
    topic, kind = rng.choice(weighted_topics(category)), rng.choice(KINDS)
    thing = rng.choice(topic.things).replace("{number}", slots["number"])
    slots |= topic_slots(rng, topic, thing) | loose_slots(rng, category)
    core = expand(rng.choice(read_blocks("frames")[kind]), slots, rng).strip()
    if thing.lstrip("~").lower() in core.lower():
        return topic, thing, kind, core
    if kind in ("loose", "free", "short"):
        return *thing_in(category, core), kind, core
    return topic, topic.other, kind, core


def none_core(rng: random.Random, slots: dict[str, str]) -> tuple[None, str, str, str]:
    """The same for a request about something else."""
    kind = rng.choice(("templates", "templates", "loose", "free"))
    if kind == "templates":
        return None, "", kind, numbered(rng, rng.choice(read_category("none").requests), slots)
    slots |= loose_slots(rng, "none") | {"problem": "{free}", "since": "", "place": ""}
    return None, "", kind, expand(rng.choice(read_blocks("frames")[kind]), slots, rng).strip()


@cache
def weighted_topics(category: str) -> list[Topic]:
    """The category's topics, each as often as a root of its number of things: the small ones are everyday's commonest."""
    return [topic for topic in read_category(category).topics for _ in range(round(len(topic.things) ** 0.5))]


def topic_slots(rng: random.Random, topic: Topic, thing: str) -> dict[str, str]:
    """The slots of the frames that speak of a thing: it, two problems, a want, two questions, a place and a time."""
    table, plural = read_category(topic.category), is_plural(thing)
    problems, questions = (rng.sample(lines, min(2, len(lines))) for lines in (topic.problems, topic.questions))
    place, since = rng.choice(table.places), rng.choice(read_blocks("frames")["since"])
    return {"thing": thing.lstrip("~"), "a_thing": with_article(thing), "whole": rng.choice(table.whole),
            "problem": agree(problems[0], plural), "problem2": agree(problems[-1], plural),
            "question": agree(questions[0], plural), "question2": agree(questions[-1], plural),
            "want": agree(rng.choice(topic.wants), plural), "place": f" {place}" if place else "",
            "since": f" {since}" if since else ""}


def loose_slots(rng: random.Random, category: str) -> dict[str, str]:
    """The slots of the other frames: six words and two sentences of the category."""
    table = read_category(category)
    drawn = rng.sample(table.words, 6) + rng.sample(table.free, 2)
    return dict(zip(("w1", "w2", "w3", "w4", "w5", "w6", "free", "free2"), drawn, strict=True))


def numbered(rng: random.Random, line: str, slots: dict[str, str]) -> str:
    """The line with its slots filled, words that occur twice being drawn twice."""
    while "{number}" in line:
        line = line.replace("{number}", str(rng.choice((2, 3, 5, 7, 12, 17, 24, 40, 99, 144, 250, 1000))), 1)
    while "{" in line:
        line = expand(line.replace("{", "\0").replace("\0", "{", 1).replace("\0", "<"), slots, rng).replace("<", "{")
        slots = slots | random_words(rng)
    return line


def written_request(rng: random.Random, category: str, line: str, held_out: bool) -> Request:
    """A request written by hand with its slots filled, varied as those by templates are, in fewer ways."""
    topic, thing = thing_in(category, line)
    slots = {**particulars(rng, held_out), "thing": thing or "thing"}
    found = {"name": slots["name"]} if SENDER.search(line) else {}
    text = line
    for key, share in {"where": 0.2, "when": 0.1}.items():
        if rng.random() < share and "{" not in line and len(line) < 200:
            text += f" {titled(rng.choice(read_blocks('frames')[key]))}."
    found |= {key: slots[key] for key in ("street", "date") if f"{{{key}}}" in text}
    for key, value in slots.items():
        text = text.replace(f"{{{key}}}", value)
    draw = rng.random()
    if draw < 0.12:
        text = f"{rng.choice(read_blocks('frames')['greeting'])}, {text}"
    elif draw < 0.3:
        text = f"{text.rstrip()} {rng.choice(read_blocks('frames')['plea'])}"
    elif draw < 0.36:
        text = f"{text.rstrip()} {rng.choice(read_blocks('frames')['anger'])}"
    if rng.random() < 0.3:
        text = with_slips(rng, text, slots, rng.choice((0.04, 0.08)))
    if rng.random() < 0.15:
        text = text.lower()
    return Request(text, category, topic, thing, is_question(line), legible(found, text))


def is_question(line: str) -> bool:
    """Whether a line asks for information: it begins like a question, or ends as one."""
    return bool(ASKING.match(line.lower())) or (line.rstrip().endswith("?") and len(line) < 120)


@cache
def things_of(category: str) -> list[tuple[re.Pattern, Topic, str]]:
    """What to look for in a request, the longest things first."""
    found = [(thing.lstrip("~"), topic) for topic in read_category(category).topics for thing in topic.things]
    found.sort(key=lambda pair: -len(pair[0]))
    return [(re.compile(rf"\b{re.escape(thing)}s?\b", re.IGNORECASE), topic, thing) for thing, topic in found
            if "{" not in thing]


@cache
def thing_in(category: str, line: str) -> tuple[Topic | None, str]:
    """The longest thing of the category's tables that a line names, and its topic; (None, "") where it names none."""
    return next(((topic, thing) for pattern, topic, thing in things_of(category) if pattern.search(line)), (None, ""))


def is_held_out(line: str) -> bool:
    """Whether a hand-written line is kept out of training: about one in eight."""
    return reserved(line) or reserved(line[::-1]) and len(line) % 4 == 0


# ---------------------------------------------------------------------------------------------------------- its form


def in_a_letter(rng: random.Random, core: str, slots: dict[str, str], length: float) -> tuple[str, bool]:
    """The core with a greeting, a story, place and time, anger, a plea and a signature, each in a share of the letters; and
    whether it is signed."""
    frames, parts = read_blocks("frames"), [core]

    def drawn(block: str) -> str:
        return expand(rng.choice(frames[block]), slots, rng)

    if rng.random() < 0.16 * length:
        parts.insert(0, drawn("story"))
    if rng.random() < 0.16 * length:
        parts.append(drawn("story"))
    if rng.random() < 0.12 + 0.08 * length and slots["street"] not in core:
        parts.append(drawn("where"))
    if rng.random() < 0.04 + 0.1 * length and slots["date"] not in core:
        parts.append(drawn("when"))
    if rng.random() < 0.05 + 0.13 * length:
        parts.insert(rng.choice((0, len(parts))), drawn("anger"))
    if rng.random() < 0.05 + 0.2 * length:
        parts.append(drawn("plea"))
    signed = rng.random() < 0.02 + 0.08 * length
    text = " ".join(part if part[-1] in ".?!" else part + rng.choice(("", ".", ".", ".", "!", "...", ",")) for part in parts)
    text = text.rstrip(",")
    if rng.random() < 0.03 + 0.17 * length:
        text = f"{drawn('greeting')}{rng.choice((', ', ', ', '! ', ' ', '. '))}{text}"
    return (f"{text} {drawn('signature')}" if signed else text), signed


def noisy(rng: random.Random, text: str, slots: dict[str, str]) -> str:
    """The text as it is typed: neatly, or in one of several careless ways."""
    draw = rng.random()
    if draw > 0.88:
        text = foreign(rng, text)
    elif draw > 0.8:
        text = shortened(rng, text)
    if rng.random() < 0.35:
        text = with_slips(rng, text, slots, rng.choice((0.03, 0.06, 0.12)))
    draw = rng.random()
    if draw < 0.42:
        return titled(text)
    if draw < 0.46:
        return text.upper()
    if draw < 0.8:
        text = text.lower()
    if rng.random() < 0.5:
        text = re.sub(r"[.,!?']+(?= |$)|(?<=\w)'(?=\w)", "", text)
    return re.sub(r"!$", "!" * rng.randint(1, 4), text)


def foreign(rng: random.Random, text: str) -> str:
    """Some of the usual slips of those who learn English."""
    for pattern, other in FOREIGN:
        if rng.random() < 0.45:
            text = re.sub(pattern, other, text)
    return text


def shortened(rng: random.Random, text: str) -> str:
    """A share of the words as in a text message."""
    return " ".join(SHORT_FORMS.get(word, word) if rng.random() < 0.7 else word for word in text.split(" "))


def with_slips(rng: random.Random, text: str, slots: dict[str, str], share: float) -> str:
    """A share of the words mistyped; streets, dates and names stay, so that a reply can take them up."""
    kept = {word for key in ("street", "street2", "date", "name") for word in slots[key].split()}
    return " ".join(mistyped(rng, word) if len(word) > 3 and word.strip(".,!?") not in kept and rng.random() < share else word
                    for word in text.split(" "))


def mistyped(rng: random.Random, word: str) -> str:
    """The word with two letters swapped, one left out, one twice, or one from the key beside it."""
    at, kind = rng.randrange(1, len(word) - 1), rng.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[:at] + word[at] + word[at:]
    return word[:at] + BESIDE.get(word[at], word[at]) + word[at + 1 :]
