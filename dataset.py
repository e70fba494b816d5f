"""From texts to training batches: read, tokenise, cut into blocks on disk, shuffle, collate.

    texts = read_texts(["books/", "https://example.org/book.txt"], cache=Path("downloads"))
    blocks = write_blocks(Path("run/data"), texts, tokenizer, max_length=512, bos_id=0, eos_id=0)
    train, validation = blocks.split(validation_share=0.1)
    order = epoch_batches(train.lengths, batch_size=32, batch_tokens=4096, seed=0, epoch=0)
    for input_ids, targets in batches(train, order):
        ...

A *document* is a pair `(prompt, text)`, and the loss is on the text only. A pair whose prompt is None continues the
document before it: so a book of any size flows through in small pieces, and a reader need not know which piece is the
last. Each token of each text, and the EOS that ends it, is a counted target exactly once per epoch.
"""

import codecs
import hashlib
import http.client
import io
import os
import re
import shutil
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer
from tqdm import tqdm

from tokenizer import END_OF_TEXT, id_count

IGNORED = -100  # cross_entropy's default ignore_index
PIECE = 1 << 16  # characters of a text that are tokenised at once (and bytes that are read at once)
BATCH = 1 << 20  # characters that the tokenizer's threads share
POOL = 64  # batches among which blocks are sorted by length
TIMEOUT = 30  # seconds without a byte from a server

# Where a long text is cut into pieces, best first: behind a blank line, behind a line, before a space, anywhere. At the
# first three the tokens of the pieces are those of the whole text for Qwen2's kind of BPE. The rest is never blank and
# holds the whole of a END_OF_TEXT that has only partly been read.
PIECE_END = re.compile(rf"(?s).+\n\n(?=\S)|.+\n(?=\S)|.+\S(?=\s\S)|.+(?=\S.{{{len(END_OF_TEXT) - 1}}})")

# Where a block may end, worst first; each match ends where the next word, sentence or paragraph begins.
BORDERS = (
    re.compile(r"\s++"),
    re.compile(r"""[.!?…]["'”’»)\]]*+\s++|[。！？]["'”’」』）]*+\s*+"""),
    re.compile(r"\n[^\S\n]*+\n\s*+"),
)


class DataError(ValueError):
    """The given data cannot be trained on; the message is one line for the user."""


def read_texts(sources: list[str], cache: Path) -> Iterator[tuple[str | None, str]]:
    """The documents of files, folders (all *.txt below) and http(s) URLs (kept in `cache`), as (prompt, text) pairs.

    A file is one document, or several with `<|endoftext|>` between them. White space around a document and a BOM are
    dropped, every kind of line end becomes "\\n", documents without text are skipped; all else stays as it is.
    Raises DataError: nothing at a source, a file without text, bytes that are not UTF-8, a URL that cannot be fetched.
    """
    paths = [path for source in sources for path in _files(source, cache)]
    with tqdm(total=sum(path.stat().st_size for path in paths), unit="B", unit_scale=True, desc="texts") as progress:
        for path in paths:
            yield from _documents(path, progress)


def _files(source: str, cache: Path) -> list[Path]:
    if source.startswith(("http://", "https://")):
        return [_fetched(source, cache)]
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.txt") if file.is_file())
        if not files:
            raise DataError(f"{path}: no .txt file in this folder")
        return files
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    return [path]


def _fetched(url: str, cache: Path) -> Path:
    """The file that holds the URL's content, downloaded if it is not in `cache` yet."""
    name = re.sub(r"[^\w.-]", "_", url.rsplit("/", 1)[-1])[-80:]
    path = cache / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response, partial.open("wb") as file:
            size = response.length
            with tqdm.wrapattr(response, "read", total=size, desc=name) as body:
                shutil.copyfileobj(body, file)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(f"cannot fetch {url}: {error}") from error
    if size is not None and size != partial.stat().st_size:  # urllib takes a broken connection for the end
        raise DataError(f"cannot fetch {url}: {partial.stat().st_size} of {size} bytes came")
    os.replace(partial, path)
    return path


def _documents(path: Path, progress: tqdm) -> Iterator[tuple[str | None, str]]:
    empty, prompt, rest = True, "", ""
    for chunk in chain(_decoded(path, progress), [END_OF_TEXT]):
        *ended, rest = (rest + chunk).split(END_OF_TEXT)
        for text in ended:
            if text := text.strip() if prompt == "" else text.rstrip():
                yield prompt, text
                empty = False
            prompt = ""
        if prompt == "":
            rest = rest.lstrip()
        if len(rest) > PIECE and (piece := PIECE_END.match(rest)):
            yield prompt, piece[0]
            empty, prompt, rest = False, None, rest[piece.end() :]
    if empty:
        raise DataError(f"{path}: no text in this file")


def _decoded(path: Path, progress: tqdm) -> Iterator[str]:
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
    with path.open("rb") as file:
        data = None
        while data != b"":
            data = file.read(PIECE)
            progress.update(len(data))
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                # error.object ends where the file has been read to, and may begin with bytes of the chunk before
                offset = file.tell() - len(error.object) + error.start
                raise DataError(f"{path}: not UTF-8 at byte offset {offset} ({error.reason})") from error
            yield text


@dataclass(frozen=True)
class TokenBlocks:
    """Texts as token ids on disk, cut into blocks.

    tokens: (n_tokens,) uint16 or uint32, memory-mapped: every document from its prompt or BOS to its EOS.
    index: (n_blocks, 3) int64, memory-mapped: start, loss_start, end. A block is `tokens[start:end]`: all but the last
        are inputs, all but the first are targets, and those at loss_start and later count in the loss. The last token
        of a block is the first of the next one in the same document.
    """

    tokens: np.ndarray
    index: np.ndarray

    @classmethod
    def load(cls, folder: Path) -> "TokenBlocks":
        """The blocks that `write_blocks` wrote to the folder."""
        index = np.memmap(folder / "blocks.bin", np.int64, mode="r").reshape(-1, 3)
        itemsize = (folder / "tokens.bin").stat().st_size // index[-1, 2]  # the last block ends with the last token
        return cls(np.memmap(folder / "tokens.bin", f"u{itemsize}", mode="r"), index)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, block: int) -> tuple[torch.Tensor, int]:
        """The block's ids, (n,) int64, and how many of them are only context."""
        start, loss_start, end = map(int, self.index[block])
        return torch.from_numpy(self.tokens[start:end].astype(np.int64)), loss_start - start

    @property
    def lengths(self) -> np.ndarray:
        """The number of inputs of each block, (n_blocks,) int64."""
        return np.asarray(self.index[:, 2] - self.index[:, 0] - 1)

    def split(self, validation_share: float = 0.1) -> tuple["TokenBlocks", "TokenBlocks"]:
        """Training and validation blocks: the last share of the text, at least one block, is for validation.

        Raises DataError if there are fewer than two blocks.
        """
        if len(self) < 2:
            raise DataError("too little text to train and validate on: it is shorter than one context window")
        border = len(self) - min(max(1, round(len(self) * validation_share)), len(self) - 1)
        return TokenBlocks(self.tokens, self.index[:border]), TokenBlocks(self.tokens, self.index[border:])


def write_blocks(
    folder: Path,
    documents: Iterable[tuple[str | None, str]],
    tokenizer: Tokenizer,
    max_length: int,
    bos_id: int,
    eos_id: int,
) -> TokenBlocks:
    """Tokenises the documents into blocks of at most `max_length` inputs, written to `folder` (replaced if it is there).

    A document begins with its prompt, or with BOS if the prompt is "", and ends with EOS. One that is longer than a
    block goes on in the next, without its prompt. Control tokens are recognised in prompts only: in a text they are
    ordinary characters. `folder` appears when it is complete; until then the data is in `folder`.part.
    A document whose prompt leaves no room in a block is left out. Raises DataError if there are no others.
    """
    dtype = np.uint16 if id_count(tokenizer) <= 1 << 16 else np.uint32
    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with (partial / "tokens.bin").open("wb") as tokens, (partial / "blocks.bin").open("wb") as index:
        cutter = _Cutter(tokens, index, dtype, max_length)
        for prefix, ids, borders in _encoded(documents, tokenizer, bos_id):
            if prefix is not None and len(prefix) > max_length:
                continue
            if prefix is not None and cutter.n_tokens:
                cutter.end(eos_id)
            if prefix is not None:
                cutter.begin(prefix)
            cutter.extend(ids, borders)
        if not cutter.n_tokens:
            raise DataError(f"there are no documents to train on whose prompt fits in {max_length} tokens")
        cutter.end(eos_id)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)
    return TokenBlocks.load(folder)


def _encoded(
    documents: Iterable[tuple[str | None, str]], tokenizer: Tokenizer, bos_id: int
) -> Iterator[tuple[list[int] | None, list[int], np.ndarray]]:
    """Of each pair: the ids that its text follows (None: it continues), the ids of the text, and their `_borders`."""
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.encode_special_tokens = True
    for batch in _batched(documents):
        prompts = tokenizer.encode_batch([prompt or "" for prompt, _ in batch], add_special_tokens=False)
        texts = plain.encode_batch([text for _, text in batch], add_special_tokens=False)
        for (prompt, text), prompt_encoding, encoding in zip(batch, prompts, texts, strict=True):
            prefix = None if prompt is None else prompt_encoding.ids or [bos_id]
            yield prefix, encoding.ids, _borders(text, encoding)


def _batched(documents: Iterable[tuple[str | None, str]]) -> Iterator[list[tuple[str | None, str]]]:
    batch, size = [], 0
    for prompt, text in documents:
        batch.append((prompt, text))
        size += len(prompt or "") + len(text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    yield batch


def _borders(text: str, encoding: Encoding) -> np.ndarray:
    """How well a block may end behind each token, (n,) uint8: 0 within a word, then as in BORDERS, worst first."""
    ends = np.fromiter((end for _, end in encoding.offsets), np.int64, len(encoding))
    before = np.zeros(len(ends) + 1, np.uint8)
    for rank, border in enumerate(BORDERS, start=1):
        begins = np.fromiter((match.end() for match in border.finditer(text)), np.int64)
        before[np.searchsorted(ends, begins, side="right")] = rank  # the first token that reaches beyond: the next word
    return before[1:]


class _Cutter:
    """Appends documents to the token file, and blocks to the index as soon as enough tokens are known to end one."""

    def __init__(self, tokens: BinaryIO, index: BinaryIO, dtype: type, max_length: int):
        self.tokens, self.index, self.dtype, self.max_length = tokens, index, dtype, max_length
        self.n_tokens = 0

    def begin(self, prefix: list[int]) -> None:
        self.start = self.n_tokens
        self._append(prefix)
        self.loss_start = self.n_tokens
        self.borders = np.zeros(0, np.uint8)  # of the tokens from loss_start on

    def extend(self, ids: list[int], borders: np.ndarray) -> None:
        self._append(ids)
        self.borders = np.concatenate([self.borders, borders])
        while len(self.borders) > (room := self.start + self.max_length + 1 - self.loss_start):
            # the best border in the second half of the room, and of equals the last
            self._cut(room - int(np.argmax(self.borders[room // 2 : room][::-1])))

    def end(self, eos_id: int) -> None:
        self.extend([eos_id], np.zeros(1, np.uint8))
        self._cut(len(self.borders))

    def _append(self, ids: list[int]) -> None:
        self.tokens.write(np.asarray(ids, self.dtype).tobytes())
        self.n_tokens += len(ids)

    def _cut(self, targets: int) -> None:
        end = self.loss_start + targets
        self.index.write(np.asarray([self.start, self.loss_start, end], np.int64).tobytes())
        self.start, self.loss_start, self.borders = end - 1, end, self.borders[targets:]


def epoch_batches(lengths: np.ndarray, batch_size: int, batch_tokens: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The epoch's batches in their order: indices of blocks, each block in one batch.

    A batch holds at most `batch_size` blocks and, padding included, at most `batch_tokens` tokens, but at least one
    block. The order is drawn from (seed, epoch) alone, so a training resumes at batch k with `[k:]`. To keep padding
    small, each POOL * batch_size of the shuffled blocks are sorted by length and cut, and the batches shuffled again.
    """
    rng = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = rng.permutation(len(lengths))
    result = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        cuts = [0]
        while cuts[-1] < len(pool):
            widths = lengths[pool[cuts[-1] :][:batch_size]]  # ascending: the last one is the width of the batch
            fitting = np.count_nonzero(widths * np.arange(1, len(widths) + 1) <= batch_tokens)
            cuts.append(cuts[-1] + max(1, fitting))
        result += [pool[cuts[i] : cuts[i + 1]] for i in rng.permutation(len(cuts) - 1)]
    return result


def collate(rows: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(input_ids, targets), both (rows, longest - 1) int64, of rows as TokenBlocks gives them, padded on the right.

    input_ids are 0 in the padding; targets are IGNORED there and where the target is only context.
    """
    width = max((len(ids) - 1 for ids, _ in rows), default=0)
    input_ids = torch.zeros((len(rows), width), dtype=torch.int64)
    targets = torch.full_like(input_ids, IGNORED)
    for row, (ids, context) in enumerate(rows):
        input_ids[row, : len(ids) - 1] = ids[:-1]
        targets[row, context - 1 : len(ids) - 1] = ids[context:]
    return input_ids, targets


def batches(
    blocks: TokenBlocks, order: list[np.ndarray], rank: int = 0, world: int = 1
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(input_ids, targets) of each batch that `epoch_batches` ordered; of `world` processes, the rows of the one at `rank`.

    A batch of fewer rows than processes leaves some of them with none: tensors of shape (0, 0).
    """
    for indices in order:
        yield collate([blocks[block] for block in indices[rank::world]])
