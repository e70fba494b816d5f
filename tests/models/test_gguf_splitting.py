"""The splitting that llama.cpp is told to use: it gives the tokenizer's own tokens, or the tokenizer is refused."""

from support.errors import InputError

import random

from data.tokenizer import make_tokenizer
from models.gguf_splitting import splitting, whole
from models.places import CHECKPOINT
from tests.helpers import STORY, story_tokenizer

import pytest
from tokenizers import Regex, Tokenizer, normalizers, processors
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

BYTES = ByteLevel(add_prefix_space=False, use_regex=False)
GPT2 = ByteLevel(add_prefix_space=False)
SUPERBPE = Sequence([Split(Regex(r"\p{N}+"), "isolated"), Split(Regex(r"(?=(\d{3})+(?!\d))"), "isolated"), BYTES])
RUSSIAN = "Ёж жил в лесу. Однажды он вышел погулять и нашёл гриб. До вечера было далеко, и ёж пошёл домой."


def trained(text=STORY, pre_tokenizer=None):
    tokenizer = make_tokenizer("bpe", [text] * 5, 330)
    tokenizer.pre_tokenizer = pre_tokenizer or tokenizer.pre_tokenizer
    return tokenizer


@pytest.mark.parametrize(("tokenizer", "name"), [
    (lambda: trained(), "superbpe"), (lambda: Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json")), "superbpe"),
    (story_tokenizer, "qwen2"), (lambda: trained(pre_tokenizer=GPT2), "gpt-2"),
    (lambda: trained(pre_tokenizer=Sequence([Digits(individual_digits=True), GPT2])), "smollm"),
], ids=["ours", "shipped", "qwen2", "gpt-2", "smollm"])  # fmt: skip
def test_its_name(tokenizer, name):
    tokenizer = tokenizer()
    tokenizer.normalizer = normalizers.NFC()  # which every GGUF file of Qwen2 does without
    assert splitting(tokenizer) == name


@pytest.mark.parametrize("text", [STORY, "“Sonic’s 12½ £5 – 7 €!” it's 'the' fox… naïve éclair é"])
def test_superbpe_gives_the_tokenizers_own_tokens(text):
    """Oracle: the tokenizer itself, on random texts of its alphabet. By hand: ours splits "aB 12" into a, B, a space, 1 and 2,
    superbpe into "aB " and 12; no merge begins with a capital letter's space or joins digits, so the tokens are the same."""
    tokenizer, other = trained(text), trained(text, SUPERBPE)
    assert splitting(tokenizer) == "superbpe" and tokenizer.pre_tokenizer.pre_tokenize_str("aB 12") != (
        other.pre_tokenizer.pre_tokenize_str("aB 12"))
    rng = random.Random(0)
    for _ in range(300):
        shuffled = "".join(rng.choices(text + " \t\n09aA", k=40))
        assert tokenizer.encode(shuffled).ids == other.encode(shuffled).ids, shuffled


def test_a_merge_that_would_join_what_is_kept_apart():
    """Bug: told to split as Qwen2 does, llama.cpp gave a decoder of Russian books other tokens wherever a capital letter
    follows a space. Such a tokenizer has learned to join a space with D0, the first byte of most small letters, and D0 begins
    the capital ones too, which it splits from their space."""
    tokenizer, other = trained(RUSSIAN), trained(RUSSIAN, SUPERBPE)
    with pytest.raises(InputError, match="it would not split ' [А-ЯЁ]'; a decoder trained with GPT-2's") as caught:
        splitting(tokenizer)
    text = str(caught.value).split("'")[1]
    assert tokenizer.encode(text).ids != other.encode(text).ids


def test_the_parts_of_a_merge_are_completed():
    """By hand: "о" is D0 BE, "д" D0 B4, "Д" D0 94. After "о" a lone D0 begins either; BE alone ends "о". Within a character
    there is no border."""
    alphabet = [letter.encode() for letter in "aдоД"]
    assert list(whole("о".encode(), b"\xd0", alphabet)) == [("о", "д"), ("о", "о"), ("о", "Д")]
    assert list(whole(b"\xbe", "д".encode(), alphabet)) == [("о", "д")]
    assert list(whole(b" a", b"b", alphabet)) == [(" a", "b")] and not list(whole(b"\xd0", b"\xbe", alphabet))


@pytest.mark.parametrize(("change", "message"), [
    (lambda t: setattr(t, "pre_tokenizer", Sequence([Split(Regex(r"\p{N}{1,3}"), "isolated"), BYTES])), "it would split '0'?0"),
    (lambda t: setattr(t, "pre_tokenizer", ByteLevel(add_prefix_space=True)), "holds byte-level BPE alone"),
    (lambda t: setattr(t, "pre_tokenizer", Digits()), "holds byte-level BPE alone"),
    (lambda t: setattr(t, "normalizer", normalizers.Lowercase()), "cannot hold what this tokenizer does"),
    (lambda t: setattr(t.model, "ignore_merges", True), "cannot hold what this tokenizer does"),
    (lambda t: setattr(t, "post_processor", processors.TemplateProcessing("<|endoftext|> $A", None, [("<|endoftext|>", 0)])),
     "cannot hold what this tokenizer does"),
])  # fmt: skip
def test_what_a_file_cannot_hold(change, message):
    tokenizer = trained()
    change(tokenizer)
    with pytest.raises(InputError, match=message) as caught:
        splitting(tokenizer)
    assert "\n" not in str(caught.value)
