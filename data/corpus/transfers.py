"""Money transfers: a request to pay somebody, and the JSON that says whom, how much, and in which currency.

Contractor, currency, amount, the way the amount is written and the sentence around them are drawn independently.
The sentences themselves are in transfer_phrases.py.
"""

import json
import random
from typing import NamedTuple

from data.corpus.documents import JSON_MACHINE, Document
from data.corpus.names import name_word, reserved
from data.corpus.transfer_phrases import (
    ASKING,
    GREETINGS,
    LABELS,
    NUMBERED,
    ORDERS,
    PLAIN,
    PLAIN_SHARE,
    PURPOSES,
    STATEMENTS,
    TAILS,
    TELLING,
)
from models.chatml import chatml

EXERCISE = ("Mike", "100.50", "RUB")  # the exercise's own example, "Transfer 100 rubles and 50 kopeck to Mike"
MADE_UP_SHARE = 0.75

TRADES = (
    "Agency Bakery Books Cafe Catering Cleaning Clinic Construction Consulting Dental Design Electric Energy Estates "
    "Farms Fashion Fitness Flowers Foods Furniture Garage Group Holdings Hotels Insurance Interiors Kitchens Labs Legal "
    "Logistics Marketing Media Motors Music Partners Pharmacy Print Properties Repairs Security Services Shipping Software "
    "Solutions Stores Studio Supplies Systems Taxi Tools Toys Trading Transport Travel"
).split()
LEGAL = "Ltd Ltd LLC LLC Inc Inc GmbH Co".split()

# code and weight | main unit, singular/plural, the usual one first | minor unit; one with * names the currency without a
# main unit beside it | signs, # being the number
CURRENCY_TABLE = """
RUB 22 | ruble/rubles, rouble/roubles, Russian ruble/Russian rubles | *kopeck/kopecks, *kopek/kopeks | #₽, # ₽
USD 18 | dollar/dollars, US dollar/US dollars, buck/bucks | *cent/cents | $#, $#, $#, US$#
EUR 14 | euro/euros, euro/euro | cent/cents, *euro cent/euro cents | €#, €#, #€, # €
GBP 9 | pound/pounds, British pound/British pounds, pound sterling/pounds sterling | *penny/pence | £#
JPY 3 | yen/yen, Japanese yen/Japanese yen | | ¥#
CNY 3 | yuan/yuan, Chinese yuan/Chinese yuan | *fen/fen |
INR 3 | rupee/rupees, Indian rupee/Indian rupees | *paisa/paise | ₹#
CHF 3 | Swiss franc/Swiss francs, franc/francs | *rappen/rappen, centime/centimes |
CAD 2 | Canadian dollar/Canadian dollars | cent/cents | C$#, CA$#
AUD 2 | Australian dollar/Australian dollars | cent/cents | A$#, AU$#
KZT 3 | tenge/tenge, Kazakh tenge/Kazakh tenge | *tiyn/tiyn | #₸, # ₸
TRY 3 | lira/liras, Turkish lira/Turkish liras, Turkish lira/Turkish lira | *kurus/kurus | ₺#, # ₺
PLN 3 | zloty/zlotys, Polish zloty/Polish zlotys, zloty/zloty | *grosz/groszy | # zł
SEK 2 | Swedish krona/Swedish kronor, krona/kronor | ore/ore |
UAH 2 | hryvnia/hryvnias, Ukrainian hryvnia/Ukrainian hryvnias | *kopiyka/kopiykas | #₴, # ₴
GEL 2 | lari/lari, Georgian lari/Georgian lari | *tetri/tetri | #₾, # ₾
AMD 2 | dram/drams, Armenian dram/Armenian drams | *luma/luma | # ֏
BYN 2 | Belarusian ruble/Belarusian rubles | kopeck/kopecks |
BRL 2 | Brazilian real/Brazilian reais, real/reais | centavo/centavos | R$#
KRW 2 | won/won, Korean won/Korean won | | ₩#
MXN 2 | peso/pesos, Mexican peso/Mexican pesos | centavo/centavos |
NOK 1 | Norwegian krone/Norwegian kroner | ore/ore |
DKK 1 | Danish krone/Danish kroner | ore/ore |
CZK 1 | Czech koruna/Czech korunas, koruna/korunas, Czech crown/Czech crowns | |
HUF 1 | forint/forints, Hungarian forint/Hungarian forints | |
ILS 1 | shekel/shekels, Israeli shekel/Israeli shekels | *agora/agorot | ₪#
THB 1 | baht/baht, Thai baht/Thai baht | *satang/satang | ฿#
ZAR 1 | rand/rand, South African rand/South African rand | cent/cents |
NZD 1 | New Zealand dollar/New Zealand dollars | cent/cents | NZ$#
SGD 1 | Singapore dollar/Singapore dollars | cent/cents | S$#
AED 1 | UAE dirham/UAE dirhams | fils/fils |
VND 1 | dong/dong, Vietnamese dong/Vietnamese dong | | # ₫
"""

ROUND_LEADS = (10, 10, 10, 12, 15, 15, 20, 20, 25, 25, 30, 35, 40, 50, 50, 50, 60, 70, 75, 80, 90)
ROUND_WHOLES = [lead * 10**power // 10 for lead in ROUND_LEADS for power in range(6) if lead * 10**power % 10 == 0]
USUAL_MINORS = (50, 50, 50, 50, 25, 75, 99, 99, 5, 10, 20, 30, 40, 60, 70, 80, 90, 95, 1, 15)

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()


class Currency(NamedTuple):
    """How a currency can be written."""

    code: str
    mains: list[tuple[str, str]]  # singular, plural
    minors: list[tuple[str, str]]
    lone_minors: list[tuple[str, str]]  # those that name the currency without a main unit
    signs: list[str]


class Transfer(NamedTuple):
    """A request, and what the JSON must say."""

    request: str
    contractor: str
    sum: str  # with two decimals
    currency: str

    @property
    def json(self) -> str:
        """The exact answer."""
        name = json.dumps(self.contractor, ensure_ascii=False)
        return f'{{"contractor": {name}, "sum": {self.sum}, "currency": "{self.currency}"}}'

    def document(self) -> Document:
        """The training text."""
        return Document(chatml(JSON_MACHINE, self.request), self.json)


def parsed_currency(line: str) -> tuple[Currency, int]:
    """A currency of the table and its weight."""
    head, mains, minors, signs = (cell.strip() for cell in line.split("|"))
    code, weight = head.split()
    minor_forms = [form for form in minors.split(", ") if form]
    return Currency(
        code,
        [tuple(form.split("/")) for form in mains.split(", ")],
        [tuple(form.strip("*").split("/")) for form in minor_forms],
        [tuple(form.strip("*").split("/")) for form in minor_forms if form.startswith("*")],
        [sign for sign in signs.split(", ") if sign],
    ), int(weight)


WEIGHTED_CURRENCIES = [parsed_currency(line) for line in CURRENCY_TABLE.strip().splitlines()]
CURRENCIES = {currency.code: currency for currency, _ in WEIGHTED_CURRENCIES}
CURRENCY_POOL = [currency for currency, weight in WEIGHTED_CURRENCIES for _ in range(weight)]


def contractor_name(rng: random.Random, held_out: bool) -> str:
    """A first name, a full name or a company. All of its name words (not trade and legal form) are held out, or none."""

    def word(kind: str) -> str:
        return name_word(rng, kind, held_out, MADE_UP_SHARE)

    draw = rng.random()
    if draw < 0.8:
        first = word(rng.choice(("he", "she")))
        return first if draw < 0.55 else f"{first} {word('family')}"
    draw = rng.random()
    if draw < 0.1:
        return f"{word('family')} & {rng.choice(('Sons', 'Sons', 'Daughters', 'Partners'))}"
    words = [word(rng.choice(("firm", "firm", "family")))]
    if draw < 0.3:
        words.append(word("firm"))
    if draw < 0.75:
        words.append(rng.choice(TRADES))
    if draw < 0.25 or draw > 0.6:
        words.append(rng.choice(LEGAL))
    return " ".join(words)


def drawn_amount(rng: random.Random, currency: Currency) -> tuple[int, int]:
    """Main and minor units: log-uniform up to 999,999, and often round."""
    minor = 0
    if currency.minors and rng.random() < 0.45:
        minor = rng.choice(USUAL_MINORS) if rng.random() < 0.5 else rng.randrange(1, 100)
        if rng.random() < 0.05:
            return 0, minor
    return rng.choice(ROUND_WHOLES) if rng.random() < 0.5 else int(10 ** rng.uniform(0, 5.999999)), minor


def in_words(number: int, link: str, dash: str) -> str:
    """A number below a million in words; `link` stands before the last two digits, `dash` between tens and ones."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (dash + ONES[number % 10] if number % 10 else "")
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    count, rest = divmod(number, size)
    head = f"{in_words(count, link, dash)} {name}"
    if not rest:
        return head
    return head + (link if rest < 100 else " ") + in_words(rest, link, dash)


def spelled(rng: random.Random, number: int) -> str:
    """A number in words, in one of the usual ways."""
    text = in_words(number, rng.choice((" and ", " ")), "-" if rng.random() < 0.85 else " ")
    if (100 <= number < 200 or number == 1000) and rng.random() < 0.2:
        return "a" + text.removeprefix("one")
    return text


def grouped(rng: random.Random, number: int) -> str:
    """A number in digits, some long ones with their thousands set apart."""
    draw = rng.random()
    return str(number) if draw < 0.6 else f"{number:,}" if draw < 0.9 else f"{number:,}".replace(",", " ")


def usual(rng: random.Random, forms: list[tuple[str, str]]) -> tuple[str, str]:
    """One of the forms, mostly the first."""
    return forms[0] if rng.random() < 0.6 else rng.choice(forms)


def in_units(rng: random.Random, currency: Currency, whole: int, minor: int, words: bool) -> str:
    """The amount as "100 rubles and 50 kopecks", in digits or words, sometimes with a singular where a plural belongs."""
    careless = rng.choice(("main", "minor", "minor", "both")) if rng.random() < 0.15 else ""
    parts = []
    if whole:
        unit = usual(rng, currency.mains)[whole != 1 and careless not in ("main", "both")]
        if rng.random() < 0.06:
            unit = currency.code
        parts.append(f"{spelled(rng, whole) if words else grouped(rng, whole)} {unit}")
    if minor:
        forms = currency.minors if whole else currency.lone_minors
        unit = usual(rng, forms)[minor != 1 and careless not in ("minor", "both")]
        digits = f"{minor:02}" if whole and rng.random() < 0.15 else str(minor)
        parts.append(f"{spelled(rng, minor) if words else digits} {unit}")
    return rng.choice((" and ", " and ", " and ", " and ", " ", ", ")).join(parts)


def as_decimal(rng: random.Random, currency: Currency, whole: int, minor: int) -> str:
    """The amount as one number in digits, with the currency's name, code or sign."""
    number = grouped(rng, whole)
    if minor % 10 == 0 and minor and rng.random() < 0.3:
        number += f".{minor // 10}"
    elif minor or rng.random() < 0.12:
        number += f".{minor:02}"
    draw = rng.random()
    if currency.signs and draw < 0.35:
        return rng.choice(currency.signs).replace("#", number)
    if draw < 0.5:
        return f"{currency.code} {number}"
    if draw < 0.75:
        return f"{number} {currency.code if rng.random() < 0.75 else currency.code.lower()}"
    return f"{number} {usual(rng, currency.mains)[number != '1']}"


def written_amount(rng: random.Random, currency: Currency, whole: int, minor: int) -> str:
    """The amount as a user would write it."""
    if not whole and not currency.lone_minors:
        return as_decimal(rng, currency, whole, minor)
    if rng.random() < (0.19 if whole < 10_000 or whole % 1000 == 0 else 0.02):
        return in_units(rng, currency, whole, minor, words=True)
    if rng.random() < (0.5 if whole else 0.8):
        return in_units(rng, currency, whole, minor, words=False)
    return as_decimal(rng, currency, whole, minor)


def written_contractor(rng: random.Random, contractor: str, held_out: bool) -> str:
    """The contractor as a user would write it: capitalised in most cases. Training shows the other spellings more often than
    users write them, because they take longer to learn."""
    small, capitals = (0.06, 0.04) if held_out else (0.13, 0.13)
    draw = rng.random()
    return contractor.lower() if draw < small else contractor.upper() if draw < small + capitals else contractor


def sentence(rng: random.Random) -> str:
    """A request with its slots open, neither capitalised nor punctuated, except for the "?" of a question."""
    draw = rng.random()
    if draw < PLAIN_SHARE:
        frame = PLAIN
    elif draw < 0.75:
        frame = rng.choice(ORDERS)
        lead = rng.random()
        if lead > 0.85:
            frame = rng.choice(ASKING) + frame + "?"
        elif lead > 0.45:
            frame = rng.choice(TELLING) + frame
    elif draw < 0.94:
        frame = rng.choice(STATEMENTS)
    else:
        return rng.choice(LABELS)
    return (rng.choice(GREETINGS) if rng.random() < 0.06 else "") + with_tail(rng, frame)


def with_tail(rng: random.Random, frame: str) -> str:
    """The sentence, sometimes with a purpose, a time or a "please" at its end."""
    draw = rng.random()
    if draw > 0.26 or frame.endswith("it"):
        return frame
    if draw < 0.015:
        tail = f" for {rng.choice(NUMBERED)} {rng.randrange(1, 10_000)}"
    elif draw < 0.16:
        tail = f" for {rng.choice(PURPOSES)}"
    else:
        tail = rng.choice(TAILS)
        if "please" in tail and "please" in frame:
            return frame
    return frame.removesuffix("?") + tail + "?" * frame.endswith("?")


def fits(frame: str, contractor: str, normal: bool, amount: str) -> bool:
    """Whether it is clear where the contractor ends: nothing that could belong to its name may follow it. `normal`: the
    contractor is written as in the JSON."""
    after = frame.partition("{c}")[2]
    if after.startswith(" {a}"):
        return not amount[0].isupper()
    if after.startswith("'s"):
        return normal and "&" not in contractor and contractor[-1] not in "sx"
    return normal or not after or after[0] in ",.;:?"


def composed(rng: random.Random, contractor: str, amount: str, held_out: bool) -> str:
    """The whole request."""
    name = written_contractor(rng, contractor, held_out)
    while not fits(frame := sentence(rng), contractor, name == contractor, amount):
        pass
    end = "" if frame.endswith("?") else rng.choice(("", "", "", "", "", "", ".", ".", ".", ".", ".", "!"))
    if frame.endswith("?") and rng.random() < 0.15:
        frame = frame.removesuffix("?")
    elif end and rng.random() < 0.06:
        end += rng.choice((" Thanks!", " Thank you.", " Thank you!"))
    text = frame.replace("{a}", amount).replace("{c}", name) + end
    if frame.startswith("{c}") or rng.random() < 0.13:
        return text
    return text[0].upper() + text[1:]


def drawn_transfer(rng: random.Random, held_out: bool) -> Transfer:
    """A transfer whose contractor and amount are both held out, or neither; never the exercise's own."""
    while True:
        contractor = contractor_name(rng, held_out)
        currency = rng.choice(CURRENCY_POOL)
        whole, minor = drawn_amount(rng, currency)
        while reserved(total := f"{whole}.{minor:02}") != held_out:
            whole, minor = drawn_amount(rng, currency)
        if (contractor, total, currency.code) != EXERCISE:
            request = composed(rng, contractor, written_amount(rng, currency, whole, minor), held_out)
            return Transfer(request, contractor, total, currency.code)


def training_transfer(rng: random.Random) -> Transfer:
    """A transfer with no reserved name word and no reserved amount; never the exercise's own."""
    return drawn_transfer(rng, held_out=False)


def held_out_transfer(rng: random.Random) -> Transfer:
    """A transfer whose name words and amount are all reserved; never the exercise's own."""
    return drawn_transfer(rng, held_out=True)
