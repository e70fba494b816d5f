"""What is measured of models that complete messages: by hand, by enumeration, and the published bugs of such comparisons."""

from support.errors import InputError

import itertools
import math

from data.tokenizer import make_tokenizer
from decoding.suggestions import Suggestions
from decoding.words import NextWords
from models.lstm import LSTM, LSTMConfig, Memory
from models.ngram import NGram, Recent, WordNGram
from studies.completion import BEAMS, CAP, Rest, example, key_seconds, rests, rouge, surprises, token_nats, typed, write_rest

import pytest
import torch

MESSAGES = ["so it is so", "it was so late", "so tired of it all", "late is late", "it is so late again"]
BOS, EOS = 0, 2  # <|endoftext|> and <|im_end|> in a tokenizer learned here


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer("bpe", [f" {message}" for message in MESSAGES] * 3, 290)


@pytest.fixture(scope="module")
def lstm(tokenizer):
    torch.manual_seed(1)
    model = LSTM(LSTMConfig(tokenizer.get_vocab_size(), 8, 12)).eval()
    return NextWords(model, tokenizer, BOS, EOS, Memory)


@pytest.fixture(scope="module")
def ngram(tokenizer):
    """A model that has learned the messages nearly by heart."""
    texts = [[BOS, *tokenizer.encode(f" {message}").ids, EOS] for message in MESSAGES * 4]
    return NextWords(NGram(texts, tokenizer.get_vocab_size(), 5), tokenizer, BOS, EOS, Recent)


class Chips:
    """Offers by hand: {(finished words, letters): chips}; the first has the probability 0.5."""

    def __init__(self, offers):
        self.offers = offers

    def contexts(self, texts):
        return texts

    def find(self, contexts, typed, count):
        return [[(word, 0.5 / (i + 1)) for i, word in enumerate(self.offers.get(key, ["x", "y", "z"])[:count])]
                for key in zip(contexts, typed, strict=True)]  # fmt: skip


# ------------------------------------------------------------------------------------------------ surprises


def test_all_texts_of_a_tiny_model_have_probability_one_together():
    """Oracle: the sum of e^-nats over every text of up to four tokens that ends, and over those that could go on.

    By hand for one token besides the end, always 0.4 and 0.6: 0.6 + 0.4 * 0.6 + 0.4^2 = 1; the text of one token costs
    ln(1 / 0.24) = 1.427 nats, which over its one character are 2.06 bits.
    """
    torch.manual_seed(0)
    model = LSTM(LSTMConfig(4, 6, 8)).eval()
    texts = [[0, *ids, 3] for n in range(4) for ids in itertools.product((0, 1, 2), repeat=n)]
    open_ = [[0, *ids] for ids in itertools.product((0, 1, 2), repeat=4)]
    total = sum(math.exp(-sum(nats)) for nats, _ in token_nats(model, texts + open_, 3))
    assert total == pytest.approx(1, abs=1e-5)


def test_bits_are_those_of_one_token_after_another(lstm):
    """Oracle: each token's probability after all before it, read anew; the words' nats and the end's are their sums."""
    records = surprises(lstm.model, lstm, MESSAGES)
    for message, record in zip(MESSAGES, records, strict=True):
        ids, nats = [*lstm.ids(message), EOS], []
        for place in range(1, len(ids)):
            with torch.no_grad():
                log_probs = lstm.model(input_ids=torch.tensor([ids[:place]])).logits[0, -1].log_softmax(-1)
            nats.append(-log_probs[ids[place]].item())
        assert sum(record["words"]) + record["end"] == pytest.approx(sum(nats), abs=1e-2)
        assert record["end"] == pytest.approx(nats[-1], abs=1e-3)
        assert len(record["words"]) == len(message.split()) and record["tokens"] == len(nats)
        (first_word,) = (lstm.ids(message.split()[0]),)
        assert record["words"][0] == pytest.approx(sum(nats[:len(first_word) - 1]), abs=1e-3)


def test_the_end_is_expected_where_it_is_the_likeliest_token(ngram):
    """By hand: "it is so" ended nowhere, "so it is so" always; "so late" went on once of two times."""
    record, other = surprises(ngram.model, ngram, ["so it is so", "so it is so tired"])
    assert record["ends"] == [1, 0]  # expected where it came, and nowhere else
    assert other["ends"][1] == 1  # behind "so it is so", where it did not come


def test_a_tokenizer_that_loses_words_is_refused():
    """The published bug: words outside the vocabulary become `<unk>`, cheap to predict, and count as right.

    Here a model whose tokenizer cannot write a message has no bits per character, and no word of it is ever unknown.
    """
    tokenizer = make_tokenizer("word", MESSAGES, 12)
    torch.manual_seed(0)
    model = LSTM(LSTMConfig(tokenizer.get_vocab_size(), 4, 6)).eval()
    with pytest.raises(InputError, match="without loss"):
        surprises(model, NextWords(model, tokenizer, BOS, EOS, Memory), ["so zebras again"])


# ------------------------------------------------------------------------------------------------ typed


def test_the_ideal_user_by_hand():
    """"go to bed": "go" stands second before any letter: 1 key, with its blank. "to" comes after "t": 2 keys. "bed" never: 3
    letters, no blank behind the last word. Together 6 keys of 9 characters."""
    chips = Chips({("", ""): ["so", "go", "no"], ("go", "t"): ["to", "time", "the"]})
    (record,) = typed(chips, ["go to bed"])
    assert record == {"places": [2, 0, 0], "probs": [0.5, 0.5, 0.5], "keys": [1, 2, 3]}


def test_a_word_that_is_typed_to_its_end_costs_its_letters_and_its_blank():
    """By hand: "ab cd" without chips is five keys; with "ab" offered after its last but one letter, two: no key is won."""
    assert typed(Chips({}), ["ab cd"])[0]["keys"] == [3, 2]
    assert typed(Chips({("", "a"): ["ab"]}), ["ab cd"])[0]["keys"] == [2, 2]
    assert typed(Chips({("ab", "c"): ["cd"]}), ["ab cd"])[0]["keys"] == [3, 2]


def test_many_messages_at_once_are_each_as_if_alone(lstm):
    """By batch or alone: the probability of the first chip, the places and the keys."""
    for message, record in zip(MESSAGES, typed(lstm, MESSAGES), strict=True):
        (alone,) = typed(lstm, [message])
        assert (alone["places"], alone["keys"]) == (record["places"], record["keys"])
        assert alone["probs"] == pytest.approx(record["probs"], abs=2e-4)


def test_an_unknown_word_is_never_right():
    """The published bug: `<unk>` counted as right, where both the message and the answer had an unknown word."""
    words = WordNGram(MESSAGES)
    (record,) = typed(words, ["zebras so zebras"])
    assert (record["places"][0], record["places"][2]) == (0, 0)
    assert record["keys"][0] == len("zebras ") and record["keys"][2] == len("zebras")


def test_the_example_is_what_the_ideal_user_does_key_by_key(ngram):
    """By hand: "g", then the chip "go" with its blank, "t" and "o"."""
    steps = example(Chips({("", "g"): ["go", "get", "good"]}), "go to")
    assert [(step["text"], step["taken"]) for step in steps] == [("", None), ("g", "go"), ("go ", None), ("go t", None)]
    for message in MESSAGES:
        assert len(example(ngram, message)) == sum(typed(ngram, [message])[0]["keys"])


def test_every_key_has_a_time(lstm):
    assert len(key_seconds(lstm, "so it")) == 6 and min(key_seconds(lstm, "so it")) > 0
    assert len(key_seconds(WordNGram(MESSAGES), "so it")) == 6


def test_a_keys_time_is_that_of_all_that_autocomplete_does(lstm, monkeypatch):
    """Chips and the rest of the message, of each text. Bug: once, the time of the chips alone."""
    asked = []
    for name in ("chips", "rest"):
        monkeypatch.setattr(Suggestions, name, lambda self, text, name=name: asked.append((name, text)))
    key_seconds(lstm, "so")
    assert asked == [(name, text) for text in ("", "s", "so") for name in ("chips", "rest")]


# ------------------------------------------------------------------------------------------------ rests


def test_the_beginning_is_no_part_of_what_is_judged(ngram):
    """The published bug: the prompt inside the hypothesis, which shares most of its words with the reference's message."""
    written = write_rest(ngram.model, ngram, "so tired of")
    assert written.text.strip() == "it all" and written.ended
    assert written.likeliest[0].strip() == "it all" and len(written.likeliest) >= BEAMS
    (record,) = rests(lambda context: Rest("", True, [context]), ["so tired of it"], False)
    assert record["rouge"] == [0, 0, 0] and record["place"] == 0


def test_nothing_behind_the_end_is_judged(tokenizer):
    """The published bug: text after the end scored. A model that would write on behind its end has written nothing there."""
    ids = [tokenizer.encode(f" {word}").ids for word in ("so", "it", "late")]
    texts = [[BOS, *ids[0], *ids[1], EOS, *ids[2], EOS]] * 5
    next_words = NextWords(NGram(texts, tokenizer.get_vocab_size(), 5), tokenizer, BOS, EOS, Recent)
    written = write_rest(next_words.model, next_words, "so")
    assert written.text.strip() == "it" and written.likeliest[0].strip() == "it"
    assert not any("<|im_end|>" in text for text in written.likeliest)


def test_a_text_that_does_not_end_is_cut_off_at_the_cap(lstm):
    written = write_rest(lstm.model, lstm, "so it")
    assert not written.ended and len(lstm.tokenizer.encode(written.text).ids) <= CAP


def test_rests_by_hand():
    """Of "a b c d" the rest is "d"; what is written is cleaned as messages are: "D!" is "d". Beams that clean to one text are
    one. Messages of fewer than four words are left out."""
    written = {"a b c": Rest("D!", True, ["e", "E.", "d"]), "a b c d e f": Rest("g", False, ["x", "y"])}
    found = rests(written.__getitem__, ["a b c d", "a b c", "a b c d e f g h"], False)
    assert found[0] == {"place": 2, "rouge": [1, 0, 1], "words": [1, 1], "ended": True}
    assert found[1] is None
    assert found[2] == {"place": 0, "rouge": pytest.approx([2 / 3, 0, 2 / 3], abs=1e-4), "words": [1, 2], "ended": False}


def test_rouge_is_that_of_rouge_score_in_every_alphabet():
    """Oracle: rouge-score with its own tokenizer, for Latin letters. That one loses all others: identical Russian texts get 0.

    By hand for "going to bed now" and "to bed": of two words both are right, of four two are found, F = 2 * 1 * 0.5 / 1.5 =
    0.667; of pairs one of one and one of three, F = 0.5; the longest common sequence has two words, F = 0.667.
    """
    from rouge_score.rouge_scorer import RougeScorer

    score, theirs = rouge(), RougeScorer(["rouge1", "rouge2", "rougeL"])
    assert score("going to bed now", "to bed") == pytest.approx([2 / 3, 0.5, 2 / 3])
    for wanted, written in itertools.product(MESSAGES, MESSAGES):
        assert score(wanted, written) == [value.fmeasure for value in theirs.score(wanted, written).values()]
    assert theirs.score("я иду домой", "я иду домой")["rouge1"].fmeasure == 0
    assert score("я иду домой", "я иду домой") == [1, 1, 1]
