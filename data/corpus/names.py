"""Names: real ones, and made-up ones that can be copied but not remembered; and which are held out.

A name is held out by its own hash, so a name is in training or in the held-out set wherever it appears.
"""

import random
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path

FIRST_NAMES = {
    "he": (
        "Adam Alan Alex Andrew Anton Arthur Ben Bill Bob Boris Brian Carl Charlie Chris Daniel David Denis Dmitry "
        "Edward Eric Felix Frank Fred George Greg Harry Henry Hugo Igor Ivan Jack Jacob James Jim Joe John Kevin Leo "
        "Louis Lucas Mark Martin Max Michael Mike Mikhail Nick Nikita Oleg Oliver Oscar Otto Paul Pavel Peter Philip "
        "Ralph Robert Roman Sam Sergey Simon Sonic Stephen Theo Thomas Tim Toby Tom Victor Vlad Walter William Yuri"
    ).split(),
    "she": (
        "Alice Amy Anna Bella Beth Carol Clara Diana Elena Ella Emily Emma Eva Fiona Grace Hannah Helen Holly "
        "Irina Iris Jane Jenny Julia Kate Katya Lena Lily Linda Lisa Lucy Maria Martha Mary Maya Mia Mila Molly Nadia "
        "Natasha Nina Nora Olga Olivia Peggy Polly Rita Rosa Rose Ruby Ruth Sally Sarah Sofia Sophie Stella Tanya "
        "Vera Violet Wendy Zoe"
    ).split(),
}

SURNAMES = (
    "Adams Andersen Baker Becker Bell Berg Black Brown Carter Clark Cohen Cook Costa Cruz Davis Diaz Dubois Dumont Evans "
    "Fischer Foster Garcia Gomez Gray Green Hansen Harris Hill Horvat Hughes Ibrahim Jackson Jensen Jones Kaplan Keller "
    "Khan Kim Klein Kovacs Kumar Larsen Lee Lewis Lopez Marino Martinez Miller Moore Morgan Mueller Nakamura Nguyen Novak "
    "Orlov Park Parker Patel Pavlov Perez Petrov Popov Quinn Reed Ricci Rossi Sato Schmidt Shah Silva Singh Smith Sokolov "
    "Stone Suzuki Tanaka Taylor Turner Volkov Wagner Walker Watson Weber White Wilson Wong Wood Wright Young Zimmerman"
).split()
FIRM_WORDS = (
    "Alpha Amber Anchor Apex Arctic Arrow Atlas Aurora Beacon Blue Bridge Bright Castle Cedar Central City Cloud Comet "
    "Coral Crystal Delta Eagle East Echo Ever Falcon Fern First Fox Gold Golden Granite Green Harbour Harvest Horizon Iron "
    "Island Jade Lake Laurel Lion Lotus Lunar Magna Maple Marble Meadow Metro Mountain Nordic North Nova Oak Ocean Old "
    "Omega Orbit Orion Pearl Phoenix Pine Pioneer Polar Prime Quantum Quick Rainbow Raven Red River Royal Sapphire Silver "
    "Sky Smart Solar South Spring Star Summit Sun Sunrise Swift Terra Titan Union United Urban Valley Vega Vertex West Zenith"
).split()
KINDS = {**FIRST_NAMES, "family": SURNAMES, "firm": FIRM_WORDS}

ONSETS = "b bl br c ch cl d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sh sk sl sn sp st t th tr v w z".split()
VOWELS = "a e i o u a e i o ai ea ee oo ou".split()
CODAS = "n r l m s t ck x nd rn sh th d v lt b nt".split()
CODAS_BEFORE_CONSONANT = "n r l m s t ck".split()
VOWEL_LETTERS = "aeiouy"
INNER_CODAS = " n r l m".split(" ")
INNER_ONSETS = "b d f g k l m n p r s t v z".split()
ENDINGS = {
    "he": "o us in er ar ick ic on im ert ok".split(),
    "she": "a ia ie elle ina y ette ita ora is".split(),
    "family": "ov ez er man son ton ley well ski enko ini ard ford en ak ic aro as off".split(),
    "firm": "o a ex ix on ium ity ia era ora ent io us ax ona ella um en is eto".split(),
}
WORD = re.compile(r"[^\W\d_]+")
# Not allowed in a made-up name: rude words, and the exercise's own hero.
UNWANTED = re.compile("shit|fuck|cunt|cock|dick|slut|tit|piss|cum|poo|nazi|rape|fart|sperm|anus|slave|whor|bitch|arse|sonic")


def reserved(*parts: str) -> bool:
    """Whether a name, an amount, or an adjective with its animal is kept out of training (about one in ten)."""
    return zlib.crc32(" ".join(parts).lower().encode()) % 10 == 0


@cache
def next_letters() -> dict[str, list[str]]:
    """The letters that follow each two letters in the names that training may show: "" (before the first letter), "j" or
    "ja" -> letters, as often as they occur; "." ends a name."""
    follow = defaultdict(list)
    for word in [word for words in KINDS.values() for word in words if not reserved(word)]:
        letters = ["", "", *word.lower(), "."]
        for first, second, third in zip(letters, letters[1:], letters[2:], strict=False):
            follow[first + second].append(third)
    return follow


@cache
def last_letters(kind: str) -> set[str]:
    """The two letters that training names of this kind end with, except those that end both his names and hers."""
    ends = {key: {word[-2:] for word in words if not reserved(word)} for key, words in KINDS.items()}
    other = {"he": "she", "she": "he"}.get(kind)
    return ends[kind] - ends[other] if other else ends[kind]


def spelled_like_names(rng: random.Random, kind: str) -> str:
    """A name, letter by letter: each is drawn from those that follow the two before it in real names. It ends as names of its
    kind do, so that a decoder can tell he from she."""
    while True:
        name = ""
        while not name.endswith(".") and len(name) < 13:
            name += rng.choice(next_letters()[name[-2:]])
        if 4 <= len(name) < 13 and name[-3:-1] in last_letters(kind) and not UNWANTED.search(name):
            return name[:-1].capitalize()


def built_of_syllables(rng: random.Random, kind: str) -> str:
    """A name of two or three syllables, the last of them usual for its kind, such as "Blovina" or "Shamborick"."""
    while True:
        stem = rng.choice(ONSETS) + rng.choice(VOWELS)
        if rng.random() < 0.25:
            stem += rng.choice(INNER_CODAS) + rng.choice(INNER_ONSETS) + rng.choice(VOWELS[:9])
        ending = rng.choice(ENDINGS[kind])
        name = stem + rng.choice(CODAS if ending[0] in VOWEL_LETTERS else CODAS_BEFORE_CONSONANT) + ending
        if not UNWANTED.search(name):
            return name.capitalize()


@cache
def plot_texts() -> tuple[str, ...]:
    """The files of `plots/`, in the order of their names."""
    return tuple(path.read_text("utf-8") for path in sorted((Path(__file__).parent / "plots").glob("*.txt")))


@cache
def story_words() -> list[str]:
    """The words of three or more letters that occur in the plots; capitalised too where they begin a sentence."""
    return sorted({word for text in plot_texts() for word in WORD.findall(text) if len(word) >= 3})


@cache
def sentence_starts() -> list[str]:
    """The words that occur in the plots with a capital, in small letters."""
    return [word.lower() for word in story_words() if word[0].isupper()]


def welded_of_words(rng: random.Random, kind: str) -> str:
    """A name of the front of one ordinary word and the back of another, such as "Willet" of "will" and "basket".

    The tokenizer has pieces for ordinary words, and those hardly occur in other made-up names: a decoder that had not seen
    them in names could not copy "William" (Will + iam) or "Theo" (The + o).
    """
    while True:
        front, back = rng.choice(sentence_starts())[: rng.randint(2, 5)], rng.choice(story_words())[-rng.randint(2, 4) :]
        name = (front + back).capitalize()
        speakable = (front[-1] in VOWEL_LETTERS) != (back[0] in VOWEL_LETTERS)
        telling = kind not in FIRST_NAMES or name[-2:] in last_letters(kind)
        if speakable and telling and len(name) >= 4 and name.lower() not in story_words() and not UNWANTED.search(name.lower()):
            return name


def made_up(rng: random.Random, kind: str) -> str:
    """A name that is in a list only by chance. Three ways to make one give many endings: with few, a decoder would guess the
    end of a name instead of copying it."""
    return rng.choice((spelled_like_names, built_of_syllables, welded_of_words))(rng, kind)


def name_word(rng: random.Random, kind: str, held_out: bool, made_up_share: float) -> str:
    """A word of a name of that kind (see KINDS) from the training names, or from the reserved ones where `held_out`."""
    while True:
        word = made_up(rng, kind) if rng.random() < made_up_share else rng.choice(KINDS[kind])
        if reserved(word) == held_out:
            return word


def first_name(rng: random.Random, pronoun: str, held_out: bool = False, made_up_share: float = 0.7) -> str:
    """A first name from the training names, or from the reserved ones where `held_out`."""
    return name_word(rng, pronoun, held_out, made_up_share)


def without_names(texts: Iterable[str]) -> list[str]:
    """The texts without their names, that is, without capitalised words that are seldom written in small letters.

    A tokenizer trained on them spells a name in short pieces that all names share. Long pieces learned from names are rare in
    other names, and a decoder puts a piece that it knows in the place of a rare one: "Jane" became "Janedert".
    """
    texts = list(texts)
    counts = Counter(word for text in texts for word in WORD.findall(text))
    names = {word for word in counts if word[0].isupper() and counts[word] > counts[word.lower()]}
    return [WORD.sub(lambda match: "" if match[0] in names else match[0], text) for text in texts]
