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

        self.secret = hashlib.sha256("".join(texts).encode()).hexdigest()[:32]
        self.tokens = {token.content: i for i, token in control.items()}
        longest_first = sorted(control.values(), key=lambda token: -len(token.content))  # they may contain one another
        self.characters = re.compile("|".join(re.escape(token.content) for token in longest_first))
        self.written = re.compile(f"{self.secret}c(?P<stand_in>\\d+)e|{'|'.join(map(pattern, longest_first))}")

        own, added = tokenizer.backend_tokenizer, tokenizer.added_tokens_decoder
        self.model = own.model
        self.copy = Tokenizer(self.model)
        self.copy.normalizer, self.copy.pre_tokenizer = own.normalizer, own.pre_tokenizer
        known = {i: renamed(token, f"{self.secret}t{i}e") if i in control else token for i, token in added.items()}
        self.copy.add_tokens(list(known.values()))
        self.own_ids = {self.copy.token_to_id(token.content): i for i, token in known.items()}
        self.forbidden = control.keys() - unknown_ids(self.model)

    def hide(self, text: str) -> str:
        """The text with a stand-in of letters and digits for each control token in it."""
        return self.characters.sub(lambda found: f"{self.secret}c{self.tokens[found[0]]}e", text)

    def encode(self, text: str) -> list[int]:
        """The ids of a rendered text: stand-ins are the characters that they stand for, control tokens are the template's.

        Raises InputError where the tokenizer has no other id for characters than that of a control token.
        """
        names = {str(i): name for name, i in self.tokens.items()}
        revealed = self.written.sub(lambda found: names[found["stand_in"]] if found["stand_in"] else
                                    f"{self.secret}t{self.tokens[found[0]]}e", text)  # fmt: skip
        ids = []
        for i in self.copy.encode(revealed, add_special_tokens=False).ids:
            # Some vocabularies hold their control tokens among the ordinary ones, and find them in any text.
            ids += [self.own_ids[i]] if i in self.own_ids else self.spelled(i) if i in self.forbidden else [i]
        return ids

    def spelled(self, token: int) -> list[int]:
        """The ids of a control token's single characters. Raises InputError where one of them is a control token itself."""
        name = self.model.id_to_token(token)
        ids = [piece.id for character in name for piece in self.model.tokenize(character)]
        if self.forbidden & set(ids):
            raise InputError(f"the model's tokenizer cannot read {name} as ordinary characters: leave it out")
        return ids


def pattern(token: "AddedToken") -> str:
    """A regular expression that finds an added token where the tokenizer does."""
    return rf"(?<!\w){re.escape(token.content)}(?!\w)" if token.single_word else re.escape(token.content)


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
