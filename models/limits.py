"""How many tokens a model knows, and how many it can read at once, as its configuration says it."""

from support.errors import InputError

import sys
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

# What configurations call the context; the first that is there counts. XLNet's, without limit, is -1.
CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length",
                  "max_target_positions")


def text_config(config: Any) -> Any:
    """The part of a model's configuration that is about text: in most, all of it."""
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def rope_parameters(config: Any) -> list[dict]:
    """The settings of the rotary positions: one dictionary, or one for each kind of layer."""
    found = getattr(text_config(config), "rope_parameters", None) or {}
    return [kind for kind in (found, *found.values()) if isinstance(kind, dict) and "rope_type" in kind]


def vocab_size(model: nn.Module) -> int:
    """The number of tokens that a model has weights for."""
    return text_config(model.config).vocab_size


def context_of(model: nn.Module, context_len: int | None = None) -> int:
    """How many tokens a prediction can see: the model's own context unless `context_len` is less."""
    config = text_config(model.config)
    own = next((limit for name in CONTEXT_FIELDS if (limit := getattr(config, name, None) or 0) > 0), sys.maxsize)
    # Dynamic scaling of the rotary positions begins where the configuration's limit ends.
    own *= max((rope["factor"] for rope in rope_parameters(config) if rope["rope_type"] == "dynamic"), default=1)
    # RoBERTa counts its positions from behind the number that stands for padding.
    own -= max((table.padding_idx + 1 for name, table in model.named_modules()
                if name.endswith("position_embeddings") and getattr(table, "padding_idx", None) is not None), default=0)
    return min(int(own), context_len or sys.maxsize)


def check_known(ids: Iterable[int], model: nn.Module, name_of: Callable[[int], str | None]) -> None:
    """Raises InputError, which names the token, for an id that the model has no weights for: some tokenizers know more."""
    known = vocab_size(model)
    for token in ids:
        if token >= known:
            raise InputError(f"the text holds {name_of(token)!r}, token {token} of the model's tokenizer, but the model has "
                             f"weights for {known} tokens only: leave it out")
