"""Short messages: read from the files people have, cleaned, freed of repeats, split, and cut in two for completion.

    raw messages -> clean_string -> one of each -> train, validation and test by the hash of the text -> context | rest

The order matters. Entities are unescaped and broken encodings repaired before mentions and links go, and these before the
letters are filtered, or `&amp;` becomes the word "amp". Repeats go before the split, or test messages stand in training.
"""

from support.errors import InputError, first_line

import csv
import hashlib
import html
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data.corpus import training_documents
from data.corpus.documents import STORYTELLER
from data.encoding import encode_all, plain_tokenizer
from data.tokenizer import make_tokenizer
from models.chatml import END_OF_TEXT, IM_END, PLAIN_TEMPLATE
from support.results import read_json

import numpy as np
import torch
from tokenizers import Tokenizer, normalizers, processors
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

IGNORED = -100  # cross_entropy's default ignore_index
COLUMNS = 6  # of a Sentiment140 file: target, id, date, flag, user, text
PARTS = ("train", "validation", "test")
MAX_CHARACTERS = 500  # of a message; what is longer is none
MIN_WORDS = 4  # shorter messages have no last quarter to complete
LINK = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
MENTION = re.compile(r"(?<!\w)@\w+")
UTF8_AS_LATIN1 = re.compile("[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
SPACE = re.compile(r"\s+")
SENTENCE_END = re.compile(r"(?<=[.!?…])\s+")


class Messages(NamedTuple):
    """Cleaned messages by part, and how many were dropped at each step of the cleaning."""

    train: list[str]
    validation: list[str]
    test: list[str]
    counts: dict[str, int]


# ---------------------------------------------------------------------------------------------------------- reading


def read_messages(path: Path) -> list[str]:
    """The messages of a file, as they stand in it: a Sentiment140 CSV, such a file in a zip, or one message a line.

    A CSV is read as UTF-8 where it is that, else as latin-1, as Sentiment140 is. Raises InputError for a file that is missing,
    empty or of another layout.
    """
    if not path.is_file():
        raise InputError(f"{path} is a folder: name a file in it" if path.is_dir() else f"there is no file {path}")
    if path.suffix.lower() == ".zip":
        name, content = unzipped(path)
    else:
        name, content = path.name, path.read_bytes()
    if b"\0" in content:
        raise InputError(f"{path} holds zero bytes, as UTF-16 and files of another kind do: save it as UTF-8")
    messages = csv_messages(path, content) if name.lower().endswith(".csv") else text_messages(path, content)
    if not messages:
        raise InputError(f"{path} holds no messages")
    return messages


def unzipped(path: Path) -> tuple[str, bytes]:
    """The name and content of the largest CSV or text file in a zip: Sentiment140's own holds a small test set too.

    Raises InputError for a zip that holds none, or cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = [file for file in archive.infolist() if file.filename.lower().endswith((".csv", ".txt"))]
            if not files:
                raise InputError(f"{path} holds no .csv or .txt file")
            largest = max(files, key=lambda file: file.file_size)
            return largest.filename, archive.read(largest)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # damaged, unknown compression, a password
        raise InputError(f"{path} cannot be unzipped: {first_line(error)}") from error


def csv_messages(path: Path, content: bytes) -> list[str]:
    """The last of six columns. Raises InputError, which names the row, where there are not six."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    messages = []
    try:
        for row in csv.reader(io.StringIO(text, newline="")):
            if len(row) != COLUMNS:
                raise InputError(f"{path}: row {len(messages) + 1} has {len(row)} columns, where Sentiment140 has {COLUMNS} "
                                 "(target, id, date, flag, user, text); a file of one message a line must end in .txt")
            messages.append(row[-1])
    except csv.Error as error:
        raise InputError(f"{path}: row {len(messages) + 1} cannot be read: {first_line(error)}") from error
    return messages[1:] if messages[:1] == ["text"] else messages  # some copies have a header


def text_messages(path: Path, content: bytes) -> list[str]:
    """One message a line; of a text with longer lines, one sentence. Raises InputError for what is not UTF-8."""
    try:
        lines = content.decode("utf-8-sig").splitlines()
        parts = ([line] if len(line) <= MAX_CHARACTERS else SENTENCE_END.split(line) for line in lines)
        return [part for part in chain.from_iterable(parts) if part.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {first_line(error)}") from error


# ---------------------------------------------------------------------------------------------------------- cleaning


def clean_string(text: str, keep_case: bool = False) -> str:
    """A message without entities, broken encoding, mentions and links: lower-case Latin letters, digits and single blanks.

    An apostrophe joins: "don't" is "dont". keep_case: case, punctuation and every alphabet stay. By hand:
    "@user It&#39;s blÃ¤Ã¤, see http://t.co/x" is "its bl see", and with keep_case "It's blää, see".
    """
    text = html.unescape(html.unescape(text))  # Sentiment140 has some entities escaped twice
    text = UTF8_AS_LATIN1.sub(lambda found: found[0].encode("latin-1").decode("utf-8", errors="ignore"), text)
    text = MENTION.sub(" ", LINK.sub(" ", text))
    if not keep_case:
        text = re.sub(r"[^a-z0-9]+", " ", re.sub("['’`]", "", text.lower()))
    return SPACE.sub(" ", text).strip()


def split_x_target_by_words(text: str) -> tuple[str, str]:
    """A message's context, its first max(1, ⌊0.75 n⌋) of n words, and the rest: "a b c d" is ("a b c", "d")."""
    words = text.split()
    cut = max(1, int(0.75 * len(words)))
    return " ".join(words[:cut]), " ".join(words[cut:])


def clean_messages(raw: Iterable[str], keep_case: bool) -> tuple[list[str], dict[str, int]]:
    """Each cleaned message once, in the order of its first occurrence, and how many there were and were dropped."""
    counts, seen = Counter(read=0, empty=0, too_long=0, repeated=0), {}
    for text in raw:
        counts["read"] += 1
        message = clean_string(text, keep_case)
        reason = ("empty" if not message else "too_long" if len(message) > MAX_CHARACTERS
                  else "repeated" if message.casefold() in seen else None)
        if reason:
            counts[reason] += 1
        else:
            seen[message.casefold()] = message
    return list(seen.values()), {**counts, "kept": len(seen)}


def part_of(message: str) -> str:
    """The part of a message, by the hash of its text: the same on every machine; 80 % train, 10 % validation, 10 % test."""
    number = int.from_bytes(hashlib.sha256(message.casefold().encode()).digest()[:4], "big") % 10
    return "train" if number < 8 else "validation" if number == 8 else "test"


def split_messages(raw: Iterable[str], keep_case: bool = False) -> Messages:
    """Messages cleaned, without repeats, and split. Raises InputError where a part is empty."""
    messages, counts = clean_messages(raw, keep_case)
    parts = by_part(messages)
    for part, members in parts.items():
        if not members:
            dropped = ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in ("empty", "too_long", "repeated"))
            kept = "" if keep_case else "; only Latin letters and digits count"
            raise InputError(f"of {counts['read']} messages {len(messages)} are left ({dropped}{kept}), and none of them for "
                             f"{part}: take more")
        counts[part] = len(members)
    counts["without_rest"] = sum(len(message.split()) < MIN_WORDS for message in messages)
    return Messages(**parts, counts=counts)


def by_part(messages: Iterable[str]) -> dict[str, list[str]]:
    """Cleaned messages by the part that each belongs to, in their order."""
    parts = {part: [] for part in PARTS}
    for message in messages:
        parts[part_of(message)].append(message)
    return parts


def learned_case(places: list[Path]) -> bool | None:
    """Whether a model learned from messages with case and punctuation, as the folder of its training says; None: unknown."""
    for place in places:
        if (place / "meta.json").is_file():
            settings = read_json(place / "meta.json").get("settings")
            if isinstance(settings, dict) and isinstance(settings.get("keep_case"), bool):
                return settings["keep_case"]
    return None


# ---------------------------------------------------------------------------------------------------------- for training


class NextTokenDataset(Dataset):
    """Messages as ids between a beginning and an end: of BOS t1 t2 EOS the inputs are BOS t1 t2, the targets t1 t2 EOS."""

    def __init__(self, messages: Sequence[list[int]], bos_id: int, eos_id: int, counted: list[int] | None = None) -> None:
        """messages: their ids. counted: how many last ids of each count, besides the end; None is all of them."""
        self.bos_id, self.eos_id, self.counted = bos_id, eos_id, counted
        self.ids = np.fromiter(chain.from_iterable(messages), np.int32)  # lists of a million messages would fill the memory
        self.ends = np.cumsum([len(ids) for ids in messages])

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """(inputs, targets), both (length,) int64; targets that do not count are IGNORED."""
        ids = self.ids[self.ends[i - 1] if i else 0 : self.ends[i]].tolist()
        targets = torch.tensor([*ids, self.eos_id])
        if self.counted is not None:
            targets[: len(ids) - self.counted[i]] = IGNORED
        return torch.tensor([self.bos_id, *ids]), targets

    @property
    def lengths(self) -> np.ndarray:
        """The number of inputs of each message, (n,) int64."""
        return np.diff(self.ends, prepend=0) + 1


def collate_batch(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """(input_ids, targets, lengths) of rows of a NextTokenDataset: (rows, longest), (rows, longest) and (rows,) int64.

    Padded on the right: input_ids with 0, which nothing reads, targets with IGNORED.
    """
    lengths = torch.tensor([len(inputs) for inputs, _ in rows])
    inputs, targets = zip(*rows, strict=True)
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(inputs, batch_first=True), pad(targets, batch_first=True, padding_value=IGNORED), lengths


def texts_of(messages: Iterable[str]) -> Iterator[str]:
    """What a tokenizer reads: each message with the blank that stands before its first word, as before all others."""
    return (f" {message}" for message in messages)


def learn_tokenizer(messages: Iterable[str], vocab_size: int) -> "PreTrainedTokenizerFast":
    """Byte-level BPE learned from messages, which begin with <|endoftext|> and end with <|im_end|>."""
    return message_tokenizer(make_tokenizer("bpe", texts_of(messages), vocab_size), END_OF_TEXT, IM_END)


def message_tokenizer(backend: Tokenizer, bos: str, eos: str) -> "PreTrainedTokenizerFast":
    """A tokenizer for messages, which changes `backend`: it puts the blank before the first word by itself, where there is
    none, and `bos` as a special token before that; its chat template is plain text."""
    from transformers import PreTrainedTokenizerFast

    if backend.normalizer is None:
        backend.normalizer = normalizers.Sequence([normalizers.Strip(right=False), normalizers.Prepend(" ")])
    backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos, pad_token=bos,
                                   clean_up_tokenization_spaces=False, chat_template=PLAIN_TEMPLATE)


def ends_of(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, int]:
    """The ids that begin and end a message: those of a tokenizer learned here, which begins a text with <|endoftext|>.

    For a pretrained model both are <|endoftext|>, between which it has read its texts; where its tokenizer has none, they are
    its own beginning, or end, and its end. Raises InputError where it has no end either.
    """
    end_of_text = tokenizer.get_vocab().get(END_OF_TEXT)
    if end_of_text is not None and tokenizer.bos_token != END_OF_TEXT:
        return end_of_text, end_of_text
    if tokenizer.eos_token_id is None:
        raise InputError("the model's tokenizer has no token that ends a text")
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id, tokenizer.eos_token_id


def encode(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[str]) -> list[list[int]]:
    """The ids of each message, without beginning and end; what looks like a control token is ordinary characters.

    Raises InputError where the tokenizer would lose a part of one.
    """
    plain = plain_tokenizer(tokenizer)
    parts = (messages[start : start + 10_000] for start in range(0, len(messages), 10_000))
    return [found.ids for part in parts for found in encode_all(plain, list(texts_of(part)))]


def next_tokens(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[str], rest_only: bool = False) -> NextTokenDataset:
    """Messages as a dataset, in which with `rest_only` the tokens of each rest and the end count alone.

    Every word begins with a token of its own, so a rest has the same tokens alone as in its message.
    """
    rests = [split_x_target_by_words(message)[1] for message in messages] if rest_only else []
    counted = [len(ids) if rest else 0 for rest, ids in zip(rests, encode(tokenizer, rests), strict=True)]
    return NextTokenDataset(encode(tokenizer, messages), *ends_of(tokenizer), counted if rest_only else None)


def story_sentences(count: int, seed: int) -> Iterator[str]:
    """Sentences of the built-in writer's stories, which stand in where there are no messages."""
    stories = (document.answer for document in training_documents(seed) if STORYTELLER in document.prompt)
    return islice(chain.from_iterable(SENTENCE_END.split(story) for story in stories), count)
