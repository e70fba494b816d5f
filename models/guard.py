"""The ids of a text in which some control tokens are a user's characters and others are the template's own.

A tokenizer finds its control tokens wherever they stand, and what stands around a piece of text decides how it is cut up. So
the text is encoded as a whole, by a copy of the tokenizer that knows its control tokens under secret names: the template's are
written by those names, and what a user typed is ordinary characters.
"""

from support.errors import InputError

import hashlib
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers.models import Model
    from transformers import PreTrainedTokenizerBase


def guarded(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> tuple[Callable[[str], str], Callable[[str], list[int]]]:
    """Two functions: `hide` prepares one of `texts` for a template, `encode` gives the ids of what the template made of it.

    Where no text holds a control token they are the identity and the tokenizer's own. Special tokens are not added.
    """
    encode, control = partial(tokenizer.encode, add_special_tokens=False), control_tokens(tokenizer)
    names = [token.content for token in control.values()]
    if not any(control.keys() & set(encode(text)) or any(name in text for name in names) for text in texts):
        return str, encode
    disguise = Disguise(tokenizer, control, texts)
    return disguise.hide, disguise.encode


def control_tokens(tokenizer: "PreTrainedTokenizerBase") -> "dict[int, AddedToken]":
    """The added tokens that control a model, by their ids: special ones, and those written in brackets, as <tool_call> is.

    White space and words can be added tokens, too, and are read as such wherever they stand.
    """
    return {i: token for i, token in tokenizer.added_tokens_decoder.items()
            if token.content.strip() and (token.special or re.search(r"[<>\[\]{}|]", token.content))}


class Disguise:
    """A copy of a tokenizer that knows its control tokens under secret names; the vocabulary is shared."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", control: "dict[int, AddedToken]", texts: list[str]) -> None:
        """`control` are the tokens to rename; no secret name occurs in `texts`."""
        from tokenizers import Tokenizer

        self.tokenizer, self.secret = tokenizer, hashlib.sha256("".join(texts).encode()).hexdigest()[:32]
        self.names = {i: self.secret_name(token.content, f"t{i}e") for i, token in control.items()}
        longest_first = sorted((token.content for token in control.values()), key=len, reverse=True)
        self.control = re.compile("|".join(map(re.escape, longest_first)))
        self.stand_ins: dict[str, str] = {}  # of what a user typed

        own, added = tokenizer.backend_tokenizer, tokenizer.added_tokens_decoder
        self.model = own.model
        self.copy = Tokenizer(self.model)
        self.copy.normalizer, self.copy.pre_tokenizer = own.normalizer, own.pre_tokenizer
        known = {i: renamed(token, self.names.get(i, token.content)) for i, token in added.items()}
        self.copy.add_tokens(list(known.values()))
        self.own_ids = {self.copy.token_to_id(token.content): i for i, token in known.items()}
        self.forbidden = control.keys() - unknown_ids(self.model)

    def hide(self, text: str) -> str:
        """The text with a stand-in for each control token in it, and for what the tokenizer takes for one, as <S> for <s>."""
        exact = self.control.sub(lambda found: self.stand_in(found[0]), text)
        return self.rewritten(exact, lambda token, written: self.stand_in(written))

    def encode(self, text: str) -> list[int]:
        """The ids of a rendered text: stand-ins are the characters that they stand for, control tokens are the template's.

        Raises InputError where the tokenizer has no other id for characters than that of a control token.
        """
        renamed_text = self.rewritten(text, lambda token, written: self.names[token])
        for name, written in self.stand_ins.items():
            renamed_text = renamed_text.replace(name, written)
        ids = []
        for i in self.copy.encode(renamed_text, add_special_tokens=False).ids:
            # Some vocabularies hold their control tokens among the ordinary ones, and find them in any text.
            ids += [self.own_ids[i]] if i in self.own_ids else self.spelled(i) if i in self.forbidden else [i]
        return ids

    def rewritten(self, text: str, name: Callable[[int, str], str]) -> str:
        """The text with another name for each control token that the tokenizer finds: name(token, how it is written)."""
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        for token, (start, end) in reversed(list(zip(found["input_ids"], found["offset_mapping"], strict=True))):
            if token in self.forbidden:
                written = text[start:end].strip()  # without the white space that some tokens swallow
                text = text[:start] + text[start:end].replace(written, name(token, written)) + text[end:]
        return text

    def stand_in(self, written: str) -> str:
        """A new stand-in."""
        name = self.secret_name(written, f"u{len(self.stand_ins)}e")
        self.stand_ins[name] = written
        return name

    def secret_name(self, written: str, number: str) -> str:
        """A name that has a word's border, or none, where another has it: some tokens are found as words of their own alone."""
        first, last = ("x" if letter.isalnum() or letter == "_" else "·" for letter in (written[0], written[-1]))
        return f"{first}{self.secret}{number}{last}"

    def spelled(self, token: int) -> list[int]:
        """The ids of a control token's single characters. Raises InputError where one of them is a control token itself."""
        name = self.model.id_to_token(token)
        ids = [piece.id for character in name for piece in self.model.tokenize(character)]
        if self.forbidden & set(ids):
            raise InputError(f"the model's tokenizer cannot read {name} as ordinary characters: leave it out")
        return ids


def renamed(token: "AddedToken", name: str) -> "AddedToken":
    """An added token by another name, found under the same conditions."""
    from tokenizers import AddedToken

    return AddedToken(name, single_word=token.single_word, lstrip=token.lstrip, rstrip=token.rstrip,
                      normalized=token.normalized, special=token.special)


def unknown_ids(model: "Model") -> set[int]:
    """The ids that a vocabulary gives to what it does not hold; in some, one of a control token, as <unk> is."""
    try:
        return {piece.id for piece in model.tokenize("\U0010ffff")}
    except Exception:  # tokenizers raises plain Exception where there is no such id
        return set()
