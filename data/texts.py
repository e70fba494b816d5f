"""Texts of the user's own: files, folders, URLs and pipes as documents, however large, in small pieces.

    files = text_files(["books/", "https://example.org/book.txt"], cache=Path("downloads"), copies=Path("run/copies"))
    for prompt, text in read_texts(files): ...

A *document* is a pair `(prompt, text)`, of which a model learns the text only. A pair whose prompt is None continues the
document before it, so a book of any size passes through in small pieces. Files may be compressed with gzip.
"""

from support.errors import InputError, report

import codecs
import gzip
import hashlib
import http.client
import io
import os
import re
import shutil
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from urllib.parse import quote, urlsplit

from models.chatml import END_OF_TEXT
from support.files import make_folder, writing

from tqdm import tqdm

PIECE = 1 << 16  # characters of a text that are tokenised at once (and bytes that are read at once)
TIMEOUT = 30  # seconds without a byte from a server
GZIP = b"\x1f\x8b"  # what gzip's data begin with, and no text in UTF-8 does

# Where a long text is cut into pieces, best first: after a blank line, after a line, before a space, anywhere. At the
# first three the tokens of the pieces are those of the whole text for Qwen2's kind of BPE. What follows the cut is never
# blank, and an END_OF_TEXT of which only the beginning has been read is not cut in two.
PIECE_END = re.compile(rf"(?s).+\n\n(?=\S)|.+\n(?=\S)|.+\S(?=\s\S)|.+(?=\S.{{{len(END_OF_TEXT) - 1}}})")


def text_files(sources: list[str], cache: Path, copies: Path) -> list[Path]:
    """The files that hold the texts of files, folders, http(s) URLs (kept in `cache`) and pipes (copied to `copies`).

    Of a folder, all *.txt and *.txt.gz below, through links too, each once; what else is there, hidden, or without text is
    counted on stderr. Raises InputError for a source that does not exist, a folder without texts, and a URL that cannot be
    fetched.
    """
    return [path for source in sources for path in _files(source, cache, copies)]


def read_texts(files: list[Path]) -> Iterator[tuple[str | None, str]]:
    """The documents of the files, as (prompt, text) pairs.

    A file is one document, or several with `<|endoftext|>` between them. White space around a document and a BOM are
    dropped, every kind of line end becomes "\\n", documents without text are skipped; everything else is kept.
    Raises InputError for a file without text, and for bytes that are not UTF-8.
    """
    with tqdm(total=sum(path.stat().st_size for path in files), unit="B", unit_scale=True, desc="texts") as progress:
        for path in files:
            empty = True
            for document in _documents(path, progress.update):
                yield document
                empty = False
            if empty:
                raise InputError(f"{path}: no text in this file")


def _files(source: str, cache: Path, copies: Path) -> list[Path]:
    """The files of one source: itself, a folder's texts, a download, or the copy of a pipe."""
    if source.lower().startswith(("http://", "https://")):
        return [_fetched(source, cache)]
    path = Path(source)
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return [path]
    if path.exists():
        return [_copied(path, copies)]
    raise InputError(f"{path}: no such file or folder")


def _in_folder(folder: Path) -> list[Path]:
    """The text files below a folder, in the order of their paths; what is left out is counted on stderr."""
    files, left_out, known = [], {}, set()  # left_out: names by reason; known: files and folders without their links
    for place, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(place) in known:  # a link to a folder above is a circle
            left_out.setdefault("read already", []).append(Path(place).name)
            folders.clear()
            continue
        known.add(os.path.realpath(place))
        for name in sorted(names) + [name for name in folders if name.startswith(".")]:
            path = Path(place, name)
            if why := _unread(path, known):
                left_out.setdefault(why, []).append(name)
            else:
                files.append(path)
                known.add(os.path.realpath(path))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    told = ", ".join(f"{len(names)} {why} ({names[0]}{', ...' * (len(names) > 1)})" for why, names in left_out.items())
    if not files:
        raise InputError(f"{folder}: no .txt file in this folder{f'; left out: {told}' * bool(told)}")
    if told:
        report(f"{folder}: {len(files)} to read; left out: {told}")
    return sorted(files)


def _unread(path: Path, known: set[str]) -> str | None:
    """Why a file of a folder is left out; None for one to be read."""
    if path.name.startswith("."):
        return "hidden"  # as ._tale.txt is, which a Mac writes beside tale.txt, and .ipynb_checkpoints
    if not path.name.lower().endswith((".txt", ".txt.gz")):
        return "not .txt"
    if not path.is_file():
        return "no file"  # a pipe, or a link that leads nowhere
    if os.path.realpath(path) in known:
        return "read already"
    return None if any(True for _ in _documents(path)) else "without text"


def _copied(pipe: Path, copies: Path) -> Path:
    """A copy of what can be read only once, such as a pipe; a training reads its texts twice."""
    make_folder(copies)
    copy = copies / re.sub(r"\W", "_", str(pipe))
    with writing(copy), pipe.open("rb") as source, copy.open("wb") as file:
        shutil.copyfileobj(source, file)
    return copy


def _fetched(url: str, cache: Path) -> Path:
    """The file that holds the URL's content, downloaded unless `cache` holds it. Raises InputError where that fails."""
    name = re.sub(r"[^\w.-]", "_", url.rsplit("/", 1)[-1])[-80:]
    path = cache / f"{hashlib.sha256(url.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}-{name}"
    if path.exists():
        return path
    make_folder(cache)
    partial = path.with_name(f"{path.name}.part")
    try:
        with urllib.request.urlopen(_ascii(url), timeout=TIMEOUT) as response, partial.open("wb") as file:
            encoding, size = response.headers.get("Content-Encoding", "identity").lower(), response.length
            if encoding not in ("identity", "gzip", "x-gzip"):  # gzip is recognised when the file is read
                raise ValueError(f"it comes with the encoding {encoding}, where gzip or none can be read")
            with tqdm.wrapattr(response, "read", total=size, desc=name) as body:
                shutil.copyfileobj(body, file)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise InputError(f"cannot fetch {url}: {error}") from error
    if size is not None and size != partial.stat().st_size:  # urllib takes a broken connection for the end
        raise InputError(f"cannot fetch {url}: {partial.stat().st_size} of {size} bytes came")
    os.replace(partial, path)
    return path


def _ascii(url: str) -> str:
    """A URL as it is sent: letters such as Cyrillic ones, and spaces, percent-encoded; a host's in IDNA. Raises ValueError."""
    host = urlsplit(url).netloc.rpartition("@")[2].partition(":")[0]
    sent = host if host.isascii() else host.encode("idna").decode()
    return quote(url.strip().replace(host, sent, 1), safe="%/:?&=+$,;@!*'()~#[]-._", errors="surrogateescape")


def _documents(path: Path, read: Callable[[int], object] = lambda size: None) -> Iterator[tuple[str | None, str]]:
    """The documents of one file, in pieces of about PIECE characters; `read` is told how many bytes were read."""
    prompt, rest = "", ""
    for chunk in chain(_decoded(path, read), [END_OF_TEXT]):
        *ended, rest = (rest + chunk).split(END_OF_TEXT)
        for text in ended:
            if text := text.strip() if prompt == "" else text.rstrip():
                yield prompt, text
            prompt = ""
        if prompt == "":
            rest = rest.lstrip()
        if len(rest) > PIECE and (piece := PIECE_END.match(rest)):
            yield prompt, piece[0]
            prompt, rest = None, rest[piece.end() :]


def _decoded(path: Path, read: Callable[[int], object]) -> Iterator[str]:
    """A UTF-8 file's text, chunk by chunk, without BOM, every line end "\\n".

    Raises InputError, which names the wrong byte, for another encoding, and for damaged gzip data.
    """
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
    with path.open("rb") as stored:
        file = gzip.GzipFile(fileobj=stored) if stored.peek(2)[:2] == GZIP else stored
        data, place = None, 0
        while data != b"":
            try:
                data = file.read(PIECE)
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                # error.object ends where the file has been read to, and may begin with bytes of the chunk before
                offset = file.tell() - len(error.object) + error.start
                raise InputError(f"{path}: not UTF-8 at byte offset {offset} ({error.reason}): save it as UTF-8") from error
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise InputError(f"{path}: damaged gzip data ({error})") from error
            read(stored.tell() - place)
            place = stored.tell()
            yield text
