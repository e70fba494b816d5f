"""Letters: a citizen's request, and the city's reply in one of four tones, written without end by a seeded generator.

The phrasings of a tone stand in `city/<tone>.txt`, one block for each sentence of a reply: opening, what the request names,
decision, what the citizen can do, closing. Every block has the tone, so it shows throughout. A reply takes up the thing, the
street, the date and the sender that its request names, and states nothing that is not in the request or in the tables.
"""

import random
from functools import cache
from typing import NamedTuple

from data.corpus.citizen_requests import Request, is_held_out, template_request, written_request
from data.corpus.citizen_topics import (
    AREAS,
    CATEGORIES,
    DECISIONS,
    TONES,
    hand_written,
    is_plural,
    listed,
    plural_verb,
    read_blocks,
    read_category,
    titled,
    with_article,
)
from data.corpus.stories import expand

HAND_SHARE = 0.45  # of the requests are written by hand, where there are such
NONE_SHARE = 0.16  # of the requests are about none of the categories
DECISION_WEIGHTS = {False: (0.4, 0.25, 0.35), True: (0.25, 0.15, 0.6)}  # of DECISIONS; True: for a question
WORDS = range(40, 91)  # in a reply
ACT = ("look into the matter", "examine the case", "check what you describe", "take up the matter", "work on the matter")
ADVICE = ("describe the matter in a few words", "name the place and the date", "send a short description in writing",
          "come to the counter of the {office} during opening hours", "keep a copy of your letter")


class Letter(NamedTuple):
    """A request and a reply with its labels."""

    request: Request
    reply: str
    tone: str
    decision: str


def drawn_request(rng: random.Random, held_out: bool) -> Request:
    """A request by hand or by templates, of each category alike, apart from "none". Its streets, dates, names and hand-written
    line are all held out, or none of them."""
    category = "none" if rng.random() < NONE_SHARE else rng.choice(CATEGORIES[:-1])
    lines = usable_lines(category, held_out)
    if lines and rng.random() < HAND_SHARE:
        return written_request(rng, category, rng.choice(lines), held_out)
    return template_request(rng, category, held_out)


@cache
def usable_lines(category: str, held_out: bool) -> list[str]:
    """The hand-written requests of a category that are held out, or that are not."""
    return [line for line in hand_written(category) if is_held_out(line) == held_out]


def write_letter(rng: random.Random, request: Request) -> Letter:
    """The request with a reply in any tone. Nothing is decided where no office is competent: that is a negative answer."""
    tone = rng.choice(TONES)
    decision = "negative" if request.category == "none" else rng.choices(DECISIONS, DECISION_WEIGHTS[request.question])[0]
    while len((reply := write_reply(rng, request, tone, decision)).split()) not in WORDS:
        pass
    return Letter(request, reply, tone, decision)


def write_reply(rng: random.Random, request: Request, tone: str, decision: str) -> str:
    """One reply, of any length."""
    slots = reply_slots(rng, request)
    lines = (rng.choice(read_blocks(tone)[block]) for block in reply_blocks(rng, request, decision))
    return titled(" ".join(expand(line, slots, rng) for line in lines))


def reply_blocks(rng: random.Random, request: Request, decision: str) -> list[str]:
    """The blocks of a tone's table that a reply is made of."""
    blocks = ["address"] if "name" in request.slots else []
    if request.category == "none":
        return [*blocks, "opening_none", "none_scope", "none_hint", *["none_closing"] * (rng.random() < 0.7)]
    blocks.append("opening_question" if request.question else "opening_request")
    blocks += [block for block in ("street", "date") if block in request.slots and rng.random() < 0.75]
    blocks.append(f"question_{decision}" if request.question else decision)
    return [*blocks, *["advice"] * (request.question or rng.random() < 0.75), *["closing"] * (rng.random() < 0.8)]


def reply_slots(rng: random.Random, request: Request) -> dict[str, str]:
    """What fills the phrasings of a tone: office, topic, act, advice, reason, detail, areas and the request's particulars."""
    table, found = read_category(request.category), request.slots
    slots = {**found, "office": rng.choice(table.office), "areas": areas(rng)}
    if request.category == "none":
        return slots
    topic, thing = request.topic, request.thing
    about = topic.about if topic else rng.choice(table.general)
    plural = is_plural(about.format(thing=thing))
    where = f" {table.where}" if topic and table.where and "street" in found and rng.random() < 0.8 else ""
    verbs = {verb: plural_verb(verb) if plural else verb for verb in ("is", "has", "was")}
    return slots | verbs | {
        "thing": thing, "a_thing": with_article(thing) if thing else "", "topic": about + where,
        "act": rng.choice(topic.act if topic else ACT), "advice": rng.choice(topic.advice if topic else ADVICE),
        "reason": rng.choice(topic and topic.reasons or table.reasons),
        "detail": rng.choice(topic and topic.details or table.details),
    }


def areas(rng: random.Random) -> str:
    """The eight things that the offices deal with, in any order: "roads, taxes and fees, ... and housing"."""
    return listed(rng.sample(list(AREAS.values()), len(AREAS)))


@cache
def safe_letter(tone: str, category: str) -> str:
    """The one safe reply of a tone and a category, which promises nothing."""
    table, none = read_category(category), category == "none"
    slots = {"office": table.office[0], "matter": "" if none else table.general[0], "areas": listed(AREAS.values())}
    return titled(expand(read_blocks(tone)["safe_none" if none else "safe"][0], slots, random.Random(0)))
