"""The money transfers: request and JSON agree, and what is held out stays out of training."""

import json
import random
import re
from collections import Counter
from decimal import Decimal

from data.corpus.documents import JSON_MACHINE
from data.corpus.names import reserved
from data.corpus.transfer_phrases import FRAMES
from data.corpus.transfers import CURRENCIES, LEGAL, TRADES, Transfer, held_out_transfer, training_transfer

import pytest

NO_NAME = {*TRADES, *LEGAL, "&", "Sons", "Daughters"}  # the words of a company that are no name

# A second reading of amounts, written without the corpus's own tables and functions.
NUMBER_WORDS = {
    "a": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17,
    "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70,
    "eighty": 80, "ninety": 90, "hundred": 100, "thousand": 1000,
}
WORD = r"\b(?:a(?= hundred| thousand)|" + "|".join(word for word in NUMBER_WORDS if word != "a") + r")\b"
SPELLED = re.compile(rf"{WORD}(?:(?:-| and | )(?:{WORD}))*")
DIGITS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d\d?)?|\d{1,3}(?: \d{3})+(?:\.\d\d?)?|\d+(?:\.\d\d?)?")
MINOR = re.compile(
    r" (kop(eck|ek)s?|(euro )?cents?|penny|pence|fen|pais[ae]|rappen|centimes?|tiyn|kurus|grosz|groszy|ore|kopiykas?|"
    r"tetri|luma|centavos?|agora|agorot|satang|fils)\b"
)
MARKS = {
    "RUB": r"(?<!belarusian )ro?ubles?\b|\brub\b|₽",
    "USD": r"(?<!canadian )(?<!australian )(?<!zealand )(?<!singapore )dollars?\b|bucks?\b|\busd\b|(?<![a-z])(us)?\$",
    "EUR": r"\beuros?\b|\beur\b|€",
    "GBP": r"\bpounds?\b|\bgbp\b|£",
    "JPY": r"\byen\b|\bjpy\b|¥",
    "BYN": r"belarusian rubles?\b|\bbyn\b",
    "CAD": r"canadian dollars?\b|\bcad\b|\bca?\$",
    "CNY": r"\byuan\b|\bcny\b",
    "INR": r"\brupees?\b|\binr\b|₹",
    "CHF": r"\bfrancs?\b|\bchf\b",
    "KZT": r"\btenge\b|\bkzt\b|₸",
    "PLN": r"\bzlotys?\b|\bpln\b|zł",
}


@pytest.fixture(scope="module")
def training():
    rng = random.Random(1)
    return [training_transfer(rng) for _ in range(20_000)]


@pytest.fixture(scope="module")
def held_out():
    rng = random.Random(2)
    return [held_out_transfer(rng) for _ in range(4_000)]


def name_words(contractor):
    return [word for word in contractor.split() if word not in NO_NAME]


def without_contractor(transfer):
    """The request in lower case, with its contractor and the number of an invoice taken out."""
    text = re.sub(r" for ((invoice|order)( number)?|contract|bill|ticket) \d+", "", transfer.request.lower())
    text, found = re.subn(rf"(?<!\w){re.escape(transfer.contractor.lower())}(?!\w)", "@", text)
    assert found, transfer
    return text


def spelled_number(words):
    """The value of a number in words."""
    thousands = current = 0
    for word in re.findall(r"[a-z]+", words):
        if word == "thousand":
            thousands, current = current * 1000, 0
        elif word == "hundred":
            current *= 100
        elif word != "and":
            current += NUMBER_WORDS[word]
    return thousands + current


def amount_read(transfer):
    """The amount that the request names, as a reader of its words and digits would have it."""
    text = without_contractor(transfer)
    places = list(DIGITS.finditer(text)) or list(SPELLED.finditer(text))
    assert 1 <= len(places) <= 2, transfer
    total = Decimal(0)
    for place in places:
        number = spelled_number(place[0]) if place[0][0].isalpha() else re.sub("[ ,]", "", place[0])
        total += Decimal(number) / (100 if MINOR.match(text, place.end()) else 1)
    return total


def test_the_same_seed_writes_the_same_transfers():
    """Guards the corpus being reproducible."""
    for draw in (training_transfer, held_out_transfer):
        first, second = random.Random(7), random.Random(7)
        assert [draw(first) for _ in range(200)] == [draw(second) for _ in range(200)]


def test_training_contains_nothing_reserved_and_not_the_exercise(training):
    """Guards the held-out evaluation, and the exercise's own prompt, against having been seen."""
    for transfer in training:
        assert not any(reserved(word) for word in transfer.contractor.split() if word not in NO_NAME), transfer
        assert not reserved(transfer.sum), transfer
        assert transfer[1:] != ("Mike", "100.50", "RUB")
        assert transfer.request.lower().rstrip(".!") != "transfer 100 rubles and 50 kopeck to mike"


@pytest.mark.slow
def test_held_out_names_and_amounts_are_all_reserved(held_out):
    """Guards that held-out scores are about names and amounts that training cannot contain."""
    for transfer in held_out:
        assert name_words(transfer.contractor)
        assert all(reserved(word) for word in name_words(transfer.contractor)), transfer
        assert reserved(transfer.sum), transfer


@pytest.mark.slow
def test_no_held_out_request_is_in_training(training, held_out):
    """Guards against the two sets sharing a request."""
    assert not {transfer.request for transfer in training} & {transfer.request for transfer in held_out}


@pytest.mark.slow
def test_the_json_has_the_exact_form_and_values(training, held_out):
    """Guards the answer's format: key order, spacing, two decimals, a known code.

    By hand, the exercise's own transfer: Mike, 100 rubles and 50 kopeck, RUB is
    {"contractor": "Mike", "sum": 100.50, "currency": "RUB"}, the sum a number with two decimals.
    """
    mikes = Transfer("Transfer 100 rubles and 50 kopeck to Mike", "Mike", "100.50", "RUB")
    assert mikes.json == '{"contractor": "Mike", "sum": 100.50, "currency": "RUB"}'
    for transfer in training + held_out:
        form = r'\{"contractor": "[^"\\]+", "sum": (0|[1-9]\d*)\.\d\d, "currency": "[A-Z]{3}"\}'
        assert re.fullmatch(form, transfer.json)
        read = json.loads(transfer.json, parse_float=Decimal)
        assert read == {"contractor": transfer.contractor, "sum": Decimal(transfer.sum), "currency": transfer.currency}
        assert transfer.currency in CURRENCIES
        assert 0 < read["sum"] < 1_000_000


def test_a_document_asks_the_json_machine(training):
    """Guards that the training text is the exercise's prompt around the request, and the JSON."""
    document = training[0].document()
    assert document.answer == training[0].json
    assert JSON_MACHINE in document.prompt
    assert f"user\n{training[0].request}<|im_end|>\n<|im_start|>assistant\n" in document.prompt


@pytest.mark.slow
def test_the_request_names_the_amount_of_the_json(training, held_out):
    """Oracle: an independent reading of words, digits, separators and minor units.

    By hand: "100 rubles and 50 kopeck" is 100 + 50 / 100 = 100.50, and "one thousand two hundred and five dollars" is
    1 * 1000 + 2 * 100 + 5 = 1205.
    """
    assert amount_read(Transfer("Transfer 100 rubles and 50 kopeck to Mike", "Mike", "100.50", "RUB")) == Decimal("100.50")
    assert amount_read(Transfer("pay Ann one thousand two hundred and five dollars", "Ann", "1205.00", "USD")) == 1205
    for transfer in training + held_out:
        assert amount_read(transfer) == Decimal(transfer.sum), transfer


@pytest.mark.slow
def test_the_request_names_the_currency_of_the_json(training):
    """Guards that the request holds a mark of the right currency, and none of another."""
    for transfer in training:
        if Decimal(transfer.sum) >= 1:  # below, the minor unit alone can name it
            text = without_contractor(transfer).replace("euro cent", "cent")
            named = {code for code, mark in MARKS.items() if re.search(mark, text)}
            assert named == {transfer.currency} & MARKS.keys(), transfer


def test_no_word_or_sign_stands_for_two_currencies():
    """Guards the currency table: what can stand alone determines its code."""
    marks = Counter()
    for currency in CURRENCIES.values():
        forms = currency.mains + currency.lone_minors
        marks.update({word.lower() for form in forms for word in form})
        marks.update({sign.replace("#", "").strip() for sign in currency.signs})
    assert [mark for mark, count in marks.items() if count > 1] == []


def test_contractors_are_written_capitalised_in_the_json(training):
    """Guards normalisation: the JSON's form follows from a name in lower case or in capitals."""
    legal = set(LEGAL)
    for transfer in training:
        for word in transfer.contractor.split():
            assert word in legal or word == "&" or word == word.capitalize(), transfer


def test_contractors_in_unusual_case_end_where_the_sentence_shows_it(training):
    """Guards against requests such as "pay anna bella please", where a lower-case name has no clear end."""
    for transfer in training:
        if transfer.contractor not in transfer.request:
            _, *rests = transfer.request.lower().split(transfer.contractor.lower())  # "the bill of bill" has two
            assert any(re.match(rf"$|[,.;:?!]| [\d$£€¥₹₺₩₪฿]| {WORD}", rest) for rest in rests), transfer


@pytest.mark.slow
def test_requests_are_varied(training):
    """Guards against requests of only a few forms."""
    requests = [transfer.request for transfer in training]
    assert len(FRAMES) >= 60
    assert len({DIGITS.sub("#", SPELLED.sub("#", without_contractor(transfer))) for transfer in training}) > 5_000
    assert len(set(requests)) > 0.98 * len(requests)
    assert len({transfer.currency for transfer in training}) >= 16

    def share(pattern):
        return sum(bool(re.search(pattern, request)) for request in requests) / len(requests)

    assert 0.05 < share(r"^[Tt]ransfer \S.* to [^ ]+$")
    assert 0.10 < sum(not re.search(r"\d", request) for request in requests) / len(requests) < 0.25
    assert share(r"\d,\d{3}") > 0.08
    assert share(r"\d \d{3}") > 0.03
    assert share(r"[$€£¥₽₹₸₺₴₩]") > 0.08
    assert share(r"\b(RUB|USD|EUR|GBP)\b") > 0.08
    assert share(r"\b(rub|usd|eur|gbp)\b") > 0.01
    assert share(r"\d rubles? and \d+ kopec?ks?") > 0.01
    assert share(r"\d+ (kopeck|kopek|cent|penny)\b") > 0.01
    assert 0.1 < sum(transfer.contractor.lower() in transfer.request for transfer in training) / len(training) < 0.16
    assert 0.1 < sum(transfer.contractor.upper() in transfer.request for transfer in training) / len(training) < 0.16


def test_contractors_are_people_and_companies_mostly_made_up(training):
    """Guards that contractors must be copied: hardly any occurs often."""
    lengths = Counter(min(len(transfer.contractor.split()), 3) for transfer in training)
    assert all(lengths[length] > 500 for length in (1, 2, 3))
    assert 0.5 < lengths[1] / len(training) < 0.6
    assert len({transfer.contractor for transfer in training}) > 0.7 * len(training)
