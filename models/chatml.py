"""Conversations as text and as ids: by the chat template that a tokenizer brings, in ChatML, or as plain text.

ChatML is written in one place, MESSAGE and OPENING; the chat template in a checkpoint's tokenizer_config.json is made of them:

    <|im_start|>system
    You are a storyteller.<|im_end|>
    <|im_start|>user
    Tell me a story.<|im_end|>
    <|im_start|>assistant
"""

from support.errors import InputError, first_line

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from models.guard import control_tokens, guarded

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
PLAIN_TEMPLATE = (  # for a base model, which only continues a text: an answer goes on where the user's text ends
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] != 'user' and not loop.last %}{{ '\n\n' }}{% endif %}{% endfor %}"
)
MARK = "\ue000text\ue001"  # what no text holds but by intent: it finds a place in a rendered conversation


class Message(NamedTuple):
    """One message; `ids` are those of an answer that the model wrote, which it is to read again unchanged."""

    role: str
    content: str
    ids: tuple[int, ...] = ()


# ------------------------------------------------------------------------------------------------------------ as text


def chatml(system: str, user: str) -> str:
    """The prompt of a system message and a user's message, up to where the answer begins."""
    return MESSAGE.format(role="system", content=system) + MESSAGE.format(role="user", content=user) + OPENING


def read_chatml(text: str) -> list[Message]:
    """The messages of a prompt that is ChatML from its beginning to where an answer begins; none of any other text."""
    message = MESSAGE.format(role=r"(\w+)", content="(.*?)").replace("|", r"\|")
    whole = re.fullmatch(f"(?:{message})+{re.escape(OPENING)}", text, re.DOTALL)
    return [Message(*parts) for parts in re.findall(message, text, re.DOTALL)] if whole else []


def knows_chatml(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether <|im_start|> is a token, and the tokenizer's own template, where it brings one, does not write something else.

    OLMo 2's and StableLM's tokenizers know the token, but their templates write <|user|>; in Phi-4's, <|im_sep|> ends a role.
    A decoder of books says by its template that its text is plain. A template that writes the content alone says nothing.
    """
    template = own_template(tokenizer)
    if IM_START not in tokenizer.get_added_vocab() or template == PLAIN_TEMPLATE:
        return False
    written = try_template(tokenizer, [{"role": "user", "content": MARK}], template) if template else MARK
    return written.strip() == MARK or MESSAGE.format(role="user", content=MARK).rstrip() in written


def own_template(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """The chat template that a tokenizer brings; of several the one called default, or the first."""
    own = tokenizer.chat_template
    return own.get("default", next(iter(own.values()))) if isinstance(own, dict) and own else own or None


def template_of(tokenizer: "PreTrainedTokenizerBase") -> str:
    """How a conversation is written for a model: by its own chat template, or in ChatML if it knows that, or as plain text."""
    return own_template(tokenizer) or (CHAT_TEMPLATE if knows_chatml(tokenizer) else PLAIN_TEMPLATE)


def render(tokenizer: "PreTrainedTokenizerBase", messages: list[Message], template: str) -> str:
    """The text of a conversation, open for the assistant's answer. Raises InputError where the template refuses it."""
    content = as_part if takes_parts(tokenizer, template) else str
    return apply_template(tokenizer, [{"role": message.role, "content": content(message.content)} for message in messages],
                          template)


def apply_template(tokenizer: "PreTrainedTokenizerBase", messages: list[dict], template: str) -> str:
    """The same of messages as transformers takes them."""
    try:
        return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template can raise anything
        raise InputError(f"the model's chat template refuses the conversation: {first_line(error)}") from error


def try_template(tokenizer: "PreTrainedTokenizerBase", messages: list[dict], template: str) -> str:
    """The same, but nothing where the template refuses the conversation."""
    try:
        return apply_template(tokenizer, messages, template)
    except InputError:
        return ""


def as_part(text: str) -> list[dict]:
    """A message's content as a list of parts, here of one text, as models that see pictures take it."""
    return [{"type": "text", "text": text}]


def takes_parts(tokenizer: "PreTrainedTokenizerBase", template: str) -> bool:
    """Whether a chat template writes contents that are lists of parts alone, and leaves out those that are texts."""
    as_text, as_parts = (try_template(tokenizer, [{"role": "user", "content": content}], template)
                         for content in (MARK, as_part(MARK)))
    return MARK not in as_text and MARK in as_parts


def takes_system(tokenizer: "PreTrainedTokenizerBase", template: str) -> bool:
    """Whether a chat template writes a system message, neither refusing it nor leaving it out."""
    try:
        return MARK in render(tokenizer, [Message("system", MARK), Message("user", "text")], template)
    except InputError:
        return False


# ------------------------------------------------------------------------------------------------------------- as ids


def request_ids(tokenizer: "PreTrainedTokenizerBase", text: str, system: str) -> list[int]:
    """The ids of a prompt: ChatML as it stands for a model that knows it, else rendered as the model wants it.

    Text that does not begin as ChatML is a user's message after `system`. For a base model it is the prompt as it stands.
    Raises InputError as `conversation_ids` does.
    """
    if knows_chatml(tokenizer) and text.startswith(IM_START):
        return tokenizer.encode(text)
    template = CHAT_TEMPLATE if knows_chatml(tokenizer) else template_of(tokenizer)
    alone = [Message("user", text)]
    asked = alone if template == PLAIN_TEMPLATE else [Message("system", system), *alone]
    return conversation_ids(tokenizer, read_chatml(text) or asked, template)


def conversation_ids(tokenizer: "PreTrainedTokenizerBase", messages: list[Message], template: str) -> list[int]:
    """The ids of a conversation, open for the assistant's answer, by a chat template.

    They are those that the tokenizer gives for the rendered text, with two exceptions. Only what the template itself writes can
    be a control token: an <|im_end|> in a user's text becomes ordinary characters. And an answer that has ids is read by them.
    Special tokens are left to the tokenizer's own template; around plain text, and by any other template, they are put where
    the tokenizer puts them around a text. Where the template takes no system message, it goes in front of the user's first.
    Raises InputError for text that is not Unicode or that the tokenizer cannot encode, and for a conversation that the template
    refuses or leaves out.
    """
    for message in messages:
        check_unicode("message", message.content)
    if messages[0].role == "system" and not takes_system(tokenizer, template):
        system, first, *others = messages
        messages = [first._replace(content=f"{system.content}\n\n{first.content}"), *others]
    messages = accepted(tokenizer, messages, template)
    if MARK not in render(tokenizer, [*messages[:-1], messages[-1]._replace(content=MARK)], template):
        raise InputError("the model's chat template leaves the message out")
    try:
        return rendered_ids(tokenizer, messages, template)
    except InputError:
        raise
    except Exception as error:  # tokenizers raises plain Exception: for a character that a vocabulary does not hold, say
        raise InputError(f"the model's tokenizer cannot encode the text: {first_line(error)}") from error


def accepted(tokenizer: "PreTrainedTokenizerBase", messages: list[Message], template: str) -> list[Message]:
    """The messages; where the template refuses them, of each answer what stands behind its last control token.

    gpt-oss's answers bring their channels along, <|channel|>analysis<|message|>...<|channel|>final<|message|>Hello, and its
    template takes the final text alone.
    """
    try:
        render(tokenizer, messages, template)
        return messages
    except InputError:
        control = control_tokens(tokenizer)
        names = "|".join(re.escape(token.content) for token in control.values()) or "(?!)"
        return [Message(message.role, next((part for part in reversed(re.split(names, message.content)) if part.strip()), ""))
                if control.keys() & set(message.ids) else message for message in messages]


def rendered_ids(tokenizer: "PreTrainedTokenizerBase", messages: list[Message], template: str) -> list[int]:
    """The ids of messages that the template takes as they are."""
    control = control_tokens(tokenizer).keys()  # a text whose ids hold one is the model's own, and not to be changed
    hide, encode = guarded(tokenizer, [message.content for message in messages if not control & set(message.ids)])
    messages = [message if control & set(message.ids) else message._replace(content=hide(message.content))
                for message in messages]
    text = render(tokenizer, messages, template)
    ids, end, before = [], 0, ""
    for start, after, answer in written_answers(tokenizer, messages, template, text):
        ids += [*continuation(encode, before, text[end:start]), *answer]
        end, before = after, text[start:after] or text[:after]
    ids += continuation(encode, before, text[end:])
    written = template == own_template(tokenizer) != PLAIN_TEMPLATE  # by the template itself
    return ids if written else with_special_tokens(tokenizer, text, ids)


def written_answers(tokenizer: "PreTrainedTokenizerBase", messages: list[Message], template: str,
                    text: str) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Where the answers that have ids stand in a conversation rendered as `text`: (start, end, ids) of each.

    An answer that the template changes, by cutting off white space too, is left out: it is read as it is rendered.
    """
    for number, message in enumerate(messages):
        if not message.ids:
            continue
        marked = render(tokenizer, [*messages[:number], message._replace(content=MARK), *messages[number + 1:]], template)
        front, found, behind = marked.partition(MARK)
        start, end = len(front), len(text) - len(behind)
        if not found or not text.startswith(front) or not text.endswith(behind) or start > end:
            continue
        space, asked = front[len(front.rstrip()):], messages[number - 1].content.strip()
        opening = render(tokenizer, messages[:number], template).rpartition(asked)[2] if space and asked else ""
        own = bool(opening) and front.rpartition(asked)[2] == opening + space
        if message.content in (text[start:end], space * own + text[start:end]):
            start -= len(space) * own  # no part of the prompt: the model itself wrote it, or wrote none
            yield start, end, message.ids


def continuation(encode: Callable[[str], list[int]], before: str, text: str) -> list[int]:
    """The ids of a text that stands behind another: without the space that some tokenizers put in front of a text."""
    head, whole = encode(before) if before else [], encode(before + text)
    return whole[len(head):] if whole[:len(head)] == head else encode(text)


def with_special_tokens(tokenizer: "PreTrainedTokenizerBase", text: str, ids: list[int]) -> list[int]:
    """The ids of a text with what the tokenizer puts around it: BOS in front, as a rule."""
    whole = tokenizer(text, return_special_tokens_mask=True)
    added = whole["special_tokens_mask"]
    first = added.index(0) if 0 in added else len(added)
    last = len(added) - added[::-1].index(0) if 0 in added else len(added)
    return [*whole["input_ids"][:first], *ids, *whole["input_ids"][last:]]


def check_unicode(name: str, text: str) -> None:
    """Raises InputError for bytes that are not UTF-8: Python keeps those of a command line as lone surrogates."""
    if re.search("[\ud800-\udfff]", text):
        raise InputError(f"the {name} is not valid UTF-8; if it is, the locale is another: set PYTHONUTF8=1")


def chat_end(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The id that closes an assistant's message in the tokenizer's own chat template: 151645, <|im_end|>, in Qwen2.5.

    None for a tokenizer without a template, and where no control token follows the message. White space can be an added
    token, too, but controls nothing.
    """
    template = own_template(tokenizer)
    if not template:
        return None
    content = as_part if takes_parts(tokenizer, template) else str
    messages = [{"role": "user", "content": content("question")}, {"role": "assistant", "content": content(MARK)}]
    try:
        rendered = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    except Exception:  # it can raise anything
        return None
    _, _, behind = rendered.partition(MARK)
    added = tokenizer.get_added_vocab()
    longest_first = "|".join(map(re.escape, sorted(added, key=len, reverse=True))) or "(?!)"
    found = [token for token in re.findall(longest_first, behind) if token.strip()]
    return added[found[0]] if found else None
