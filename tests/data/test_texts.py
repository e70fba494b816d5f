"""Texts: files, folders and URLs come in pieces and lose nothing; what cannot be read is named."""

from support.errors import InputError

import gzip
import http.server
import os
import random
import re
import threading
from pathlib import Path

from data.texts import PIECE, _ascii, read_texts, text_files
from tests.helpers import STORY, story_tokenizer

import pytest

TOKENIZER = story_tokenizer()


def read(*sources, cache="unused") -> list[tuple[str | None, str]]:
    return list(read_texts(text_files([str(source) for source in sources], Path(cache), Path("unused"))))


def write_file(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_files_folders_and_borders(tmp_path):
    (tmp_path / "b" / "deep").mkdir(parents=True)
    write_file(tmp_path / "b" / "deep" / "2.txt", "two")
    write_file(tmp_path / "b" / "1.txt", "\n \n  one <|im_end|>\n\n more \n\n<|endoftext|>\n<|endoftext|>1b")
    write_file(tmp_path / "b" / "no.md", "not this")
    alone = write_file(tmp_path / "alone.text", "alone")
    expected = ["alone", "one <|im_end|>\n\n more", "1b", "two"]
    assert read(alone, tmp_path / "b") == [("", text) for text in expected]


def test_byte_order_mark_and_line_ends(tmp_path):
    path = write_file(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\n\r\ntwo\rthree\n")
    assert read(path) == [("", "one\n\ntwo\nthree")]


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "\n\n \n", "\r\n\r\n", "\n<|endoftext|>\nshort"])
@pytest.mark.parametrize(
    "unit", [STORY, "no lines here ", "line\n", "字🙂", "x", "    indented\n", "p\r\n\r\n", "é" + " " * 70_000 + "\n"]
)
def test_long_documents_come_in_pieces_and_lose_nothing(tmp_path, unit, end):
    text = "<" + unit * (200_000 // len(unit)) + "."
    pairs = read(write_file(tmp_path / "a.txt", text + end))
    if "short" in end:
        assert pairs.pop() == ("", "short")
    assert [prompt for prompt, _ in pairs] == [""] + [None] * (len(pairs) - 1)
    assert "".join(piece for _, piece in pairs) == text.replace("\r\n", "\n")
    assert len(pairs) > 1
    assert max(len(piece) for _, piece in pairs) <= 3 * PIECE
    if unit in (STORY, "no lines here ", "line\n"):
        whole = TOKENIZER.encode("".join(piece for _, piece in pairs)).ids
        assert [token for _, piece in pairs for token in TOKENIZER.encode(piece).ids] == whole


@pytest.mark.parametrize("shift", range(15))
def test_a_border_split_between_reads_is_found(tmp_path, shift):
    path = write_file(tmp_path / "a.txt", "x" * (2 * PIECE - shift) + "<|endoftext|>next")
    pairs = read(path)
    assert pairs.pop() == ("", "next")
    assert "".join(piece for _, piece in pairs) == "x" * (2 * PIECE - shift)


@pytest.mark.parametrize(
    ("content", "offset"),
    [
        (b"\xff\xfea\x00", 0),
        (b"\xef\xbb\xbfab\xe9 c", 5),
        ("é".encode() * 40_000 + b"\xe9", 80_000),
        (b"a" * (PIECE - 1) + b"\xd0a", PIECE - 1),  # the bad character lies across two reads
        (b"a" * PIECE + b"bc\x80", PIECE + 2),
    ],
)
def test_bytes_that_are_not_utf8_are_named(tmp_path, content, offset):
    path = write_file(tmp_path / "bad.txt", content)
    with pytest.raises(InputError, match=rf"bad\.txt: not UTF-8 at byte offset {offset} "):
        read(path)


@pytest.mark.parametrize("content", ["", "\ufeff", " \n\t\r\n ", "<|endoftext|>\n<|endoftext|>", "\n" * 200_000])
def test_a_file_without_text(tmp_path, content):
    with pytest.raises(InputError, match=r"a\.txt: no text"):
        read(write_file(tmp_path / "a.txt", content))


def test_missing_sources(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"nowhere\.txt: no such file"):
        read(tmp_path / "nowhere.txt")
    with pytest.raises(InputError, match=r"folder: no \.txt file"):
        read(tmp_path / "folder")


@pytest.mark.parametrize("name", ["tale.TXT", "tale.txt.gz", "TALE.Txt.GZ"])
def test_names_in_capitals_and_compressed_files(tmp_path, name):
    """Bug: `.TXT`, as old archives write it, was no text."""
    write_file(tmp_path / name, gzip.compress(b"\xef\xbb\xbfone\r\n") if name.lower().endswith("gz") else "one")
    assert read(tmp_path) == [("", "one")] == read(tmp_path / name)


def test_what_a_folder_holds_besides_is_left_out_and_counted(tmp_path, capsys):
    """Bug: a Mac's ._tale.txt beside tale.txt stopped the training as "not UTF-8"; whatever else there was went unsaid."""
    write_file(tmp_path / "tale.txt", "tale")
    (tmp_path / "__MACOSX").mkdir()
    for name in ("._tale.txt", "__MACOSX/._tale.txt"):
        write_file(tmp_path / name, b"\x00\x05\x16\x07\x00\xff")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    write_file(tmp_path / ".ipynb_checkpoints" / "tale-checkpoint.txt", "twice")
    for name, content in (("empty.txt", ""), ("blank.txt", "\ufeff \r\n"), ("notes.md", "#")):
        write_file(tmp_path / name, content)
    (tmp_path / "away.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    assert read(tmp_path) == [("", "tale")]
    told = capsys.readouterr().err.splitlines()[0]
    assert told == (f"{tmp_path}: 1 to read; left out: 3 hidden (._tale.txt, ...), 2 no file (away.txt, ...), "
                    "2 without text (blank.txt, ...), 1 not .txt (notes.md)")
    (tmp_path / "tale.txt").unlink()
    with pytest.raises(InputError, match=r"no \.txt file in this folder; left out: 3 hidden"):
        read(tmp_path)


def test_links_are_followed_and_each_file_is_read_once(tmp_path, capsys):
    """A link to the folder that it is in would be read without end."""
    for folder in ("books/deep", "other"):
        (tmp_path / folder).mkdir(parents=True)
    for name, text in (("books/deep/a.txt", "a"), ("other/b.txt", "b"), ("c.txt", "c")):
        write_file(tmp_path / name, text)
    (tmp_path / "books" / "deep" / "up").symlink_to(tmp_path / "books")
    (tmp_path / "books" / "other").symlink_to(tmp_path / "other")
    (tmp_path / "books" / "link.txt").symlink_to(tmp_path / "c.txt")
    (tmp_path / "books" / "again.txt").symlink_to(tmp_path / "other" / "b.txt")
    (tmp_path / "link to books").symlink_to(tmp_path / "books")
    assert sorted(text for _, text in read(tmp_path / "link to books")) == ["a", "b", "c"]
    assert "left out: 2 read already (" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"one\n", gzip.compress(b"one\n")])
def test_a_pipe_is_copied_since_it_can_be_read_once_only(tmp_path, content):
    """Bug: `--text <(cat books/*)` was no such file. A training reads its texts twice, for the tokenizer and for the blocks."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(content))
    writer.start()
    files = text_files([str(pipe)], Path("unused"), tmp_path / "copies")
    writer.join()
    for _ in range(2):
        assert list(read_texts(files)) == [("", "one")]
    assert files[0].parent == tmp_path / "copies"


def test_damaged_gzip_data_are_named(tmp_path):
    whole = gzip.compress(random.Random(0).randbytes(1000).hex().encode())
    for damaged in (whole[:500], whole[:-8] + b"\0" * 8, whole[:20] + b"\xff" * 20 + whole[40:]):
        with pytest.raises(InputError, match=r"bad\.gz: damaged gzip data"):
            read(write_file(tmp_path / "bad.gz", damaged))
    latin = write_file(tmp_path / "latin.gz", gzip.compress(b"abc\xe9 d"))
    with pytest.raises(InputError, match=r"not UTF-8 at byte offset 3 .*: save it as UTF-8"):
        read(latin)


@pytest.fixture
def server():
    """A local server of one text, and the list of the paths it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            encoding = self.path.rpartition("?")[2]
            body = gzip.compress(b"Hello") if encoding == "gzip" else b"Hello"
            self.send_response(404 if self.path == "/missing" else 200)
            self.send_header("Content-Length", "99" if self.path == "/broken" else str(len(body)))
            if encoding in ("gzip", "br"):
                self.send_header("Content-Encoding", encoding)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", asked
        httpd.shutdown()


def test_a_url_is_fetched_once(tmp_path, server):
    url, asked = server
    for _ in range(2):
        assert read(f"{url}/a/book.txt?x=1", cache=tmp_path / "cache") == [("", "Hello")]
    assert asked == ["/a/book.txt?x=1"]
    assert [path.name.endswith("-book.txt_x_1") for path in (tmp_path / "cache").iterdir()] == [True]
    read(f"{url}/b/book.txt?x=1", cache=tmp_path / "cache")
    assert len(asked) == 2


@pytest.mark.parametrize(("path", "sent"), [
    ("a tale.txt", "/a%20tale.txt"), ("Ёж.txt?q=ж&r=%20", "/%D0%81%D0%B6.txt?q=%D0%B6&r=%20"), ("t.txt?gzip", "/t.txt?gzip")])
def test_addresses_with_spaces_and_cyrillic_and_compressed_bodies(tmp_path, server, path, sent):
    """Bugs: an address with a space or a Cyrillic letter could not be fetched; a body that the server had compressed was no
    UTF-8. By hand: Ё is D0 81 in UTF-8, ж D0 B6, a space 20; what is encoded already stays."""
    url, asked = server
    assert read(f"{url}/{path}", cache=tmp_path) == [("", "Hello")]
    assert asked == [sent]


def test_a_host_in_cyrillic():
    """By hand: пример.рф is xn--e1afmkfd.xn--p1ai in IDNA, as the registry of .рф lists it."""
    assert _ascii("http://я@пример.рф:80/ж") == "http://%D1%8F@xn--e1afmkfd.xn--p1ai:80/%D0%B6"


@pytest.mark.parametrize(("path", "reason"), [("missing", "404"), ("broken", "5 of 99 bytes"), ("t?br", "the encoding br")])
def test_a_failed_download_is_not_kept(tmp_path, server, path, reason):
    with pytest.raises(InputError, match=f"cannot fetch {re.escape(f'{server[0]}/{path}')}: .*{reason}"):
        read(f"{server[0]}/{path}", cache=tmp_path)
    assert not [file for file in tmp_path.iterdir() if file.suffix != ".part"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/book.txt", "http://[/book.txt", "http://127.0.0.1:1/Пушкин.txt"])
def test_an_unreachable_url_is_named(tmp_path, url):
    with pytest.raises(InputError) as error:
        read(url, cache=tmp_path)
    assert str(error.value).startswith(f"cannot fetch {url}: ")
    assert "\n" not in str(error.value)
