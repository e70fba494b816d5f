"""The tables behind the built-in letters: they are complete, they agree, and requests keep what a reply takes up."""

import random
import re

from data.corpus.citizen_requests import is_question, noisy, template_request, thing_in, with_slips, written_request
from data.corpus.citizen_topics import (
    CATEGORIES,
    TONES,
    agree,
    everyday_words,
    is_plural,
    listed,
    particulars,
    read_blocks,
    read_category,
    titled,
    with_article,
)
from data.corpus.names import reserved

import pytest

SLOTS = re.compile(r"\{(?:a )?(\w+)\}")


@pytest.mark.parametrize("category", CATEGORIES[:-1])
def test_a_category_is_wide(category):
    """At least sixty things in several topics, and words beside them, each thing in one topic only."""
    table = read_category(category)
    things = [thing for topic in table.topics for thing in topic.things]
    assert len(things) >= 60 and len(things) == len(set(things)) and len(table.words) >= 400
    for topic in table.topics:
        assert min(map(len, (topic.problems, topic.wants, topic.questions))) >= 4
        assert len(topic.act) >= 3 and len(topic.advice) >= 3 and topic.other


def test_none_has_words_of_daily_life():
    assert sum(map(len, everyday_words().values())) >= 600 and len(read_category("none").requests) >= 300


def test_all_tones_have_the_same_blocks_with_the_same_slots():
    allowed = set("topic office act advice reason detail areas street date name matter is has".split())
    blocks = [read_blocks(tone) for tone in TONES]
    assert all(block.keys() == blocks[0].keys() for block in blocks)
    for name in blocks[0]:
        for block in blocks:
            assert len(block[name]) >= (1 if name.startswith("safe") else 3)
            assert all(found.lower() in allowed for line in block[name] for found in SLOTS.findall(line))


def test_grammar_by_hand():
    assert not any(is_plural(thing) for thing in ("bus", "glass", "diagnosis", "smell of pipes"))
    assert all(is_plural(thing) for thing in ("street lights", "taxes of a firm", "boys with quads"))
    assert agree("the {thing} {is} loud and {cries}", True) == "the {thing} are loud and cry"
    assert agree("the {thing} {goes}", False) == "the {thing} goes"
    assert list(map(with_article, ("ID card", "bus", "~heating", "lights"))) == ["an ID card", "a bus", "heating", "lights"]
    assert listed(["a"]) == "a" and listed("abc") == "a, b and c"
    assert titled("hello. i am here! it is i") == "Hello. I am here! It is I"


@pytest.mark.parametrize("held_out", [False, True])
def test_particulars_are_all_reserved_or_none(held_out):
    rng = random.Random(0)
    for _ in range(200):
        found = particulars(rng, held_out)
        assert reserved(found["street"].split()[0]) == held_out
        assert all(reserved(word) == held_out for word in found["name"].split())


def test_a_request_by_templates_keeps_its_street_date_and_name():
    """However carelessly it is typed; "Linden Street" may become "linden street", not "lidnen street"."""
    rng = random.Random(1)
    for i in range(1500):
        request = template_request(rng, CATEGORIES[i % len(CATEGORIES)], held_out=False)
        for value in request.slots.values():
            words = re.findall(r"\w+", value.lower())
            assert words[0] in re.findall(r"\w+", request.text.lower()), request
        assert request.text.strip() and "{" not in request.text


def test_slips_spare_names():
    slots = {"street": "Linden Street", "street2": "Hill Road", "date": "Monday", "name": "Martha"}
    text = "Martha waits in Linden Street since Monday because everything everywhere is broken"
    typed = with_slips(random.Random(0), text, slots, share=1)
    assert all(word in typed.split() for word in ("Martha", "Linden", "Street", "Monday"))
    assert "everything" not in typed


def test_noise_has_many_forms():
    slots = particulars(random.Random(0), False)
    rng = random.Random(0)
    forms = {noisy(rng, "please tell me, when does the bus come?", slots) for _ in range(300)}
    assert len(forms) > 40 and any(form.isupper() for form in forms) and any("pls" in form for form in forms)


def test_a_hand_written_line_is_answered_by_what_it_names():
    line = "Hi, the street light on {street} is dead since {date}. Regards, {name}"
    request = written_request(random.Random(3), "roads", line, held_out=True)
    assert request.topic.other == "lighting" and request.thing == "street light"
    assert set(request.slots) == {"street", "date", "name"} and request.slots["street"].lower() in request.text.lower()
    assert "name" not in written_request(random.Random(3), "schools", "my son {name} has no teacher", False).slots
    assert thing_in("roads", "no idea what to say") == (None, "")


def test_questions_are_told_by_their_form():
    assert is_question("How much is a ticket") and is_question("the bus on sunday, does it run?")
    assert not is_question("The bus is late.")
