"""Texts of the user's own: files, folders and URLs as documents, however large, in small pieces.

A *document* is a pair `(prompt, text)`, of which a model learns the text only. A pair whose prompt is None continues the
document before it, so a book of any size passes through in small pieces.
"""

from support.errors import InputError

import codecs
import hashlib
import http.client
import io
import os
import re
import shutil
import urllib.request
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from models.chatml import END_OF_TEXT
from support.files import make_folder

from tqdm import tqdm

PIECE = 1 << 16  # characters of a text that are tokenised at once (and bytes that are read at once)
TIMEOUT = 30  # seconds without a byte from a server

# Where a long text is cut into pieces, best first: after a blank line, after a line, before a space, anywhere. At the
# first three the tokens of the pieces are those of the whole text for Qwen2's kind of BPE. What follows the cut is never
# blank, and an END_OF_TEXT of which only the beginning has been read is not cut in two.
PIECE_END = re.compile(rf"(?s).+\n\n(?=\S)|.+\n(?=\S)|.+\S(?=\s\S)|.+(?=\S.{{{len(END_OF_TEXT) - 1}}})")


def read_texts(sources: list[str], cache: Path) -> Iterator[tuple[str | None, str]]:
    """The documents of files, folders (all *.txt below) and http(s) URLs (kept in `cache`), as (prompt, text) pairs.

    A file is one document, or several with `<|endoftext|>` between them. White space around a document and a BOM are
    dropped, every kind of line end becomes "\\n", documents without text are skipped; everything else is kept.
    Raises InputError for a source that does not exist, a file without text, bytes that are not UTF-8, and a URL that
    cannot be fetched.
    """
    paths = [path for source in sources for path in _files(source, cache)]
    with tqdm(total=sum(path.stat().st_size for path in paths), unit="B", unit_scale=True, desc="texts") as progress:
        for path in paths:
            yield from _documents(path, progress)


def _files(source: str, cache: Path) -> list[Path]:
    """The files of one source: itself, a folder's *.txt in the order of their paths, or a download."""
    if source.startswith(("http://", "https://")):
        return [_fetched(source, cache)]
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.txt") if file.is_file())
        if not files:
            raise InputError(f"{path}: no .txt file in this folder")
        return files
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder")
    return [path]


def _fetched(url: str, cache: Path) -> Path:
    """The file that holds the URL's content, downloaded unless `cache` holds it. Raises InputError where that fails."""
    name = re.sub(r"[^\w.-]", "_", url.rsplit("/", 1)[-1])[-80:]
    path = cache / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    if path.exists():
        return path
    make_folder(cache)
    partial = path.with_name(f"{path.name}.part")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response, partial.open("wb") as file:
            size = response.length
            with tqdm.wrapattr(response, "read", total=size, desc=name) as body:
                shutil.copyfileobj(body, file)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise InputError(f"cannot fetch {url}: {error}") from error
    if size is not None and size != partial.stat().st_size:  # urllib takes a broken connection for the end
        raise InputError(f"cannot fetch {url}: {partial.stat().st_size} of {size} bytes came")
    os.replace(partial, path)
    return path


def _documents(path: Path, progress: tqdm) -> Iterator[tuple[str | None, str]]:
    """The documents of one file, in pieces of about PIECE characters. Raises InputError for a file without text."""
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
        raise InputError(f"{path}: no text in this file")


def _decoded(path: Path, progress: tqdm) -> Iterator[str]:
    """A UTF-8 file's text, chunk by chunk, without BOM, every line end "\\n". Raises InputError, which names the wrong byte."""
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
                raise InputError(f"{path}: not UTF-8 at byte offset {offset} ({error.reason})") from error
            yield text
