"""Stories: a request for one, and a story that answers it, written from the plots in `plots/`.

A plot is a text file. First its title, then its settings, one a line: `about:` (what the story is about, for requests
that ask for it), `not:` (animals that cannot play it), and lists of its own such as `errand, goal: a pear, the orchard | ...`,
of which one entry is drawn per story. Then the beats, separated by blank lines; each line of a beat is one way to tell
it ("-" tells nothing), and a first line "--" begins a new paragraph. In a line, `[a|b]` is a choice and `{name}` a slot;
`{a thing}` puts the article, and a capital (`{He}`) makes a capital.
"""

import random
import re
from functools import cache
from typing import NamedTuple

from data.corpus.cast import ANIMALS, HELPERS, MOTHERS, OPEN_REQUESTS, PLURALS, REQUESTS, TRAITS
from data.corpus.documents import STORYTELLER, Document
from data.corpus.names import first_name, plot_texts, reserved
from models.chatml import chatml

PRONOUNS = {
    "he": {"he": "he", "him": "him", "his": "his", "himself": "himself"},
    "she": {"he": "she", "him": "her", "his": "her", "himself": "herself"},
}
CHOICE = re.compile(r"\[([^\[\]]*)\]")
SLOT = re.compile(r"\{(a |A )?(\w+)\}")
SENTENCE_START = re.compile(r"(^|[.!?] |[.]\" |\n)([a-z])")


class Plot(NamedTuple):
    """One way a story can go: settings to draw from, and beats, each with its phrasings."""

    title: str
    about: list[str]
    not_for: list[str]
    settings: list[tuple[list[str], list[list[str]]]]  # (slot names, entries of as many values)
    beats: list[list[str]]


class Hero(NamedTuple):
    """What a request can ask for."""

    name: str
    animal: str
    adjective: str
    pronoun: str  # "he" or "she"


class Story(NamedTuple):
    """A request (None for a story that nobody asked for), the hero it is about, and the text."""

    request: str | None
    hero: Hero
    plot: str
    text: str

    def document(self) -> Document:
        """The training text."""
        return Document(chatml(STORYTELLER, self.request) if self.request else "", self.text)


def split(line: str, separator: str) -> list[str]:
    """The parts of a line, without the spaces around them."""
    return [part.strip() for part in line.split(separator)]


def read_plot(text: str) -> Plot:
    """The plot that a file of `plots/` holds, in the format that this module's docstring describes."""
    head, *beats = re.split(r"\n\s*\n", text.strip())
    title, *lines = head.splitlines()
    special, settings = {"about": [], "not": []}, []
    for line in lines:
        key, values = line.split(":", 1)
        if key in special:
            special[key] = split(values, "|" if key == "about" else ",")
        else:
            keys = split(key, ",")
            settings.append((keys, [split(entry, ",") if len(keys) > 1 else [entry] for entry in split(values, "|")]))
    return Plot(title, special["about"], special["not"], settings, [beat.splitlines() for beat in beats])


@cache
def plots() -> tuple[Plot, ...]:
    """All plots, in the order of their file names."""
    return tuple(read_plot(text) for text in plot_texts())


def article(noun: str) -> str:
    """"a" or "an", by the noun's sound, right for the words that occur in the plots."""
    return "an" if noun[0].lower() in "aeiou" and not noun.startswith(("uni", "use")) or noun.startswith("honest") else "a"


def expand(template: str, slots: dict[str, str], rng: random.Random) -> str:
    """`template` with every choice made, innermost first, and every slot filled."""

    def fill(match: re.Match) -> str:
        value = slots[match[2]] if match[2] in slots else capitalise(slots[match[2].lower()])
        return f"{capitalise(article(value)) if match[1] == 'A ' else article(value)} {value}" if match[1] else value

    while CHOICE.search(template) or SLOT.search(template):  # what fills a slot can hold choices and slots of its own
        while CHOICE.search(template):
            template = CHOICE.sub(lambda match: rng.choice(match[1].split("|")), template)
        template = SLOT.sub(fill, template)
    return template


def capitalise(text: str) -> str:
    """The text with a capital first letter; the rest stays, unlike with str.capitalize."""
    return text[:1].upper() + text[1:]


def cast(hero: Hero, plot: Plot, rng: random.Random) -> dict[str, str]:
    """The slots that every plot can use: the hero, a friend ({friend}, {f_he}) and another ({other}, {o_he})."""
    limb, home = ANIMALS[hero.animal]
    slots = {"name": hero.name, "animal": hero.animal, "adj": hero.adjective, "home": home, **PRONOUNS[hero.pronoun]}
    slots |= {"paw": limb, "paws": PLURALS.get(limb, limb + "s"), "trait": rng.choice(TRAITS[hero.adjective])}
    # Sonic the hedgehog is the exercise's own hero, and held out: a Sonic meets no hedgehog, nor a hedgehog a Sonic.
    strangers = {hero.animal, "hedgehog"} if hero.name == "Sonic" else {hero.animal}
    animals = rng.sample([animal for animal in HELPERS if animal not in strangers], 2)
    # Their names are real, with other first letters than the hero's: otherwise the decoder calls them by the hero's name.
    initials = {hero.name[0]}
    for role, animal in zip(("friend", "other"), animals, strict=True):
        pronoun = "she" if animal in MOTHERS else rng.choice(("he", "she"))
        while (name := first_name(rng, pronoun, made_up_share=0)) == "Sonic" or name[0] in initials:
            pass
        initials.add(name[0])
        slots |= {role: name, f"{role}_animal": animal}
        slots |= {f"{role[0]}_{key}": value for key, value in PRONOUNS[pronoun].items()}
    for keys, entries in plot.settings:
        slots |= zip(keys, rng.choice(entries), strict=True)
    return slots


def tell(plot: Plot, slots: dict[str, str], rng: random.Random) -> str:
    """The text of one story: each beat in one of its phrasings, paragraphs separated by an empty line."""
    paragraphs = [[]]
    for beat in plot.beats:
        if beat[0] == "--":
            paragraphs.append([])
        if (line := rng.choice(beat[beat[0] == "--" :])) != "-":
            paragraphs[-1].append(expand(line, slots, rng))
    text = "\n\n".join(" ".join(paragraph) for paragraph in paragraphs if paragraph)
    return SENTENCE_START.sub(lambda match: match[1] + match[2].upper(), text)


def choose_hero(rng: random.Random, held_out: bool) -> Hero:
    """A hero whose name and adjective-animal pair are both reserved (`held_out`), or neither; never Sonic the hedgehog."""
    while True:
        pronoun = rng.choice(("he", "she"))
        hero = Hero(first_name(rng, pronoun, held_out, 0.6), rng.choice(list(ANIMALS)), rng.choice(list(TRAITS)), pronoun)
        if reserved(hero.adjective, hero.animal) == held_out and (hero.name, hero.animal) != ("Sonic", "hedgehog"):
            return hero


def make_request(hero: Hero, about: str, rng: random.Random) -> str | None:
    """What the user asks: all of the hero, some of it, or any story at all; sometimes nobody asks (None)."""
    kind = rng.random()
    if kind < 0.08:
        return None
    if kind < 0.12:
        return rng.choice(OPEN_REQUESTS)
    adjective = f"{hero.adjective} " if rng.random() < 0.85 else ""
    who = f"{article(adjective or hero.animal)} {adjective}{hero.animal}"
    if rng.random() < 0.85:
        who += rng.choice((" named ", " named ", " called ")) + hero.name
    if rng.random() < 0.15:
        who += f" who {about}"
    return rng.choice(REQUESTS).format(who=who)


def write_story(hero: Hero, rng: random.Random) -> Story:
    """A story about `hero`, with a request for it."""
    plot = rng.choice([plot for plot in plots() if hero.animal not in plot.not_for])
    slots = cast(hero, plot, rng)
    about = expand(rng.choice(plot.about), slots, rng)
    return Story(make_request(hero, about, rng), hero, plot.title, tell(plot, slots, rng))


def training_story(rng: random.Random) -> Story:
    """A story whose hero has neither a reserved name nor a reserved adjective-animal pair."""
    return write_story(choose_hero(rng, held_out=False), rng)


def held_out_story(rng: random.Random) -> Story:
    """A story for a hero whose name and adjective-animal pair are never in training, asked for in full."""
    hero = choose_hero(rng, held_out=True)
    request = rng.choice(REQUESTS).format(who=f"{article(hero.adjective)} {hero.adjective} {hero.animal} named {hero.name}")
    return write_story(hero, rng)._replace(request=request)
