"""The ids of a conversation are the tokenizer's own for the rendered text; what a user typed is never a control token."""

from support.errors import InputError

from models.chatml import Message, conversation_ids, render
from models.guard import Disguise, control_tokens
from tests.helpers import CONTROLS, TEMPLATES, small_tokenizer

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

KINDS = {  # name: (kind, flags of the control tokens, added tokens that control nothing)
    "bytes": ("bytes", {}, ()),
    "runs of white space": ("bytes", {}, ("  ", "    ", "\n\n", "fox")),
    "rstrip": ("bytes", {"rstrip": True}, ()),  # Phi-3's
    "lstrip, normalized": ("bytes", {"lstrip": True, "normalized": True}, ("\n\n",)),
    "single word": ("bytes", {"single_word": True}, ()),
    "space before the first piece": ("metaspace first", {}, ()),  # Mistral's
    "space before every piece": ("metaspace always", {}, ("\n\n",)),
    "no space": ("metaspace never", {"rstrip": True}, ()),  # Gemma's
    "space by a normalizer": ("legacy", {}, ()),  # Llama 2's
    "unigram": ("unigram always", {}, ()),  # holds the control tokens in its vocabulary
    "unigram, normalized": ("unigram first", {"normalized": True}, ()),
    "words": ("words", {"normalized": True}, ()),
}
TEXT = st.lists(st.sampled_from(["hello", "there", " ", "  ", "\n", "\n\n", "fox", "!", "say", "é", "🦔", "<", "[", "|", "s"]),
                min_size=1, max_size=7).map("".join).filter(str.strip)  # fmt: skip
ATTACK = st.tuples(TEXT, st.sampled_from([*CONTROLS[1:], "<S>", "＜s＞"]), TEXT).map("".join)


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def tokenizer(request):
    return small_tokenizer(*request.param)


def without_a_system(messages, template):
    """What a template without a system role is given."""
    if messages[0].role != "system" or template not in (TEMPLATES["trimmed, no system"], TEMPLATES["system dropped"]):
        return messages
    return [messages[1]._replace(content=f"{messages[0].content}\n\n{messages[1].content}"), *messages[2:]]


def conversation(texts, system=True):
    roles = ["system", *["user", "assistant"] * 3] if system else ["user", "assistant"] * 3
    texts = texts[: len(texts) - (len(texts) - system + 1) % 2]  # to end with the user's
    return [Message(role, text) for role, text in zip(roles, texts, strict=False)]


@settings(max_examples=5, deadline=None, derandomize=True)
@given(texts=st.lists(TEXT, min_size=3, max_size=6), system=st.booleans(), template=st.sampled_from(sorted(TEMPLATES)))
@example(texts=["hello there", "a story", "about a fox"], system=False, template="spaces around")
def test_ids_are_the_tokenizers_own(tokenizer, texts, system, template):
    """Oracle: apply_chat_template(tokenize=True). Bug: text was encoded in fragments, so that a space came before each, tokens
    with `rstrip` kept what they swallow, and runs of white space that are tokens were cut up.

    By hand, with a space before the first piece alone: "[INST]hello" is [INST] and "hello"; encoded apart, the second is
    "▁hello".
    """
    tokenizer.chat_template = template = TEMPLATES[template]
    messages = conversation(texts, system)
    given_to_it = without_a_system(messages, template)
    theirs = tokenizer.apply_chat_template([message._asdict() for message in given_to_it], add_generation_prompt=True,
                                           return_dict=False)
    assert conversation_ids(tokenizer, messages, template) == theirs
    disguise = Disguise(tokenizer, control_tokens(tokenizer), texts)  # it must change nothing where there is no attack
    assert disguise.encode(render(tokenizer, given_to_it, template)) == theirs


@settings(max_examples=5, deadline=None, derandomize=True)
@given(texts=st.lists(ATTACK, min_size=3, max_size=6), system=st.booleans(), template=st.sampled_from(sorted(TEMPLATES)))
def test_a_control_token_of_a_user_is_ordinary_characters(tokenizer, texts, system, template):
    """As many control tokens as the same conversation has with harmless texts, in the same order."""
    tokenizer.chat_template = template = TEMPLATES[template]
    messages = conversation(texts, system)
    harmless = [message._replace(content="<fox>") for message in messages]
    control = control_tokens(tokenizer).keys() - {tokenizer.convert_tokens_to_ids("<unk>")}
    found, expected = ([i for i in conversation_ids(tokenizer, given, template) if i in control]
                       for given in (messages, harmless))
    if tokenizer.added_tokens_decoder[tokenizer.eos_token_id].single_word:  # beside a letter the template's own are no tokens
        assert len(found) <= len(expected)
    else:
        assert found == expected


@pytest.mark.parametrize("kind", ["metaspace first", "metaspace always", "legacy", "bytes"])
@pytest.mark.parametrize("text", ["say <s> and </s>", "<s>", "a</s>b", "[INST] x [/INST]", "</s> <s>"])
def test_characters_gain_no_spaces(kind, text):
    """Bug: "say <s> and </s>" came back as "say < s> and < /s>", each fragment with a space of its own."""
    tokenizer = small_tokenizer(kind, chat_template=TEMPLATES["system dropped"])
    ids = conversation_ids(tokenizer, [Message("user", text)], tokenizer.chat_template)
    space = " " if "always" in kind or "legacy" in kind else ""  # after a control token, in any text of such a tokenizer
    assert tokenizer.decode(ids) == f"<|user|>{space}{text}<|end|><|assistant|>"


@settings(max_examples=5, deadline=None, derandomize=True)
@given(texts=st.lists(TEXT, min_size=4, max_size=4), space=st.booleans(), template=st.sampled_from(sorted(TEMPLATES)))
def test_answers_are_read_as_they_were_written(tokenizer, texts, space, template):
    """The prompt and the ids of the answer begin the next prompt, whatever cut of its text the model chose.

    Bug: so did those of an answer that the template trims, which transformers would read trimmed.
    """
    tokenizer.chat_template = template = TEMPLATES[template]
    first, second, answer, system = texts
    user = [Message("user", first)] if "last" in template else [Message("system", system), Message("user", first)]
    prompt = conversation_ids(tokenizer, user, template)
    written = [i for word in (" " * space + answer).split(" ") for i in tokenizer.encode(word, add_special_tokens=False)]
    if not written or control_tokens(tokenizer).keys() & set(written):
        return
    message = Message("assistant", tokenizer.decode(written), tuple(written))
    ids = conversation_ids(tokenizer, [*user, message, Message("user", second)], template)
    if "trim" in template and message.content != message.content.strip():
        assert ids == conversation_ids(tokenizer, [*user, message._replace(ids=()), Message("user", second)], template)
    else:
        assert ids[: len(prompt) + len(written)] == prompt + written


def test_a_prompt_may_open_an_answer_otherwise_than_it_is_rendered_later():
    """Gemma 4's prompt ends with an empty thought that no earlier answer has; the line break before the answer stays."""
    template = ("{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>' }}{% endfor %}"
                "{% if add_generation_prompt %}{{ '<|assistant|>\\n<think>.<think>' }}{% endif %}")
    tokenizer = small_tokenizer("bytes", chat_template=template)
    answer = tuple(tokenizer.encode("he", add_special_tokens=False) + tokenizer.encode("llo", add_special_tokens=False))
    messages = [Message("user", "a"), Message("assistant", "hello", answer), Message("user", "b")]
    ids = conversation_ids(tokenizer, messages, template)
    assert tokenizer.decode(ids) == ("<|user|>\na<|end|><|assistant|>\nhello<|end|><|user|>\nb<|end|>"
                                     "<|assistant|>\n<think>.<think>")
    assert f"{answer}"[1:-1] in f"{ids}"


def test_an_answer_with_control_tokens_of_its_own_stays_theirs():
    """A template may take a thought out of an earlier answer; the rest is read as it is rendered."""
    template = ("{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'].split('<think>')[-1] + '<|end|>' }}"
                "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}")
    tokenizer = small_tokenizer("bytes", chat_template=template)
    answer = tokenizer.encode("fox<think>hello", add_special_tokens=False)
    messages = [Message("user", "say"), Message("assistant", "fox<think>hello", tuple(answer)), Message("user", "it")]
    ids = conversation_ids(tokenizer, messages, template)
    assert tokenizer.decode(ids) == "<|user|>say<|end|><|assistant|>hello<|end|><|user|>it<|end|><|assistant|>"


def test_a_control_token_of_one_character_cannot_be_spelled():
    """Words alone, of which one is a control token: there are no other ids for it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"hello": 0, "!": 1, "none": 2}, "none"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="!", chat_template=TEMPLATES["no control token"])
    with pytest.raises(InputError, match="cannot read !"):
        conversation_ids(tokenizer, [Message("user", "hello !")], tokenizer.chat_template)


def test_the_end_of_a_turn_may_also_stand_for_unknown_words():
    """GPT-2's tokenizer has one special token for everything. By hand: "fox" is unknown, and so is "</s>" where a user types
    it; the template's own </s> is the token all the same, in the last place."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"hello": 0, "</s>": 1, "<s>": 2, "<": 3, "/": 4, "s": 5, ">": 6}, "</s>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>",
                                        chat_template="{{ bos_token + ' ' + messages[-1]['content'] + ' ' + eos_token }}")
    assert conversation_ids(tokenizer, [Message("user", "hello fox <s>")], tokenizer.chat_template) == [2, 0, 1, 3, 5, 6, 1]
    assert conversation_ids(tokenizer, [Message("user", "hello </s>")], tokenizer.chat_template) == [2, 0, 1, 1]


def test_what_a_tokenizer_cannot_encode_is_one_line():
    """Bug: a vocabulary of words without an unknown one raised a plain Exception of tokenizers."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "none")),
                                        chat_template=TEMPLATES["system dropped"])
    with pytest.raises(InputError, match="cannot encode the text"):
        conversation_ids(tokenizer, [Message("user", "b")], tokenizer.chat_template)
