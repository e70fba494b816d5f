"""What citizens write about: the tables of `city/`, and the streets, dates and names of a letter.

`city/<category>.txt` begins with the category's office, its general phrases, its words, and sentences of its own (`free`).
Then its topics, separated by blank lines: `things`, what a reply takes where a request names none (`other`), how it calls one
(`about`), what is wrong (`problems`), wanted (`wants`) or asked (`questions`), what the office can do (`act`, after "will")
and the citizen (`advice`, after "please"), why it refuses (`reasons`) and what it needs to decide (`details`). Choices stand
between `|`, things and words between commas; a thing that cannot be counted begins with `~`. `{is}` and other verbs in braces
agree with the thing. To add a topic, add a block.

`city/<tone>.txt` and `city/frames.txt`: blocks of a name and its phrasings, one a line; `-` is none.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from data.corpus.names import name_word, reserved
from data.corpus.stories import article, capitalise

CATEGORIES = ("documents", "housing", "roads", "health", "taxes", "noise", "transport", "schools", "none")
TONES = ("official", "friendly", "apologetic", "firm")
DECISIONS = ("positive", "negative", "neutral")
AREAS = {  # how a reply names what an office does
    "documents": "[documents|passports and certificates|papers and registration]",
    "housing": "[housing|flats and heating|repairs of buildings]",
    "roads": "[roads|roads and street lights|streets and pavements]",
    "health": "[health|clinics and doctors|medical care]",
    "taxes": "[taxes|taxes and fees|tax bills]",
    "noise": "[noise|noise and quiet hours|noise at night]",
    "transport": "[transport|buses and trams|public transport]",
    "schools": "[schools|schools and kindergartens|kindergartens and schools]",
}
FOLDER = Path(__file__).parent
MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
STREETS = (
    "Church Station Mill Garden School Market Park Hill Lake Victory Chapel Orchard Bakery Linden Chestnut Poplar Birch "
    "Castle Museum Hospital Harbour Factory Forest Meadow Windmill Fountain Library Theatre Peace Sunny Long Short Upper "
    "Lower Bridge Canal Abbey Kings Queens Princess College Tower Brewery Shepherd Miller Potter Weaver Rose Violet Willow"
).split()
KINDS_OF_STREET = "Street Street Street Street Street Road Road Avenue Avenue Lane Square Drive Way Boulevard Close".split()
IRREGULAR = {"is": "are", "has": "have", "was": "were", "does": "do", "goes": "go"}
VERB = re.compile(r"\{([a-z]+s)\}")
PREPOSITION = re.compile(r" (?:of|for|at|in|near|to|with|on|by|from|left|lost|forgotten|under)\b")


class Topic(NamedTuple):
    """A block of a category: things that share their troubles and their answers."""

    category: str
    things: tuple[str, ...]
    other: str  # what stands for the thing where a request names none
    about: str
    problems: tuple[str, ...]
    wants: tuple[str, ...]
    questions: tuple[str, ...]
    act: tuple[str, ...]
    advice: tuple[str, ...]
    reasons: tuple[str, ...]  # why something is refused; () stands for the category's own
    details: tuple[str, ...]  # what is still needed for a decision; likewise


class Category(NamedTuple):
    """A category's office, its general phrases and its topics; "none" has requests alone."""

    office: tuple[str, ...]
    where: str  # how a reply adds a street to a thing, such as "on {street}", or ""
    places: tuple[str, ...]
    reasons: tuple[str, ...]
    details: tuple[str, ...]
    general: tuple[str, ...]
    whole: tuple[str, ...]
    words: tuple[str, ...]
    free: tuple[str, ...]  # sentences that stand for themselves
    requests: tuple[str, ...]  # of "none": sentences with words of `words.txt`
    topics: tuple[Topic, ...]


def read_table(text: str) -> dict[str, tuple[str, ...]]:
    """`key: a | b` by key, a repeated key being continued; things are separated by commas."""
    table = defaultdict(tuple)
    for line in text.strip().splitlines():
        key, values = line.split(":", 1)
        parts = tuple(part.strip() for part in values.split("," if key in ("things", "words") else "|"))
        table[key] += tuple("" if part == "-" else part for part in parts)
    return table


@cache
def read_category(name: str) -> Category:
    """The category that `city/<name>.txt` holds."""
    head, *blocks = (FOLDER / "city" / f"{name}.txt").read_text("utf-8").split("\n\n")
    topics = []
    for table in map(read_table, blocks):
        rest = (table[key] for key in ("problems", "wants", "questions", "act", "advice", "reasons", "details"))
        topics.append(Topic(name, table["things"], *table["other"], *table["about"], *rest))
    table = read_table(head)
    rest = (table[key] for key in ("places", "reasons", "details", "general", "whole", "words", "free", "requests"))
    return Category(table["office"], "".join(table["where"]), *rest, tuple(topics))


@cache
def read_blocks(name: str) -> dict[str, tuple[str, ...]]:
    """The phrasings of `city/<name>.txt` by the name of their block."""
    blocks = (block.splitlines() for block in (FOLDER / "city" / f"{name}.txt").read_text("utf-8").strip().split("\n\n"))
    return {key: tuple("" if line == "-" else line for line in lines) for key, *lines in blocks}


@cache
def everyday_words() -> dict[str, tuple[str, ...]]:
    """Everyday words by kind, such as "dish" or "device", of `city/words.txt`."""
    table = (line.split(": ", 1) for line in (FOLDER / "city" / "words.txt").read_text("utf-8").splitlines())
    return {kind: tuple(words.split(", ")) for kind, words in table}


@cache
def hand_written(category: str) -> tuple[str, ...]:
    """Requests written by hand, with slots such as {street}; none where there is no file."""
    path = FOLDER / f"citizen_requests_{category}.txt"
    return tuple(line for line in path.read_text("utf-8").splitlines() if line.strip()) if path.is_file() else ()


# ---------------------------------------------------------------------------------------------------------- grammar


def is_plural(phrase: str) -> bool:
    """Whether the phrase's noun is a plural, right for the tables: "street lights", "the taxes of a firm", not "the bus"."""
    head = PREPOSITION.split(phrase)[0]
    return head.endswith(("s", "people", "children")) and not head.endswith(("ss", "us", "is", "gas"))


def agree(template: str, plural: bool) -> str:
    """Verbs in braces, written in the singular, in the number of the thing: "{plays}" is "play" for a plural."""
    return VERB.sub(lambda found: plural_verb(found[1]) if plural else found[1], template)


def plural_verb(verb: str) -> str:
    """The plural of a verb in the third person: "cries" is "cry"."""
    return IRREGULAR.get(verb) or (verb[:-3] + "y" if verb.endswith("ies") else verb[:-1])


def with_article(thing: str) -> str:
    """"a bus", "an ID card", "street lights", "heating" (written "~heating")."""
    return thing.lstrip("~") if thing.startswith("~") or is_plural(thing) else f"{article(thing)} {thing}"


def listed(items: Iterable[str]) -> str:
    """"a, b and c"."""
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last


# ---------------------------------------------------------------------------------------------------------- particulars


@cache
def names_of(kind: str, held_out: bool) -> list[str]:
    """Many names of a kind of `names.KINDS`, real and made up, all reserved or none; drawing from them is fast."""
    rng = random.Random(f"{kind} {held_out}")
    return [name_word(rng, kind, held_out, made_up_share=0.6) for _ in range(400 if held_out else 4000)]


def street_name(rng: random.Random, held_out: bool) -> str:
    """A street whose name is reserved (`held_out`), or is not."""
    while True:
        draw = rng.random()
        word = rng.choice(STREETS if draw < 0.4 else names_of("family" if draw < 0.7 else "firm", held_out))
        if reserved(word) == held_out:
            return f"{word} {rng.choice(KINDS_OF_STREET)}"


def written_date(rng: random.Random, held_out: bool) -> str:
    """A date as people write it, "3 March" or "March 3rd", held out by its day and month; in training weekdays, too."""
    if not held_out and rng.random() < 0.35:
        return rng.choice(DAYS)
    while True:
        day, month = rng.randint(1, 28), rng.choice(MONTHS)
        if reserved(str(day), month) == held_out:
            ending = "th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
            return rng.choice((f"{day} {month}", f"{day} {month}", f"{month} {day}", f"{day}{ending} of {month}",
                               f"{day}{ending} {month}", f"{month} {day}{ending}"))


def person_name(rng: random.Random, held_out: bool) -> str:
    """A first name, in most cases with a surname."""
    first = rng.choice(names_of(rng.choice(("he", "she")), held_out))
    return first if rng.random() < 0.35 else f"{first} {rng.choice(names_of('family', held_out))}"


def particulars(rng: random.Random, held_out: bool) -> dict[str, str]:
    """The slots that any letter can use: streets, a number, a date and its month, a name."""
    return {"street": street_name(rng, held_out), "street2": street_name(rng, held_out), "number": str(rng.randint(1, 120)),
            "date": written_date(rng, held_out), "month": rng.choice(MONTHS), "name": person_name(rng, held_out)}


def random_words(rng: random.Random) -> dict[str, str]:
    """A slot for each kind of everyday words, and one for a word that belongs to some office."""
    drawn = {kind: rng.choice(words) for kind, words in everyday_words().items() if kind != "number"}
    return drawn | {"city_word": rng.choice(read_category(rng.choice(CATEGORIES[:-1])).words)}


def titled(text: str) -> str:
    """The text with a capital first letter and one behind each end of a sentence, and with "I"."""
    text = re.sub(r"(?<=[.!?] )[a-z]", lambda found: found[0].upper(), capitalise(text))
    return re.sub(r"\bi(?=\b(?!\.e))", "I", text)
