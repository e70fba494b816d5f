"""Conversations as text and as ids: ChatML, or whatever chat template a tokenizer brings.

ChatML is written in one place, MESSAGE and OPENING; the chat template in a checkpoint's tokenizer_config.json is made of them:

    <|im_start|>system
    You are a storyteller.<|im_end|>
    <|im_start|>user
    Tell me a story.<|im_end|>
    <|im_start|>assistant
"""

from support.errors import InputError, first_line

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # its import takes a second, for which --help need not wait
    from transformers import PreTrainedTokenizerBase

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL_TOKENS = (END_OF_TEXT, IM_START, IM_END)
MESSAGE = f"{IM_START}{{role}}\n{{content}}{IM_END}\n"
OPENING = f"{IM_START}assistant\n"  # of the answer
CHAT_TEMPLATE = (  # for transformers, in Jinja
    "{% for message in messages %}" + MESSAGE.format(role="{{ message['role'] }}", content="{{ message['content'] }}")
    + "{% endfor %}{% if add_generation_prompt %}" + OPENING + "{% endif %}"
)  # fmt: skip


class Message(NamedTuple):
    """One message; `ids` are those of an answer that the model wrote, which it is to read again unchanged."""

    role: str
    content: str
    ids: tuple[int, ...] = ()


def chatml(system: str, user: str) -> str:
    """The prompt of a system message and a user's message, up to where the answer begins."""
    return MESSAGE.format(role="system", content=system) + MESSAGE.format(role="user", content=user) + OPENING


def conversation_ids(tokenizer: "PreTrainedTokenizerBase", messages: list[Message], template: str) -> list[int]:
    """The ids of a conversation, open for the assistant's answer, by a chat template.

    Only what the template itself writes can be a control token: it is rendered with a mark in place of each message, and the
    texts are put in once the control tokens have been found. So an <|im_end|> in a user's text becomes ordinary characters.
    Raises InputError for text that is not Unicode, and for a conversation that the template refuses or leaves out.
    """
    for message in messages:
        check_unicode("message", message.content)
    marks = {f"\ue000{number}\ue001": message for number, message in enumerate(messages)}
    try:
        rendered = tokenizer.apply_chat_template(
            [{"role": message.role, "content": mark} for mark, message in marks.items()],
            chat_template=template, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template can raise anything
        raise InputError(f"the model's chat template refuses the conversation: {first_line(error)}") from error
    if list(marks)[-1] not in rendered:  # a template for pictures, say, finds no text in a text
        raise InputError("the model's chat template leaves the message out")
    control = tokenizer.get_added_vocab()  # {token: id}
    ids, text = [], ""
    for part in re.split(f"({added_tokens(tokenizer)}|\ue000\\d+\ue001)", rendered):
        message = marks.get(part)
        if message and not message.ids:
            text += message.content
        elif message or part in control:
            ids += [*plain_ids(tokenizer, text), *(message.ids if message else [control[part]])]
            text = ""
        else:
            text += part
    return ids + plain_ids(tokenizer, text)


def check_unicode(name: str, text: str) -> None:
    """Raises InputError for bytes that are not UTF-8: Python keeps those of a command line as lone surrogates."""
    if re.search("[\ud800-\udfff]", text):
        raise InputError(f"the {name} is not valid UTF-8")


def plain_ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """The ids of a text in which nothing is a control token, whatever it looks like."""
    ids = []
    for part in re.split(f"({added_tokens(tokenizer)})", text):
        # A tokenizer looks for its added tokens in the text, and some of them count as ordinary: cut through each.
        pieces = (part[:1], part[1:]) if part in tokenizer.get_added_vocab() else (part,)
        for piece in pieces:
            ids += tokenizer.encode(piece, add_special_tokens=False, split_special_tokens=True)
    return ids


def added_tokens(tokenizer: "PreTrainedTokenizerBase") -> str:
    """A regular expression that finds the tokens that were added to the tokenizer's vocabulary."""
    return "|".join(map(re.escape, sorted(tokenizer.get_added_vocab(), key=len, reverse=True))) or "(?!)"


def chat_end(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The id that closes an assistant's message in the tokenizer's own chat template: 151645, <|im_end|>, in Qwen2.5.

    None for a tokenizer without a template, and where no control token follows the message. White space can be an added
    token, too, but controls nothing.
    """
    mark = "\ue000answer\ue001"
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": mark}]
    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # no template, or one that refuses: it can raise anything
        return None
    _, _, behind = rendered.partition(mark)
    found = [token for token in re.findall(added_tokens(tokenizer), behind) if token.strip()]
    return tokenizer.get_added_vocab()[found[0]] if found else None
