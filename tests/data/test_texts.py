"""Texts: files, folders and URLs come in pieces and lose nothing; what cannot be read is named."""

from support.errors import InputError

import http.server
import threading
from pathlib import Path

from data.texts import PIECE, read_texts, text_files
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


@pytest.fixture
def server():
    """A local server of one text, and the list of the paths it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(404 if self.path == "/missing" else 200)
            self.send_header("Content-Length", "99" if self.path == "/broken" else "5")
            self.end_headers()
            self.wfile.write(b"Hello")

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
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


@pytest.mark.parametrize(("path", "reason"), [("missing", "404"), ("broken", "5 of 99 bytes")])
def test_a_failed_download_is_not_kept(tmp_path, server, path, reason):
    with pytest.raises(InputError, match=f"cannot fetch {server[0]}/{path}: .*{reason}"):
        read(f"{server[0]}/{path}", cache=tmp_path)
    assert not [file for file in tmp_path.iterdir() if file.suffix != ".part"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/book.txt", "http://[/book.txt", "http://127.0.0.1:1/Пушкин.txt"])
def test_an_unreachable_url_is_named(tmp_path, url):
    with pytest.raises(InputError) as error:
        read(url, cache=tmp_path)
    assert str(error.value).startswith(f"cannot fetch {url}: ")
    assert "\n" not in str(error.value)
