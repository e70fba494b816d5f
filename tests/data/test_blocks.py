"""Blocks: every token is learned once, whatever the text; where blocks are cut; what a crash leaves on the disk."""

from support.errors import InputError

import subprocess
import sys
from collections import Counter

from data.batches import IGNORED, batches, collate, epoch_batches
from data.blocks import TokenBlocks, write_blocks
from tests.helpers import END, IM_END, IM_START, ROOT, STORY, counted, random_blocks, story_tokenizer

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

TOKENIZER = story_tokenizer()
PLAIN = Tokenizer.from_str(TOKENIZER.to_str())
PLAIN.encode_special_tokens = True


def encoded(text: str) -> list[int]:
    return PLAIN.encode(text).ids


# ------------------------------------------------------------------------------------------------- every token once

words = st.text(st.sampled_from("ab .\n!?é—Ж字🙂\u0301"), max_size=60)
texts = st.one_of(words, st.text(max_size=40), st.just("x" * 90), st.just("字🙂" * 40), st.just(STORY * 2))
documents = st.lists(
    st.tuples(st.sampled_from(["", "<|im_start|>user\nhi<|im_end|>\n"]), st.lists(texts, min_size=1, max_size=3)),
    min_size=1,
    max_size=5,
)
PROMPT_TOKENS = len(TOKENIZER.encode("<|im_start|>user\nhi<|im_end|>\n").ids)


def test_a_document_of_three_tokens_by_hand(tmp_path):
    """By hand: "a b c" is 3 4 5, which becomes BOS 3 4 5 EOS. With two inputs to a block: BOS 3 -> targets 3 4, then, one
    token of context carried over, 4 5 -> targets 5 EOS. The index holds where each block starts, counts and ends. After
    a prompt, 4 4, only the answer and EOS are targets: 4 4 3 -> ignored 3 EOS.
    """
    words = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2, "a": 3, "b": 4, "c": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    blocks = write_blocks(tmp_path / "d", [("", "a b c")], tokenizer, 2, bos_id=END, eos_id=IM_END)
    assert blocks.tokens.tolist() == [0, 3, 4, 5, 2] and blocks.index.tolist() == [[0, 1, 3], [2, 3, 5]]
    assert [[part.tolist() for part in collate([blocks[i]])] for i in range(2)] == [[[[0, 3]], [[3, 4]]], [[[4, 5]], [[5, 2]]]]
    asked = write_blocks(tmp_path / "d", [("b b", "a")], tokenizer, 3, bos_id=END, eos_id=IM_END)
    assert [part.tolist() for part in collate([asked[0]])] == [[[4, 4, 3]], [[IGNORED, 3, 2]]]


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(documents=documents, slack=st.integers(0, 30), batch_size=st.integers(1, 5), epoch=st.integers(0, 3))
def test_every_token_is_a_target_exactly_once(tmp_path_factory, documents, slack, batch_size, epoch):
    """Oracle: the ids of all texts, each followed by EOS, as the tokenizer gives them without blocks.

    By hand, of a document of three tokens: see above.
    """
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


def test_a_document_whose_prompt_leaves_no_room_is_left_out(tmp_path, capsys):
    """At the exercise's windows of 128 tokens a few long requests once stopped the whole training; later they went unsaid."""
    documents = [("hi " * 50, "ho"), ("hi", "ho")]
    assert len(write_blocks(tmp_path / "d", documents, TOKENIZER, 16, bos_id=END, eos_id=IM_END)) == 1
    assert capsys.readouterr().err == "1 documents are left out: their prompts do not fit in the 16 tokens of --max-length\n"
    with pytest.raises(InputError, match="no documents to train on"):
        write_blocks(tmp_path / "d", [("hi " * 50, "ho")], TOKENIZER, 16, bos_id=END, eos_id=IM_END)


# --------------------------------------------------------------------------------------------- where blocks are cut


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


# ------------------------------------------------------------------------------------------ training and validation


def test_the_end_of_the_text_is_for_validation(tmp_path):
    blocks = write_blocks(tmp_path / "d", [("", STORY * 20)], TOKENIZER, 16, bos_id=END, eos_id=END)
    train, validation = blocks.split(0.1)
    assert len(train) + len(validation) == len(blocks)
    assert len(validation) == round(len(blocks) / 10)
    assert train.index[-1, 2] == validation.index[0, 1]  # the two share no target
    assert [len(part) for part in random_blocks(2).split(0.01)] == [1, 1]
    assert [len(part) for part in random_blocks(3).split(1.0)] == [1, 2]


def test_too_little_text_to_split(tmp_path):
    with pytest.raises(InputError, match="shorter than one context window"):
        write_blocks(tmp_path / "d", [("", "Hi.")], TOKENIZER, 16, bos_id=END, eos_id=END).split()
    with pytest.raises(InputError, match="no documents"):
        write_blocks(tmp_path / "d", [], TOKENIZER, 16, bos_id=END, eos_id=END)


# ---------------------------------------------------------------------------------------------------------- on disk


def test_a_crash_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("data.blocks.BATCH", 1000)  # so that something is on the disk when the crash comes

    def crashing():
        yield "", STORY
        yield None, "x" * 1000
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
    monkeypatch.setattr("data.blocks.id_count", lambda tokenizer: vocab_size)
    blocks = write_blocks(tmp_path / "d", [("", STORY)], TOKENIZER, 16, bos_id=END, eos_id=END)
    assert blocks.tokens.dtype == dtype
    assert blocks.tokens.tolist() == [END, *encoded(STORY), END]


@pytest.mark.slow
def test_a_large_text_is_not_held_in_memory(tmp_path):
    """A text of 32 batches must not take more memory than one of 2, but for 25 MB.

    By hand: 4 MB of STORY are 1.1 million tokens, which as lists of Python integers would take 8 bytes each for the places
    and 28 for each number above 256: up to 39 MB. Measured in a process of its own, whose peak is read after each text.
    """
    code = """if True:
        import sys
        from pathlib import Path
        import data.blocks
        from data.texts import read_texts
        from tests.helpers import END, story_tokenizer
        data.blocks.BATCH = 1 << 17
        for path in sys.argv[1:]:
            texts = read_texts([Path(path)])
            data.blocks.write_blocks(Path(path).with_suffix(".blocks"), texts, story_tokenizer(), 512, END, END)
            print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
    """
    paths = [tmp_path / f"{batches}.txt" for batches in (2, 32)]
    for path in paths:
        path.write_text(STORY * ((int(path.stem) << 17) // len(STORY)))
    done = subprocess.run([sys.executable, "-c", code, *paths], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())  # KiB
    assert after - before < 25_000
