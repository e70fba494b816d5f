"""What must hold of the training data: every token is learned once, whatever the text, and bad input is named."""

import http.server
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import dataset
import numpy as np
import pytest
import torch
from dataset import IGNORED, DataError, TokenBlocks, batches, collate, epoch_batches, read_texts, write_blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END, IM_START, IM_END = range(3)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
STORY = "The cat sat on the mat. It was warm! The dog came too.\nThey slept.\n\nThen the sun went down, and it was cold.\n\n"


def make_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL,
        show_progress=False,
    )
    tokenizer.train_from_iterator([STORY] * 5, trainer)
    return tokenizer


TOKENIZER = make_tokenizer()
PLAIN = Tokenizer.from_str(TOKENIZER.to_str())
PLAIN.encode_special_tokens = True


def encoded(text: str) -> list[int]:
    return PLAIN.encode(text).ids


def counted(targets: torch.Tensor) -> list[int]:
    return targets[targets != IGNORED].tolist()


def read(*sources, cache="unused") -> list[tuple[str | None, str]]:
    return list(read_texts([str(source) for source in sources], Path(cache)))


def write_file(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- every token once ---

words = st.text(st.sampled_from("ab .\n!?é—Ж字🙂\u0301"), max_size=60)
texts = st.one_of(words, st.text(max_size=40), st.just("x" * 90), st.just("字🙂" * 40), st.just(STORY * 2))
documents = st.lists(
    st.tuples(st.sampled_from(["", "<|im_start|>user\nhi<|im_end|>\n"]), st.lists(texts, min_size=1, max_size=3)),
    min_size=1,
    max_size=5,
)
PROMPT_TOKENS = len(TOKENIZER.encode("<|im_start|>user\nhi<|im_end|>\n").ids)


@settings(max_examples=150, deadline=None)
@given(documents=documents, slack=st.integers(0, 30), batch_size=st.integers(1, 5), epoch=st.integers(0, 3))
def test_every_token_is_a_target_exactly_once(tmp_path_factory, documents, slack, batch_size, epoch):
    max_length = PROMPT_TOKENS + slack
    pairs = [(None if i else prompt, text) for prompt, pieces in documents for i, text in enumerate(pieces)]
    expected = []
    for _, pieces in documents:
        expected += [token for piece in pieces for token in encoded(piece)] + [IM_END]

    folder = tmp_path_factory.mktemp("data") / "blocks"
    blocks = write_blocks(folder, pairs, TOKENIZER, max_length, bos_id=END, eos_id=IM_END)

    in_order = [collate([blocks[block]]) for block in range(len(blocks))]
    assert [token for _, targets in in_order for token in counted(targets)] == expected
    assert all(1 <= input_ids.shape[1] <= max_length for input_ids, _ in in_order)
    shuffled = batches(blocks, epoch_batches(blocks.lengths, batch_size, 60, seed=1, epoch=epoch))
    assert Counter(token for _, targets in shuffled for token in counted(targets)) == Counter(expected)


@pytest.mark.parametrize("max_length", [1, 2, 3, 50])
def test_neighbours_overlap_by_one_token_and_documents_by_none(tmp_path, max_length):
    blocks = write_blocks(tmp_path / "d", [("", STORY), ("", STORY)], TOKENIZER, max_length, bos_id=END, eos_id=IM_END)
    per_document = len(encoded(STORY)) + 2
    starts, loss_starts, ends = blocks.index.T
    for i in range(1, len(blocks)):
        assert starts[i] == (per_document if ends[i - 1] == per_document else ends[i - 1] - 1)
    assert ends[-1] == 2 * per_document == len(blocks.tokens)
    assert (loss_starts == starts + 1).all()
    assert blocks.tokens[[0, per_document]].tolist() == [END, END]
    assert (blocks.lengths <= max_length).all()


def test_a_prompt_is_context_and_only_prompts_hold_control_tokens(tmp_path):
    prompt, answer = "<|im_start|>user\nhi<|im_end|>\n", "A <|im_end|> in a text.<|endoftext|>"
    blocks = write_blocks(tmp_path / "d", [(prompt, answer)], TOKENIZER, 200, bos_id=END, eos_id=IM_END)
    input_ids, targets = collate([blocks[0]])
    prompt_ids = TOKENIZER.encode(prompt).ids
    assert prompt_ids[0] == IM_START
    assert input_ids[0, : len(prompt_ids)].tolist() == prompt_ids
    assert (targets[0, : len(prompt_ids) - 1] == IGNORED).all()
    answer_ids = counted(targets)
    assert answer_ids[-1] == IM_END
    assert not set(answer_ids[:-1]) & {END, IM_START, IM_END}
    assert TOKENIZER.decode(answer_ids[:-1]) == answer
    assert TOKENIZER.encode_special_tokens is False  # the caller's tokenizer is as it was


def test_a_document_whose_prompt_leaves_no_room_is_left_out(tmp_path):
    """At the exercise's windows of 128 tokens a few long requests once stopped the whole training."""
    documents = [("hi " * 50, "ho"), ("hi", "ho")]
    assert len(write_blocks(tmp_path / "d", documents, TOKENIZER, 16, bos_id=END, eos_id=IM_END)) == 1
    with pytest.raises(DataError, match="no documents to train on"):
        write_blocks(tmp_path / "d", [("hi " * 50, "ho")], TOKENIZER, 16, bos_id=END, eos_id=IM_END)


# --- where blocks are cut ---


def block_texts(tmp_path, text: str, max_length: int) -> list[str]:
    blocks = write_blocks(tmp_path / "d", [("", text)], TOKENIZER, max_length, bos_id=END, eos_id=END)
    return [TOKENIZER.decode(counted(collate([block])[1])) for block in blocks]


@pytest.mark.parametrize("gap", ["\n\n", "\n \t\n", "\n\n\n   "])
def test_blocks_end_at_paragraphs(tmp_path, gap):
    paragraph = "Жук, a 字 and it. The 🙂 cat sat; the end."
    two = len(encoded(paragraph + gap + paragraph))
    pieces = block_texts(tmp_path, gap.join([paragraph] * 6), max_length=two - 1)
    assert len(pieces) == 6
    assert [piece.strip() for piece in pieces] == [paragraph] * 6


@pytest.mark.parametrize("sentence", ["The cat sat on it! ", 'He said: "the mat." ', "それは猫です。", "Ну и ну… "])
def test_without_paragraphs_blocks_end_at_sentences(tmp_path, sentence):
    length = len(encoded(sentence * 2)) - len(encoded(sentence))
    pieces = block_texts(tmp_path, sentence * 9, max_length=3 * length + length // 2)
    assert all(piece.strip().endswith(sentence.strip()[-2:]) for piece in pieces)
    assert len(pieces) == 3


def test_without_sentences_blocks_end_at_words_and_then_anywhere(tmp_path):
    pieces = block_texts(tmp_path, "kitten " * 40 + "kitten", max_length=20)
    assert all(piece.strip().endswith("kitten") for piece in pieces)
    assert max(map(len, block_texts(tmp_path, "z" * 100, max_length=20))) == 20


# --- batches ---


def random_blocks(n_blocks: int) -> TokenBlocks:
    lengths = np.random.default_rng(0).integers(2, 40, n_blocks)
    ends = lengths.cumsum()
    starts = ends - lengths
    return TokenBlocks(np.arange(ends[-1], dtype=np.uint32), np.stack([starts, starts + 1, ends], axis=1))


def test_an_epoch_is_a_seeded_permutation_with_little_padding():
    lengths = random_blocks(5000).lengths
    order = epoch_batches(lengths, 8, 10**6, seed=0, epoch=0)
    assert sorted(np.concatenate(order)) == list(range(5000))
    assert sum(len(batch) != 8 for batch in order) == 0
    assert [b.tolist() for b in order] == [b.tolist() for b in epoch_batches(lengths, 8, 10**6, seed=0, epoch=0)]
    for other in (epoch_batches(lengths, 8, 10**6, seed=0, epoch=1), epoch_batches(lengths, 8, 10**6, seed=1, epoch=0)):
        assert [b.tolist() for b in order] != [b.tolist() for b in other]
    assert sum(lengths[batch].max() * len(batch) for batch in order) < 1.05 * lengths.sum()


@pytest.mark.parametrize("batch_tokens", [1, 39, 100, 311])
def test_long_blocks_go_in_smaller_batches(batch_tokens):
    """Of blocks of 1 to 38 tokens, a batch holds as many as fit the limit with their padding, and at least one."""
    lengths = random_blocks(3000).lengths
    order = epoch_batches(lengths, 8, batch_tokens, seed=0, epoch=0)
    assert sorted(np.concatenate(order)) == list(range(3000))
    for batch in order:
        assert 1 <= len(batch) <= 8
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= batch_tokens
    in_limit = sum(len(batch) == max(1, min(8, batch_tokens // lengths[batch].max())) for batch in order)
    assert in_limit > 0.7 * len(order)  # but for where the next block would be longer


def test_processes_share_each_batch():
    blocks = random_blocks(101)  # the last batch has one row, so one process gets none of it
    order = epoch_batches(blocks.lengths, 4, 10**6, seed=0, epoch=0)
    assert min(map(len, order)) == 1
    shares = [batches(blocks, order, rank=rank, world=2) for rank in range(2)]
    whole = batches(blocks, order)
    for (_, targets), *parts in zip(whole, *shares, strict=True):
        assert sorted(counted(targets)) == sorted(token for _, part in parts for token in counted(part))
        assert len(targets) == sum(len(part) for _, part in parts)


def test_collate_pads_on_the_right():
    input_ids, targets = collate([(torch.tensor([5, 6, 7, 8]), 2), (torch.tensor([5, 9]), 1)])
    assert input_ids.tolist() == [[5, 6, 7], [5, 0, 0]]
    assert targets.tolist() == [[IGNORED, 7, 8], [9, IGNORED, IGNORED]]
    assert input_ids.dtype == targets.dtype == torch.int64


def test_the_end_of_the_text_is_for_validation(tmp_path):
    blocks = write_blocks(tmp_path / "d", [("", STORY * 20)], TOKENIZER, 16, bos_id=END, eos_id=END)
    train, validation = blocks.split(0.1)
    assert len(train) + len(validation) == len(blocks)
    assert len(validation) == round(len(blocks) / 10)
    assert train.index[-1, 2] == validation.index[0, 1]  # the two share no target
    assert [len(part) for part in random_blocks(2).split(0.01)] == [1, 1]
    assert [len(part) for part in random_blocks(3).split(1.0)] == [1, 2]


def test_too_little_text_to_split(tmp_path):
    with pytest.raises(DataError, match="shorter than one context window"):
        write_blocks(tmp_path / "d", [("", "Hi.")], TOKENIZER, 16, bos_id=END, eos_id=END).split()
    with pytest.raises(DataError, match="no documents"):
        write_blocks(tmp_path / "d", [], TOKENIZER, 16, bos_id=END, eos_id=END)


# --- on disk ---


def test_a_crash_leaves_nothing_that_looks_whole(tmp_path):
    def crashing():
        yield "", STORY
        yield None, "x" * dataset.BATCH
        raise KeyboardInterrupt

    arguments = {"tokenizer": TOKENIZER, "max_length": 16, "bos_id": END, "eos_id": END}
    with pytest.raises(KeyboardInterrupt):
        write_blocks(tmp_path / "d", crashing(), **arguments)
    assert not (tmp_path / "d").exists()
    blocks = write_blocks(tmp_path / "d", [("", STORY)], **arguments)
    with pytest.raises(KeyboardInterrupt):
        write_blocks(tmp_path / "d", crashing(), **arguments)
    assert np.array_equal(TokenBlocks.load(tmp_path / "d").tokens, blocks.tokens)
    write_blocks(tmp_path / "d", [("", "Hi.")], **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert len(TokenBlocks.load(tmp_path / "d")) == 1


@pytest.mark.parametrize(("vocab_size", "dtype"), [(400, np.uint16), (1 << 17, np.uint32)])
def test_tokens_take_two_bytes_where_the_vocabulary_allows(tmp_path, monkeypatch, vocab_size, dtype):
    monkeypatch.setattr("dataset.id_count", lambda tokenizer: vocab_size)
    blocks = write_blocks(tmp_path / "d", [("", STORY)], TOKENIZER, 16, bos_id=END, eos_id=END)
    assert blocks.tokens.dtype == dtype
    assert blocks.tokens.tolist() == [END, *encoded(STORY), END]


def test_a_large_text_is_not_held_in_memory(tmp_path):
    """A text of 8 batches must not take more memory than one of two, but for 40 MB (its tokens alone would, as lists)."""
    code = """if True:
        import sys
        from pathlib import Path
        from dataset import read_texts, write_blocks
        from tests.test_dataset import END, TOKENIZER
        texts = read_texts([sys.argv[1]], Path("unused"))
        write_blocks(Path(sys.argv[1]).with_suffix(".blocks"), texts, TOKENIZER, 512, END, END)
        print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
    """
    peaks = []
    for megabytes in (2, 8):
        path = tmp_path / f"{megabytes}.txt"
        path.write_text(STORY * (megabytes * 1_000_000 // len(STORY)))
        root = Path(__file__).parent.parent
        result = subprocess.run(
            [sys.executable, "-c", code, path], cwd=root, capture_output=True, text=True, check=True
        )
        peaks.append(int(result.stdout))
    assert peaks[1] - peaks[0] < 40_000  # KiB


# --- reading ---


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
    assert max(len(piece) for _, piece in pairs) <= 3 * dataset.PIECE
    if unit in (STORY, "no lines here ", "line\n"):
        whole = TOKENIZER.encode("".join(piece for _, piece in pairs)).ids
        assert [token for _, piece in pairs for token in TOKENIZER.encode(piece).ids] == whole


@pytest.mark.parametrize("shift", range(15))
def test_a_border_split_between_reads_is_found(tmp_path, shift):
    path = write_file(tmp_path / "a.txt", "x" * (2 * dataset.PIECE - shift) + "<|endoftext|>next")
    pairs = read(path)
    assert pairs.pop() == ("", "next")
    assert "".join(piece for _, piece in pairs) == "x" * (2 * dataset.PIECE - shift)


@pytest.mark.parametrize(
    ("content", "offset"),
    [
        (b"\xff\xfea\x00", 0),
        (b"\xef\xbb\xbfab\xe9 c", 5),
        ("é".encode() * 40_000 + b"\xe9", 80_000),
        (b"a" * (dataset.PIECE - 1) + b"\xd0a", dataset.PIECE - 1),  # the bad character lies across two reads
        (b"a" * dataset.PIECE + b"bc\x80", dataset.PIECE + 2),
    ],
)
def test_bytes_that_are_not_utf8_are_named(tmp_path, content, offset):
    path = write_file(tmp_path / "bad.txt", content)
    with pytest.raises(DataError, match=rf"bad\.txt: not UTF-8 at byte offset {offset} "):
        read(path)


@pytest.mark.parametrize("content", ["", "\ufeff", " \n\t\r\n ", "<|endoftext|>\n<|endoftext|>", "\n" * 200_000])
def test_a_file_without_text(tmp_path, content):
    with pytest.raises(DataError, match=r"a\.txt: no text"):
        read(write_file(tmp_path / "a.txt", content))


def test_missing_sources(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"nowhere\.txt: no such file"):
        read(tmp_path / "nowhere.txt")
    with pytest.raises(DataError, match=r"folder: no \.txt file"):
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
    with pytest.raises(DataError, match=f"cannot fetch {server[0]}/{path}: .*{reason}"):
        read(f"{server[0]}/{path}", cache=tmp_path)
    assert not [file for file in tmp_path.iterdir() if file.suffix != ".part"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/book.txt", "http://[/book.txt", "http://127.0.0.1:1/Пушкин.txt"])
def test_an_unreachable_url_is_named(tmp_path, url):
    with pytest.raises(DataError) as error:
        read(url, cache=tmp_path)
    assert str(error.value).startswith(f"cannot fetch {url}: ")
    assert "\n" not in str(error.value)
