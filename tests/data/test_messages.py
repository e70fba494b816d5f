"""Short messages: reading, cleaning, the split, the cut in two, and what a model learns from."""

from support.errors import InputError

import csv
import io
import zipfile

from data import messages
from data.messages import (
    IGNORED,
    NextTokenDataset,
    clean_messages,
    clean_string,
    collate_batch,
    encode,
    ends_of,
    learn_tokenizer,
    next_tokens,
    part_of,
    read_messages,
    split_messages,
    split_x_target_by_words,
    story_sentences,
)

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

TEXTS = ["i am so tired today", "good morning everyone", "cant wait for the weekend", "so tired of this rain", "lol"] * 3


def csv_bytes(*texts, encoding="latin-1"):
    """A file as Sentiment140 is: six quoted columns, no header."""
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows(
        ["0" if i % 2 else "4", str(i), "", "NO_QUERY", "user", text] for i, text in enumerate(texts))
    return file.getvalue().encode(encoding)


@pytest.fixture(scope="module")
def tokenizer():
    return learn_tokenizer(TEXTS, 300)


# --- reading


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-8-sig"])
def test_a_sentiment140_file_is_read_in_its_encoding(tmp_path, encoding):
    """Guards both encodings that people have it in, quotes, commas and a line end within a text."""
    texts = ['café, "quoted"', "two\nlines"]
    (tmp_path / "tweets.csv").write_bytes(csv_bytes(*texts, encoding=encoding))
    assert read_messages(tmp_path / "tweets.csv") == texts


def test_the_zip_is_read_as_it_is_downloaded(tmp_path):
    """Guards `.csv.zip`, also Sentiment140's own, which holds a smaller test set, and with what macOS puts into its zips."""
    with zipfile.ZipFile(tmp_path / "tweets.csv.zip", "w") as archive:
        archive.writestr("training.1600000.processed.noemoticon.csv", csv_bytes("one", "two"))
        archive.writestr("testdata.manual.2009.06.14.csv", csv_bytes("x"))
        archive.writestr("__MACOSX/._training.1600000.processed.noemoticon.csv", b"\0")
    assert read_messages(tmp_path / "tweets.csv.zip") == ["one", "two"]


def test_a_text_is_a_message_a_line_and_of_long_lines_a_sentence(tmp_path):
    """Guards files of messages, and books with a paragraph a line."""
    long = "This is a sentence of a book. " * 30
    (tmp_path / "tweets.txt").write_text(f"\ufefffirst\r\n\r\n  \nsecond\n{long}\n", "utf-8")
    found = read_messages(tmp_path / "tweets.txt")
    assert found[:2] == ["first", "second"] and found[2:] == ["This is a sentence of a book."] * 30


def test_a_header_is_no_message(tmp_path):
    """Bug: in copies of Sentiment140 that have one, the word "text" was a message."""
    (tmp_path / "headed.csv").write_bytes(b'"target","id","date","flag","user","text"\n' + csv_bytes("one", "two"))
    assert read_messages(tmp_path / "headed.csv") == ["one", "two"]


@pytest.mark.parametrize("name, content, words", [
    ("none.csv", None, "there is no file"), (".", None, "is a folder"),
    ("empty.csv", b"", "holds no messages"),
    ("empty.txt", b" \n\n", "holds no messages"),
    ("two.csv", b'"0","text"\n', "row 1 has 2 columns, where Sentiment140 has 6"),
    ("later.csv", csv_bytes("one", "two") + b"three\n", "row 3 has 1 columns"),
    ("latin.txt", "café".encode("latin-1"), "is not UTF-8"),
    ("utf16.csv", csv_bytes("one").decode("latin-1").encode("utf-16"), "holds zero bytes"),
    ("broken.csv.zip", b"PK\x03\x04 no zip", "cannot be unzipped"),
])  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name, content, words):
    """Guards an empty file, wrong columns, the wrong encoding, a broken zip: what is wrong and where."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        read_messages(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_zip_without_messages_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("a.png", b"")
    with pytest.raises(InputError, match="holds no .csv or .txt file"):
        read_messages(tmp_path / "pictures.zip")


# --- cleaning


@pytest.mark.parametrize("text, lower, kept", [
    ("@user It&#39;s blÃ¤Ã¤, see http://t.co/x", "its bl see", "It's blää, see"),
    ("&lt;3 &amp;amp; you", "3 you", "<3 & you"),  # escaped twice, as in some rows
    ("I don’t   know...  @a_b www.x.com", "i dont know", "I don’t know..."),
    ("mail me@home", "mail me home", "mail me@home"),
    ("Привет, мир!", "", "Привет, мир!"),
    ("café naïve", "caf na ve", "café naïve"),
    ("  \t\n ", "", ""),
])  # fmt: skip
def test_cleaning(text, lower, kept):
    """Oracle: by hand. Bug: entities unescaped after the letters were filtered, so that &amp; became the word "amp"."""
    assert (clean_string(text), clean_string(text, keep_case=True)) == (lower, kept)
    assert clean_string(lower) == lower and clean_string(kept, keep_case=True) == kept


def test_what_is_dropped_is_counted():
    """By hand: of six messages one is empty, one has 10,000 characters, one repeats another but for its case; three are left.

    Bug: a message of 10,000 characters would fill a batch of its own, or not fit the model's context."""
    raw = ["Hello there", "HELLO, there!", "@user http://t.co/x", "x" * 10_000, "a", "good morning"]
    assert clean_messages(raw, False) == (["hello there", "a", "good morning"],
                                          {"read": 6, "empty": 1, "too_long": 1, "repeated": 1, "kept": 3})  # fmt: skip


@pytest.mark.parametrize("text, halves", [
    ("a", ("a", "")), ("a b", ("a", "b")), ("a b c", ("a b", "c")), ("a b c d", ("a b c", "d")),
    ("a b c d e", ("a b c", "d e")), ("a b c d e f g h", ("a b c d e f", "g h")), ("", ("", "")),
])  # fmt: skip
def test_a_message_is_cut_by_words(text, halves):
    """Oracle: by hand, max(1, ⌊0.75 n⌋): of 5 words ⌊3.75⌋ = 3. A message of one word is all context."""
    assert split_x_target_by_words(text) == halves


# --- the split


def test_the_split_is_the_same_on_every_machine():
    """Oracle: by hand. SHA-256 of "hello" begins with 2cf24dba, the number 754,077,114, whose last digit is 4: train. That of
    "a", ca978112, is 3,398,926,610: 0. Of "message 5" it is 8 and of "message 3" 9."""
    assert [part_of(text) for text in ("hello", "HELLO", "a")] == ["train"] * 3
    numbers = [part_of(f"message {i}") for i in range(5000)]
    shares = {part: numbers.count(part) / 5000 for part in messages.PARTS}
    assert shares == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.02)


def test_no_test_message_stands_in_training():
    """Bug of published solutions: repeats were removed after the split, or never, and test messages stood in training."""
    raw = [f"message {i % 400}" + "!" * (i // 400) for i in range(2000)]
    parts = split_messages(raw)
    assert parts.counts["repeated"] == 1600
    assert len({*parts.train, *parts.validation, *parts.test}) == sum(map(len, parts[:3])) == 400


def test_a_sorted_file_is_not_split_one_sided():
    """Bug of published solutions: Sentiment140 is sorted by sentiment, and the first 80 % trained, the last 10 % tested."""
    raw = [f"sad {i}" for i in range(1000)] + [f"happy {i}" for i in range(1000)]
    for part in split_messages(raw)[:3]:
        assert 0.4 < sum(message.startswith("sad") for message in part) / len(part) < 0.6


def test_too_few_messages_are_one_line():
    with pytest.raises(InputError, match=r"of 2 messages 1 are left \(1 empty, 0 too long, 0 repeated; only Latin .* for v"):
        split_messages(["hello", "http://t.co/x"])


# --- for training


def test_inputs_and_targets_are_one_token_apart():
    """Oracle: by hand. Bug of published solutions: the reference was shifted by a word, and its last one lost; here each token
    is a target exactly once, and the end too. Of the message 5 6 7, whose last id counts: inputs 1 5 6 7, targets 7 and 2."""
    whole = NextTokenDataset([[5, 6, 7], [8]], bos_id=1, eos_id=2)
    assert [tuple(part.tolist() for part in row) for row in (whole[0], whole[1])] == [
        ([1, 5, 6, 7], [5, 6, 7, 2]), ([1, 8], [8, 2])]  # fmt: skip
    rest = NextTokenDataset([[5, 6, 7], [8]], 1, 2, counted=[1, 0])
    assert [rest[i][1].tolist() for i in range(2)] == [[IGNORED, IGNORED, 7, 2], [IGNORED, 2]]
    assert whole.lengths.tolist() == [4, 2] and len(whole) == 2


def test_pads_stand_on_the_right_and_never_count():
    """Oracle: by hand, rows of two and of one token."""
    dataset = NextTokenDataset([[5, 6], [8]], bos_id=1, eos_id=2)
    found = [tensor.tolist() for tensor in collate_batch([dataset[0], dataset[1]])]
    assert found == [[[1, 5, 6], [1, 8, 0]], [[5, 6, 2], [8, 2, IGNORED]], [3, 2]]


def test_the_targets_of_the_rest_are_its_words(tokenizer):
    """Bug of published solutions: trained on 75 % of the tokens, tested on 75 % of the words. Oracle: the targets that count,
    decoded, are the rest of the same cut, with its blank and the end."""
    texts = ["i am so tired today", "lol", "cant wait for the weekend"]
    dataset = next_tokens(tokenizer, texts, rest_only=True)
    for i, text in enumerate(texts):
        targets = dataset[i][1]
        _, rest = split_x_target_by_words(text)
        assert tokenizer.decode(targets[targets != IGNORED]) == (f" {rest}" if rest else "") + "<|im_end|>"


def test_a_tokenizer_puts_the_beginning_and_the_first_blank_itself(tokenizer):
    """Guards the prompt of a user: "i am" and " i am" are the same tokens, those that training showed."""
    assert tokenizer("i am").input_ids == tokenizer(" i am").input_ids == [0, *encode(tokenizer, ["i am"])[0]]
    assert all(token.startswith("Ġ") for token in tokenizer.tokenize("i am so"))
    assert tokenizer.decode(tokenizer("i am").input_ids, skip_special_tokens=True) == " i am"


def test_a_control_token_in_a_message_is_characters(tokenizer):
    """Bug: with --keep-case a message could hold <|im_end|>, and teach that messages go on behind their end."""
    (ids,) = encode(tokenizer, ["a <|im_end|>"])
    assert not {0, 1, 2} & set(ids) and tokenizer.decode(ids) == " a <|im_end|>"


def wordy(**specials):
    vocabulary = {token: i for i, token in enumerate(["a", *specials.pop("others", []), *specials.values()])}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary)), **specials)


def test_what_begins_and_ends_a_message(tokenizer):
    """By hand: a tokenizer learned here has <|endoftext|> and <|im_end|>, ids 0 and 2; SmolLM2's <|endoftext|> for both,
    though its chats begin with <|im_start|>; Llama's <s> and </s>; one with an end alone that for both."""
    assert ends_of(tokenizer) == (0, 2)
    assert ends_of(wordy(others=["<|endoftext|>"], bos_token="<|im_start|>", eos_token="<|im_end|>")) == (1, 1)
    assert ends_of(wordy(bos_token="<s>", eos_token="</s>")) == (1, 2)
    assert ends_of(wordy(eos_token="</s>")) == (1, 1)
    with pytest.raises(InputError, match="no token that ends a text"):
        ends_of(wordy())


def test_the_built_in_writer_stands_in():
    """Guards training without a file: sentences, the same for a seed."""
    found = list(story_sentences(50, seed=3))
    assert len(found) == 50 and found == list(story_sentences(50, seed=3)) and found != list(story_sentences(50, seed=4))
    assert all(sentence and len(sentence) < messages.MAX_CHARACTERS for sentence in found)
