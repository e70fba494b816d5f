"""Next words: their probabilities against enumeration of all token sequences, and what is kept between keys."""

import itertools
from collections import defaultdict

from decoding.words import NextWords, Typing, Vocabulary, spread, token_bytes
from models.cache import growing_cache
from models.lstm import LSTM, LSTMConfig, Memory
from models.transformer import Output, Transformer
from tests.helpers import randomise, shape, story_tokenizer

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TOKENS = ["<eos>", " a", " b", " ab", " ", "a", "b", "ba"]  # a blank and letters begin a word, letters alone continue it
EOS = 0
BEGIN, REST = (1, 2, 3, 4), (5, 6, 7)
LONGEST = 3  # tokens in a word of the model below


class Ids:
    """A cache that is the ids themselves."""

    def __init__(self):
        self.ids = None

    def get_seq_length(self):
        return 0 if self.ids is None else self.ids.shape[1]

    def batch_select_indices(self, rows):
        self.ids = self.ids[rows]


class Scripted(torch.nn.Module):
    """Random logits that depend on the whole text; no word is longer than LONGEST tokens, and none is empty."""

    config = LSTMConfig(len(TOKENS))

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = 0

    def forward(self, input_ids, past_key_values, logits_to_keep):
        past_key_values.ids = input_ids if past_key_values.ids is None else torch.cat([past_key_values.ids, input_ids], 1)
        self.seen += len(input_ids)
        return Output(torch.stack([self.after(row) for row in past_key_values.ids.tolist()])[:, None])

    def after(self, ids):
        generator = torch.Generator().manual_seed(hash(tuple(ids)) % 2**31)
        logits = 2 * torch.randn(len(TOKENS), generator=generator)
        length = next((i for i, token in enumerate(reversed(ids)) if token in BEGIN), 0) + 1
        if length == LONGEST:
            logits[list(REST)] = -torch.inf
        if ids[-1] == 4:  # a blank is no word
            logits[[EOS, *BEGIN]] = -torch.inf
        return logits


def tokenizer_of(tokens):
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=tokens[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([tokens[0]])
    return tokenizer


@pytest.fixture
def scripted():
    return NextWords(Scripted(), tokenizer_of(TOKENS), EOS, EOS, Ids)


def enumerated(model, ids):
    """Every word after ids, by all sequences of up to LONGEST tokens: its probability given a border; and the end's."""
    words, (first, *_) = defaultdict(float), [model.after(ids).softmax(0)]
    border = first[[EOS, *BEGIN]].sum().item()
    for length in range(LONGEST):
        for tokens in itertools.product(BEGIN, *[REST] * length):
            prob, text = 1.0, [*ids]
            for token in tokens:
                prob *= model.after(text).softmax(0)[token].item()
                text.append(token)
            word = "".join(TOKENS[token] for token in tokens)[1:]
            words[word] += prob * model.after(text).softmax(0)[[EOS, *BEGIN]].sum().item() / border
    return {word: prob for word, prob in words.items() if prob}, first[EOS].item() / border


def test_the_probabilities_of_all_words_are_those_of_all_sequences(scripted):
    """Oracle: enumeration of all sequences of up to three tokens. The word "ab" has six spellings here: " ab"; " a", "b";
    " ", "a", "b"; and of "aba" there are " a", "ba"; " ab", "a"; " ", "a", "ba" ...

    By hand, where " ab" has 0.3 and " a" 0.2, "b" after it 0.5, a border after each 0.6 and 0.4, and the end 0.1 of a border:
    P(ab) = (0.3 * 0.6 + 0.2 * 0.5 * 0.4) / 0.9 = 0.244, given that a word follows.
    """
    for ids in ([EOS], [EOS, 1], [EOS, 2, 5, 3]):
        expected, end = enumerated(scripted.model, ids)
        assert sum(expected.values()) + end == pytest.approx(1)
        (context,) = scripted.read(torch.tensor([ids]))
        (found,) = scripted.search([context], [""], len(expected))
        assert dict(found.words) == pytest.approx({word: prob / (1 - end) for word, prob in expected.items()}, abs=1e-5)
        assert sum(prob for _, prob in found.words) * (1 - end) + end == pytest.approx(1, abs=1e-5)
        assert found.left_out == pytest.approx(0, abs=1e-5)
        assert [prob for _, prob in found.words] == sorted((prob for _, prob in found.words), reverse=True)


@pytest.mark.parametrize("typed", ["a", "b", "ab", "ba", "aba"])
def test_given_letters_the_probabilities_are_conditional_on_them(scripted, typed):
    """Oracle: the enumerated words that begin so, divided by their sum. The letters are no tokens: "ab" begins " ab", and
    " a" with "ba" after it."""
    expected, _ = enumerated(scripted.model, [EOS, 1])
    expected = {word: prob for word, prob in expected.items() if word.startswith(typed)}
    total = sum(expected.values())
    (context,) = scripted.read(torch.tensor([[EOS, 1]]))
    (found,) = scripted.search([context], [typed], len(expected) + 1)
    assert dict(found.words) == pytest.approx({word: prob / total for word, prob in expected.items()}, abs=1e-5)


@pytest.mark.parametrize("typed", ["", "a", "b", "ab"])
def test_a_pruned_search_finds_the_top_words_and_states_what_it_left_out(scripted, typed):
    """Each probability is at least the one given, and at most that plus `left_out`."""
    for last in (1, 2, 3, 5, 6, 7):
        expected, _ = enumerated(scripted.model, [EOS, 1, last])
        expected = {word: prob for word, prob in expected.items() if word.startswith(typed)}
        total, top = sum(expected.values()), sorted(expected, key=lambda word: -expected[word])[:2]
        (context,) = scripted.read(torch.tensor([[EOS, 1, last]]))
        (found,) = scripted.search([context], [typed], 2)
        assert found.left_out < 1
        for word, prob in found.words:
            assert prob - 1e-6 <= expected[word] / total <= prob + found.left_out + 1e-6
        assert expected[found.words[0][0]] >= expected[top[0]] - found.left_out * total - 1e-6


def test_many_contexts_at_once_are_each_as_if_alone(scripted):
    """The evaluation's form: rows of one length in one batch, each with letters of its own."""
    ids = torch.tensor([[EOS, 1, 5], [EOS, 2, 6], [EOS, 3, 7]])
    together = scripted.find(scripted.read(ids), ["", "a", "b"], 3)
    for row, typed, found in zip(ids, ["", "a", "b"], together, strict=True):
        assert dict(scripted.find(scripted.read(row[None]), [typed], 3)[0]) == pytest.approx(dict(found))


def test_texts_of_different_lengths_keep_their_order(story):
    next_words, _ = story
    texts = ["the cat", "", "the cat sat on", "it was", "the"]
    for text, context in zip(texts, next_words.contexts(texts), strict=True):
        (alone,) = next_words.read(torch.tensor([next_words.ids(text)]))
        assert context.nodes[0].children == pytest.approx(alone.nodes[0].children, rel=1e-4)


@pytest.fixture(scope="module", params=["lstm", "generator"])
def story(request):
    """An LSTM and a decoder of our own, random, on a byte-level BPE: (NextWords, its tokenizer)."""
    tokenizer = story_tokenizer()
    torch.manual_seed(0)
    if request.param == "lstm":
        model, new_cache = LSTM(LSTMConfig(tokenizer.get_vocab_size(), 12, 24)).eval(), Memory
    else:
        model, new_cache = randomise(Transformer(shape(vocab_size=tokenizer.get_vocab_size())), 0), growing_cache
    return NextWords(model, tokenizer, 0, 0, new_cache), tokenizer


def test_a_text_typed_and_corrected_key_by_key_is_a_text_read_anew(story):
    """What is kept while words are added and deleted must change nothing: for an LSTM, whose state cannot be cut back, too."""
    next_words, _ = story
    typing = Typing(next_words)
    for text in ("", "t", "the", "the ", "the c", "the cat ", "the cat sat", "the cat ", "the d", "the do", "a", "", "the ca"):
        words = typing.next_words(text, 3)
        assert len(words) == 3 and all(word.startswith(text.rpartition(" ")[2]) for word, _ in words)
        ids = next_words.ids(text.rpartition(" ")[0])
        (anew,) = next_words.read(torch.tensor([ids]))
        assert typing.context(ids).nodes[0].children == pytest.approx(anew.nodes[0].children, rel=1e-4)


def test_only_new_words_are_read(story, monkeypatch):
    """A key within a word lets the model read no finished word again, and a deleted word costs nothing."""
    next_words, _ = story
    typing, fed = Typing(next_words), []
    read = NextWords.read
    monkeypatch.setattr(NextWords, "read", lambda self, ids, cache: fed.append(ids.shape[1]) or read(self, ids, cache))
    for text in ("the cat ", "the cat s", "the cat sa", "the cat sat ", "the cat s"):
        typing.next_words(text, 3)
    assert fed == [len(next_words.ids("the cat")), len(next_words.ids("the cat sat")) - len(next_words.ids("the cat"))]


def test_a_text_longer_than_the_models_context_is_seen_from_its_end():
    tokenizer = story_tokenizer()
    model = randomise(Transformer(shape(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=20)), 0)
    next_words = NextWords(model, tokenizer, 0, 0, growing_cache)
    assert Typing(next_words).next_words("the cat sat on the mat " * 20 + "t", 3)
    assert len(next_words.ids("the cat " * 50)) == next_words.room
    ahead = NextWords(model, tokenizer, 0, 0, growing_cache, ahead=5)
    assert len(ahead.ids("the cat " * 50)) == ahead.room == next_words.room - 5


def test_the_spelling_of_a_word_is_the_likeliest_of_those_read(scripted):
    """Oracle: the spellings of "ab" by enumeration: " ab"; " a", "b"; " ", "a", "b"."""
    (context,) = scripted.read(torch.tensor([[EOS, 1]]))
    scripted.search([context], [""], 10)

    def prob(tokens):
        text, total = [EOS, 1], 1.0
        for token in tokens:
            total *= scripted.model.after(text).softmax(0)[token].item()
            text.append(token)
        return total * scripted.model.after(text).softmax(0)[[EOS, *BEGIN]].sum().item()

    assert context.spelling("ab").tokens == max([(3,), (1, 6), (4, 5, 6)], key=prob)


def test_control_tokens_in_a_text_are_letters(story):
    next_words, tokenizer = story
    assert tokenizer.token_to_id("<|endoftext|>") not in next_words.ids("so <|endoftext|> it")[1:]


def test_a_cache_is_spread_without_changing(story):
    """A shallow copy of a growing cache shares its room: two continuations would overwrite each other's keys."""
    next_words, _ = story
    with torch.inference_mode():
        cache = next_words.new_cache()
        next_words.model(input_ids=torch.tensor([[5, 6, 7]]), past_key_values=cache)
        one, other = spread(cache, [0]), spread(cache, [0])
        for copied, token in ((one, 8), (other, 9)):
            next_words.model(input_ids=torch.tensor([[token]]), past_key_values=copied)
        last = torch.tensor([[10]])
        expected = next_words.model(input_ids=torch.tensor([[5, 6, 7, 8, 10]])).logits[:, -1]
        torch.testing.assert_close(next_words.model(input_ids=last, past_key_values=one).logits[:, -1], expected)
        assert cache.get_seq_length() == 3


def test_what_tokens_stand_for():
    """Byte-level BPE, as GPT-2's, writes a blank as Ġ and é as Ã©; SentencePiece ▁ for a blank; words are their own text."""
    bpe = token_bytes(story_tokenizer())
    assert bpe[story_tokenizer().token_to_id("Ġ")] == b" "
    assert story_tokenizer().token_to_id("<|endoftext|>") not in bpe
    pieces = Tokenizer(models.BPE({"<s>": 0, "▁the": 1, "<0xC3>": 2}, []))
    pieces.add_special_tokens(["<s>"])
    pieces.decoder = decoders.Metaspace()
    assert token_bytes(pieces) == {1: b" the", 2: b"\xc3"}


def test_tokens_that_begin_continue_and_border():
    vocabulary = Vocabulary(tokenizer_of(["<eos>", " a", " ab", "a", "b", "\n", " a b", "  "]), 0)
    assert vocabulary.begin.ids.tolist() == [1, 2] and vocabulary.begin.letters == [b"a", b"ab"]
    assert vocabulary.rest.ids.tolist() == [3, 4]
    assert vocabulary.borders.tolist() == [0, 1, 2, 5, 6, 7]
    assert vocabulary.ends == {0, 5}
    assert vocabulary.begin.beginning_with(b"a") == slice(0, 2)
    assert vocabulary.begin.beginning_with(b"ab") == slice(1, 2)
    assert vocabulary.begin.shorter_than(b"ab") == [0]
