"""Documents as token ids on disk, cut into blocks of at most a context.

    texts = read_texts([Path("books/one.txt"), Path("books/two.txt")])
    blocks = write_blocks(Path("run/data"), texts, tokenizer, max_length=512, bos_id=0, eos_id=0)
    train, validation = blocks.split(validation_share=0.1)

Each token of each text, and the EOS that ends it, is a target that counts exactly once per epoch.
"""

from support.errors import InputError, first_line, report

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data.encoding import encode_all
from data.tokenizer import id_count

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer

BATCH = 1 << 20  # characters that the tokenizer's threads share

# Where a block may end, worst first; each match ends where the next word, sentence or paragraph begins.
BORDERS = (
    re.compile(r"\s++"),
    re.compile(r"""[.!?…]["'”’»)\]]*+\s++|[。！？]["'”’」』）]*+\s*+"""),
    re.compile(r"\n[^\S\n]*+\n\s*+"),
)


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
        """The blocks that `write_blocks` wrote to the folder. Raises InputError where they are missing or damaged."""
        try:
            index = np.memmap(folder / "blocks.bin", np.int64, mode="r").reshape(-1, 3)
            itemsize = (folder / "tokens.bin").stat().st_size // index[-1, 2]  # the last block ends with the last token
            return cls(np.memmap(folder / "tokens.bin", f"u{itemsize}", mode="r"), index)
        except (OSError, ValueError, TypeError) as error:  # TypeError: numpy has no type of that size
            raise InputError(f"{folder} cannot be read: {first_line(error)}") from error

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

        Raises InputError if there are fewer than two blocks.
        """
        if len(self) < 2:
            raise InputError("too little text to train and validate on: it is shorter than one context window")
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
    """Tokenise the documents into blocks of at most `max_length` inputs, written to `folder` (replaced if it is there).

    A document begins with its prompt, or with BOS if the prompt is "", and ends with EOS. One that is longer than a
    block continues in the next, without its prompt. Control tokens are recognised in prompts only: in a text they are
    ordinary characters. `folder` appears when it is complete; until then the data is in `folder`.part.
    A document whose prompt leaves no room in a block is left out, and counted on stderr. Raises InputError if there are no
    others, and for a text that the tokenizer cannot encode.
    """
    dtype = np.uint16 if id_count(tokenizer) <= 1 << 16 else np.uint32
    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with (partial / "tokens.bin").open("wb") as tokens, (partial / "blocks.bin").open("wb") as index:
        cutter, left_out = _Cutter(tokens, index, dtype, max_length), 0
        for prefix, ids, borders in _encoded(documents, tokenizer, bos_id):
            if prefix is not None and len(prefix) > max_length:
                left_out += 1
                continue
            if prefix is not None and cutter.n_tokens:
                cutter.end(eos_id)
            if prefix is not None:
                cutter.begin(prefix)
            cutter.extend(ids, borders)
        if not cutter.n_tokens:
            raise InputError(f"there are no documents to train on whose prompt fits in the {max_length} tokens "
                             "of --max-length")
        cutter.end(eos_id)
    if left_out:
        report(f"{left_out} documents are left out: their prompts do not fit in the {max_length} tokens of --max-length")
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)
    return TokenBlocks.load(folder)


def _encoded(
    documents: Iterable[tuple[str | None, str]], tokenizer: Tokenizer, bos_id: int
) -> Iterator[tuple[list[int] | None, list[int], np.ndarray]]:
    """For each pair: the ids of its prompt (None: it continues the document before), its text's ids, their `_borders`."""
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.encode_special_tokens = True
    for batch in _batched(documents):
        prompts = encode_all(tokenizer, [prompt or "" for prompt, _ in batch])
        texts = encode_all(plain, [text for _, text in batch])
        for (prompt, text), prompt_encoding, encoding in zip(batch, prompts, texts, strict=True):
            prefix = None if prompt is None else prompt_encoding.ids or [bos_id]
            yield prefix, encoding.ids, _borders(text, encoding)


def _batched(documents: Iterable[tuple[str | None, str]]) -> Iterator[list[tuple[str | None, str]]]:
    """The pairs in lists of about BATCH characters, without loss."""
    batch, size = [], 0
    for prompt, text in documents:
        batch.append((prompt, text))
        size += len(prompt or "") + len(text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    yield batch


def _borders(text: str, encoding: Encoding) -> np.ndarray:
    """How well a block may end after each token, (n,) uint8: 0 within a word, then 1 to 3 as in BORDERS, worst first."""
    ends = np.fromiter((end for _, end in encoding.offsets), np.int64, len(encoding))
    before = np.zeros(len(ends) + 1, np.uint8)
    for rank, border in enumerate(BORDERS, start=1):
        begins = np.fromiter((match.end() for match in border.finditer(text)), np.int64)
        before[np.searchsorted(ends, begins, side="right")] = rank  # the first token that reaches beyond: the next word
    return before[1:]


class _Cutter:
    """Appends documents to the token file, and blocks to the index as soon as enough tokens are known to end one."""

    def __init__(self, tokens: BinaryIO, index: BinaryIO, dtype: type, max_length: int) -> None:
        self.tokens, self.index, self.dtype, self.max_length = tokens, index, dtype, max_length
        self.n_tokens = 0

    def begin(self, prefix: list[int]) -> None:
        """Start a document with the ids of its prompt, or with BOS."""
        self.start = self.n_tokens
        self._append(prefix)
        self.loss_start = self.n_tokens
        self.borders = np.zeros(0, np.uint8)  # of the tokens from loss_start on

    def extend(self, ids: list[int], borders: np.ndarray) -> None:
        """Add ids of the text, n of them, with their borders (n,)."""
        self._append(ids)
        self.borders = np.concatenate([self.borders, borders])
        while len(self.borders) > (room := self.start + self.max_length + 1 - self.loss_start):
            # at the best border in the second half of the room, the last one among equals
            self._cut(room - int(np.argmax(self.borders[room // 2 : room][::-1])))

    def end(self, eos_id: int) -> None:
        """End the document with EOS, and its last block with it."""
        self.extend([eos_id], np.zeros(1, np.uint8))
        self._cut(len(self.borders))

    def _append(self, ids: list[int]) -> None:
        self.tokens.write(np.asarray(ids, self.dtype).tobytes())
        self.n_tokens += len(ids)

    def _cut(self, targets: int) -> None:
        """Write a block that ends after the next `targets` targets, those that are in no block yet."""
        end = self.loss_start + targets
        self.index.write(np.asarray([self.start, self.loss_start, end], np.int64).tobytes())
        self.start, self.loss_start, self.borders = end - 1, end, self.borders[targets:]
