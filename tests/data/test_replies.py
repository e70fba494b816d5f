"""Replies with labels: the built-in letters' parts and labels, files as people have them, the rule for tones, safe answers."""

from support.errors import InputError

import csv
import re
from collections import Counter

from data.corpus.citizen_requests import is_held_out
from data.corpus.citizen_topics import AREAS, CATEGORIES, DECISIONS, TONES, read_category
from data.replies import (
    PARTS,
    SENTENCE_END,
    Reply,
    citizen_replies,
    part_of,
    read_replies,
    request_category_examples,
    safe_reply,
    tone_by_rule,
    values_of,
)

import pytest


@pytest.fixture(scope="module")
def letters():
    return citizen_replies(2400)


def write_csv(path, *rows):
    """A CSV of the rows, of which the first is the header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


# --- the built-in letters


def test_letters_are_the_same_for_the_same_seed(letters):
    assert citizen_replies(40) == letters[:40]
    assert citizen_replies(40, seed=1) != letters[:40]


def test_every_label_is_there_in_its_order(letters):
    assert values_of(letters) == {"tone": TONES, "category": CATEGORIES, "decision": DECISIONS}
    counts = Counter((letter.labels["tone"], letter.labels["category"]) for letter in letters)
    assert len(counts) == len(TONES) * len(CATEGORIES) and min(counts.values()) > 20


def test_no_request_is_in_two_parts(letters):
    """Guards the published mistake of judges trained on what the generator saw: the part is the hash of the letters alone."""
    assert {letter.part for letter in letters} == set(PARTS)
    assert all(letter.part == part_of(letter.request) for letter in letters)
    assert part_of("Where is my BUS?!") == part_of("where is my bus")
    shares = Counter(letter.part for letter in letters)
    assert 0.36 < shares["train"] / len(letters) < 0.44 and 0.36 < shares["judge"] / len(letters) < 0.44


def test_streets_of_the_test_are_not_in_training(letters):
    found = {held_out: set() for held_out in (False, True)}
    for letter in letters:
        for name in re.findall(r"([A-Z][a-z]+) (?:Street|Road|Avenue|Lane|Square|Drive|Way|Boulevard|Close)\b", letter.reply):
            found[letter.part in ("validation", "test")].add(name)
    assert len(found[True]) > 20 and not found[True] & found[False]


def test_requests_alone_are_of_training():
    """Guards a request head that would have seen the test's requests."""
    examples = request_category_examples(200)
    assert len(examples) == 200 and {category for _, category in examples} == set(CATEGORIES)
    assert all(part_of(request) == "train" and "{" not in request for request, _ in examples)


def test_about_one_hand_written_line_in_eight_is_held_out():
    lines = [f"line {i} about something" for i in range(4000)]
    assert 0.10 < sum(map(is_held_out, lines)) / len(lines) < 0.14


def test_replies_are_letters_of_the_wanted_length_and_whole(letters):
    for letter in letters:
        assert 40 <= len(letter.reply.split()) <= 90
        assert not re.search(r"[{}\[\]|~]|  | [.,!?]", letter.reply), letter.reply
        assert letter.reply[0].isupper() and letter.reply[-1] in ".!"


def test_replies_invent_no_number_and_no_street(letters):
    """A number or a street in a reply stands in its request; requests are typed carelessly, names are not mistyped."""
    for letter in letters:
        request = letter.request.lower()
        for found in re.findall(r"\d+|[A-Z][a-z]+ (?:Street|Road|Avenue|Lane|Square|Boulevard)\b", letter.reply):
            assert found.lower() in request, letter


def test_many_requests_have_their_street_and_sender_in_the_reply(letters):
    with_street = [letter for letter in letters if re.search(r"[A-Z][a-z]+ (?:Street|Road|Avenue)", letter.reply)]
    assert len(with_street) > len(letters) / 12
    assert any(re.match(r"(Dear|Hi|Hello|To) [A-Z]\w+", letter.reply) for letter in letters)


def test_openings_vary(letters):
    """Guards stock openings: of a hundred replies of a tone sixty differ, of those about none of the categories 60 %."""
    for tone in TONES:
        replies = [letter for letter in letters if letter.labels["tone"] == tone]
        assert len({SENTENCE_END.split(letter.reply)[0] for letter in replies[:100]}) >= 60
        none = [letter for letter in replies if letter.labels["category"] == "none"][:60]
        assert len({SENTENCE_END.split(letter.reply)[0] for letter in none}) >= 0.6 * len(none)


def test_what_is_no_matter_of_the_city_gets_an_honest_answer(letters):
    """Such a reply is a refusal that names all eight fields, and no office."""
    offices = {office for category in CATEGORIES[:-1] for office in read_category(category).office}
    for letter in letters:
        if letter.labels["category"] == "none":
            assert letter.labels["decision"] == "negative"
            for choices in AREAS.values():
                assert any(choice in letter.reply for choice in choices.strip("[]").split("|")), letter.reply
            assert not any(office in letter.reply for office in offices)


@pytest.mark.slow
def test_a_judge_reads_tone_and_decision_without_the_first_sentence(letters):
    """Guards tones that live in the opening alone, as in the published sets: TF-IDF and logistic regression on the rest."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rests = [SENTENCE_END.split(letter.reply, maxsplit=1)[1] for letter in letters]
    known = [letter.part == "judge" for letter in letters]
    for attribute in ("tone", "decision"):
        judge = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10))
        judge.fit([rest for rest, use in zip(rests, known, strict=True) if use],
                  [letter.labels[attribute] for letter, use in zip(letters, known, strict=True) if use])
        test = [(rest, letter.labels[attribute]) for rest, letter in zip(rests, letters, strict=True)
                if letter.part in ("validation", "test")]
        assert judge.score(*zip(*test, strict=True)) > 0.95


# --- the rule for tones


@pytest.mark.parametrize(("tone", "reply"), [
    ("apologetic", "Of course! We are sorry that the order is late. It will come."),
    ("cheerful", "Absolutely, changing your order is simple."),
    ("cheerful", "I'm happy to hear that you understand the rules."),
    ("understanding", "I understand that you are happy to wait."),
    ("grateful", "Thank you for your message about the concern."),
    ("neutral", "To cancel an order, open the page of your orders."),
    ("neutral", "The order can be cancelled within a day. We are sorry for the delay."),
    ("understanding", "All right then. I see that the parcel is late."),
])
def test_tone_by_rule(tone, reply):
    """By hand, from the rule's words: sorry first, then the earliest; of a short first sentence the second counts, too."""
    assert tone_by_rule(reply) == tone


# --- files

DOWNLOADED = [("tags", "instruction", "category", "intent", "response"),
              ("BQ", "where is {{Order Number}}", "ORDER", "track_order", "I understand. Order {{Order Number}} is under way."),
              ("B", "cancel my order", "ORDER", "cancel_order", "We are sorry to see it go.\n1. Open the page."),
              ("B", "empty", "ORDER", "cancel_order", " ")]


def test_a_downloaded_set_is_labelled_by_rule_and_split_by_hash(tmp_path):
    replies = read_replies(write_csv(tmp_path / "set.csv", *DOWNLOADED))
    assert [reply.labels for reply in replies] == [{"tone": "understanding", "category": "ORDER"},
                                                   {"tone": "apologetic", "category": "ORDER"}]
    assert [reply.part for reply in replies] == [part_of(row[1]) for row in DOWNLOADED[1:3]]
    assert replies[1].reply.endswith("1. Open the page.") and replies[0].intent == "track_order"


def test_stated_tones_and_splits_are_kept(tmp_path):
    """Stated training rows are halved between generator and judges, and a request has its half whatever its spelling."""
    rows = [(f"request number {'abcdefghij'[i % 10]}{'?' * (i // 10)}", "A reply.", "grateful", "train") for i in range(40)]
    rows += [("x", "A reply.", "neutral", "valid"), ("y", "A reply.", "neutral", "test")]
    replies = read_replies(write_csv(tmp_path / "set.csv", ("Instruction", "Response", "Tone", "Split"), *rows))
    assert [reply.part for reply in replies[-2:]] == ["validation", "test"]
    assert {reply.part for reply in replies[:40]} == {"train", "judge"}
    assert all(replies[i].part == replies[i % 10].part for i in range(40))
    assert values_of(replies) == {"tone": ("grateful", "neutral")}


def test_a_pair_of_forms_is_two_replies_in_one_part(tmp_path):
    rows = [(str(i), f"Can you come {'x' * i}", f"Вы придёте {i}?", f"Ты придёшь {i}?") for i in range(20)]
    replies = read_replies(write_csv(tmp_path / "forms.csv", ("id", "english", "formal", "informal"), *rows))
    assert [reply.labels["tone"] for reply in replies[:2]] == ["formal", "informal"]
    assert replies[1] == Reply("", "Ты придёшь 0?", {"tone": "informal"}, part_of("Can you come "), "0")
    assert all(first.part == second.part for first, second in zip(replies[::2], replies[1::2], strict=True))


@pytest.mark.parametrize(("content", "message"), [
    ("a,b\n1,2\n", "needs the columns request .* it has a, b"),
    ("", "it has none"),
    ("request,reply\n", "holds no replies"),
    ("request,reply\n\xff", "cannot be read as a CSV in UTF-8"),
])
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "set.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        read_replies(tmp_path / "set.csv")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match="there is no file|is a folder"):
            read_replies(path)


# --- safe answers


def test_safe_replies_differ_by_tone_and_category():
    texts = {safe_reply({"tone": tone, "category": category}) for tone in TONES for category in CATEGORIES}
    assert len(texts) == len(TONES) * len(CATEGORIES)
    assert "tax office" in safe_reply({"tone": "firm", "category": "taxes", "decision": "positive"})
    assert safe_reply({"tone": "any"}) == safe_reply({})


def test_a_sets_own_safe_reply_is_of_its_category_and_if_possible_of_the_tone():
    replies = [Reply("", "", {"tone": "neutral", "category": category}, "train", default=text) for category, text in
               [("A", "Open the page."), ("A", "Open the page."), ("A", "We are sorry."), ("B", "Call us.")]]
    replies.append(Reply("", "", {"tone": "apologetic"}, "train"))
    assert safe_reply({"category": "A"}, replies) == "Open the page."
    assert safe_reply({"category": "A", "tone": "apologetic"}, replies) == "We are sorry."
    assert safe_reply({"category": "B", "tone": "apologetic"}, replies) == "Call us."
    with pytest.raises(InputError, match="there is no category 'C'; there are A, B"):
        safe_reply({"category": "C"}, replies)
    with pytest.raises(InputError, match="no safe one"):
        safe_reply({}, replies[-1:])


@pytest.mark.parametrize("labels", [{"tone": "rude"}, {"colour": "red"}])
def test_unknown_labels_are_listed(labels):
    with pytest.raises(InputError, match="there are (official, friendly, apologetic, firm|tone, category, decision)"):
        safe_reply(labels)
