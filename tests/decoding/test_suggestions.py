"""What is suggested at each key: chips and the rest, without profane words, and what was kept changes nothing."""

from data.messages import learn_tokenizer
from data.profanity import is_profane
from decoding.suggestions import REST, Suggestions, as_learned
from decoding.words import NextWords
from models.cache import growing_cache
from models.lstm import LSTM, LSTMConfig, Memory
from models.ngram import NGram, Recent
from models.transformer import Transformer
from tests.helpers import randomise, shape

import pytest
import torch

MESSAGES = ["so it is so", "it was so late", "so tired of it all", "late is late", "it is so late again", "so tiny and so late",
            "what the fuck is it", "what the fuck was it", "what the time is it", "it is late you ass again"]  # fmt: skip
BOS, EOS = 0, 2


@pytest.fixture(scope="module")
def tokenizer():
    return learn_tokenizer(MESSAGES * 3, 330)


@pytest.fixture(scope="module")
def ngram(tokenizer):
    """A model that has learned the messages nearly by heart."""
    return learned(MESSAGES, tokenizer)


def learned(messages, tokenizer):
    texts = [[BOS, *tokenizer.backend_tokenizer.encode(f" {message}", add_special_tokens=False).ids, EOS]
             for message in messages * 4]  # fmt: skip
    return NextWords(NGram(texts, len(tokenizer), 5), tokenizer, BOS, EOS, Recent)


@pytest.fixture(scope="module", params=["lstm", "generator"])
def random(request, tokenizer):
    """Random models, whose messages hardly ever end."""
    torch.manual_seed(0)
    if request.param == "lstm":
        model, new_cache = LSTM(LSTMConfig(len(tokenizer), 12, 24)).eval(), Memory
        with torch.no_grad():
            model.embed_tokens.weight.mul_(6)
    else:
        model = randomise(Transformer(shape(vocab_size=len(tokenizer), max_position_embeddings=200)), 0)
        new_cache = growing_cache
    return NextWords(model, tokenizer, BOS, EOS, new_cache, ahead=REST)


def free(next_words, threshold=0.0, blocked=lambda word: False, keep_case=None):
    return Suggestions(next_words, keep_case, blocked, threshold)


# ------------------------------------------------------------------------------------------------ what was typed


@pytest.mark.parametrize(("text", "keep_case", "expected"), [
    ("I'm so ti", False, "im so ti"), ("I'm so ", False, "im so "), ("tired.", False, "tired "), ("don'", False, "don"),
    ("ok 🙂", False, "ok "), ("привет", False, None), ("café", False, None), ("café ", False, "caf "),
    ("@ann so", False, "so"), ("ask @ann", False, None), ("@ann ", False, ""),
    ("see http://t.co/x", False, None), ("see http://t.co/x ", False, "see "), ("AT&amp;T is", False, "at t is"),
    ("", False, ""), ("  Ok,  so\tti", True, "Ok, so ti"),
    ("max @ann", True, None), ("привет, ме", True, "привет, ме"), ("so ", True, "so "),
    ("  I'm  so\tTi", None, "I'm so Ti"), ("@ann so ", None, "@ann so "), ("", None, "")])
def test_a_text_is_read_in_the_letters_that_the_model_has_learned(text, keep_case, expected):
    """By hand: an apostrophe joins, a full stop ends a word, mentions and links go, and what they would become is not known."""
    assert as_learned(text, keep_case) == expected


def test_what_is_shown_keeps_what_was_typed_and_adds_the_completion(ngram):
    """By hand: behind "so" stand "tired" and "tiny", so both complete "ti"; behind a full stop a blank comes first."""
    suggestions = free(ngram, keep_case=False)
    chips = {chip.word: chip for chip in suggestions.chips("It's, SO ti")}
    assert chips["tired"].completion == "red" and chips["tiny"].completion == "ny"
    assert suggestions.chips("so tired!")[0][::2] == ("of", " of")
    assert suggestions.chips("so tired ")[0][::2] == ("of", "of")
    assert suggestions.rest("So tired!") == " of it all" and suggestions.rest("So TIR") == "ed of it all"


@pytest.mark.parametrize("text", ["привет", "🙂", "...", "ask @ann", "http://t.co/x"])
def test_nothing_is_suggested_where_the_model_knows_no_letter(ngram, text):
    suggestions = free(ngram, keep_case=False)
    assert suggestions.chips(text) == [] and suggestions.rest(text) == ""


def test_behind_a_mention_a_message_begins(ngram):
    suggestions = free(ngram, keep_case=False)
    assert suggestions.chips("@ann ") == suggestions.chips("") != []


# ------------------------------------------------------------------------------------------------ words


def test_profane_words_are_no_chips_and_the_others_keep_their_probabilities(ngram):
    """By hand: behind "what the" stands "fuck" twice of three times. Three words are left all the same."""
    every, clean = free(ngram).chips("what the ", 6), free(ngram, blocked=is_profane).chips("what the ")
    assert every[0].word == "fuck" and len(clean) == 3
    kept = [chip for chip in every if chip.word != "fuck"][:3]
    assert [chip.word for chip in clean] == [chip.word for chip in kept]
    assert [chip.prob for chip in clean] == pytest.approx([chip.prob for chip in kept], rel=1e-3)
    assert not [chip for chip in free(ngram, blocked=is_profane).chips("what the fuc") if is_profane(chip.word)]
    assert clean[0].word == "time" and free(ngram, blocked=is_profane).rest("what the ") == "time is it"


def test_where_all_words_are_blocked_the_search_ends(ngram):
    """Bug avoided: one more word asked for as often as one was blocked would search the whole tree."""
    asked = []
    suggestions = Suggestions(ngram, None, lambda word: asked.append(word) or True, 0.0)
    assert suggestions.chips("so ") == [] and len(asked) <= 3 + 12


def test_where_the_likeliest_word_is_below_the_threshold_nothing_is_shown(ngram):
    """Bug: each word was held against it, and where one was likely enough it stood there alone."""
    chips = free(ngram).chips("so ti")
    between = (chips[0].prob + chips[1].prob) / 2
    assert len(chips) > 1 and free(ngram, between).chips("so ti") == chips
    assert free(ngram, between).rest("so ti") == free(ngram).rest("so ti")
    assert free(ngram, 0.999).chips("so ti") == [] and free(ngram, 0.999).rest("so ti") == ""


def test_a_word_is_blocked_as_it_would_be_seen(ngram):
    """Bug: "f*c" was completed to "f*ck", for the model's word "ck" offends nobody. Nor is "f" helped to "f ck"."""
    suggestions = free(ngram, blocked=is_profane, keep_case=False)
    assert suggestions.chip("what the f*c", "c", "ck", 0.5) is None
    assert suggestions.chip("what the f ", "", "ck", 0.5) is None
    assert suggestions.allowed("the", ["f", "ck"]) == ["f"]
    assert suggestions.chip("what the ro", "ro", "rock", 0.5) == ("rock", 0.5, "ck")


def test_an_apostrophe_is_followed_by_what_can_stand_there(ngram):
    """Bug: "we'" became "we'lcome", since the model knows words without apostrophes."""
    suggestions = free(ngram, keep_case=False)
    for typed, word, completion in (("we'", "were", "re"), ("I'", "im", "m"), ("can'", "cant", "t"), ("we’", "were", "re")):
        assert suggestions.chip(typed, word[:-len(completion)], word, 0.5).completion == completion
    assert suggestions.chip("we'", "we", "welcome", 0.5) is None and suggestions.chip("I'", "i", "its", 0.5) is None
    assert suggestions.chip("I'", "i", "is", 0.5) is None and suggestions.chip("hi'", "hi", "his", 0.5) is None
    assert suggestions.chip("we’", "we", "welcome", 0.5) is None  # bug: a phone's apostrophe was not seen as one


def test_capitals_go_on(ngram):
    """Bug: "I AM SO TI" became "I AM SO TIred"."""
    suggestions = free(ngram, keep_case=False)
    assert suggestions.chip("I AM SO TI", "ti", "tired", 0.5).completion == "RED"
    assert suggestions.as_typed("I AM SO TI", " of it") == " OF IT"
    assert suggestions.as_typed("I", " am") == " am" and suggestions.as_typed("I am so TI", "red") == "red"


# ------------------------------------------------------------------------------------------------ the rest


def test_the_rest_begins_with_the_first_chip_and_ends_where_the_message_does(ngram):
    """By hand: each is a message that was learned."""
    suggestions, wanted = free(ngram), {"so tired of ": "it all", "so tir": "ed of it all", "so tired of it all": ""}
    for text, rest in wanted.items():
        assert suggestions.chips(text)[0].completion == rest.partition(" ")[0] and suggestions.rest(text) == rest


def test_the_rest_ends_before_a_blocked_word(ngram):
    """By hand: "it is late you ass again"."""
    assert free(ngram).rest("it is late y") == "ou ass again"
    assert free(ngram, blocked=is_profane).rest("it is late y") == "ou"


def test_the_rest_ends_with_the_line(tokenizer):
    """What a model writes behind a line end, as pretrained ones do, is another message."""
    assert free(learned(["so it is\nso late"], tokenizer)).rest("so ") == "it is"


def greedy(next_words, ids):
    """The likeliest token again and again, each text read anew; the first is a border."""
    written, borders = [], next_words.vocabulary.borders
    while len(written) < REST and EOS not in written:
        with torch.no_grad():
            logits = next_words.model(input_ids=torch.tensor([ids + written])).logits[0, -1]
        written.append(int(logits.argmax() if written else borders[logits[borders].argmax()]))
    return written


def test_the_rest_is_greedy_behind_the_best_chip_and_a_word_that_the_limit_cuts_is_left_out(random, tokenizer):
    """Oracle: the likeliest tokens, each text read anew."""
    for text in ("so ti", "it was ", "la", ""):
        suggestions = free(random)
        ids, context, _ = suggestions.place(text)
        chip = suggestions.chips(text)[0]
        written = greedy(random, [*ids, *context.spelling(chip.word).tokens])
        words = tokenizer.decode([token for token in written if token != EOS]).partition("\n")[0].split()
        words = words if written[-1] == EOS else words[:-1]
        words = words[:next((i for i, word in enumerate(words) if "\ufffd" in word), None)]
        assert suggestions.rest(text) == chip.completion + "".join(f" {word}" for word in words)


def test_a_text_typed_key_by_key_has_the_rest_of_a_text_alone(ngram, random):
    """The rest of an earlier text is used where it holds: words added along it and against it, and deleted."""
    texts = ("", "s", "so", "so ", "so t", "so ti", "so tir", "so tired ", "so tired of", "so tiny", "so ", "it", "it was")
    for next_words in (ngram, random):
        suggestions = free(next_words)
        for text in texts:
            assert suggestions.rest(text) == free(next_words).rest(text), text


def test_typing_along_the_rest_writes_nothing_anew(ngram, monkeypatch):
    suggestions, written = free(ngram), []
    write = Suggestions.write
    monkeypatch.setattr(Suggestions, "write", lambda self, *args: written.append(args[1]) or write(self, *args))
    for end in range(len("so tir"), len("so tired of it all")):
        suggestions.rest("so tired of it all"[:end])
    assert written == ["tired"]


def test_a_rest_that_nobody_waits_for_is_given_up(ngram):
    """It leaves nothing half written: the next one of the same text is whole."""
    suggestions, asked = free(ngram), []
    assert suggestions.rest("so tired ", lambda: asked.append(1) or len(asked) == 2) == ""
    assert len(asked) == 2 and suggestions.rest("so tired ") == "of it all"


@pytest.mark.parametrize("text", ["x" * 2000, "so it is " * 1000 + "s", "\x00\x1b[31m so", "so\nti", "\u2028 so", "🙂" * 50,
                                  " "])  # fmt: skip
@pytest.mark.parametrize("keep_case", [None, False])
def test_whatever_is_typed_is_no_error(ngram, text, keep_case):
    suggestions = free(ngram, keep_case=keep_case)
    assert len(suggestions.chips(text)) <= 3
    assert isinstance(suggestions.rest(text), str)
