"""The cache: what a model has read, kept so that it need not read it again.

What any cache here must do: tell its length, `get_seq_length()`, and keep some rows, `batch_select_indices(rows)`.
"""

from support.errors import InputError, first_line

from typing import TYPE_CHECKING, Any

from models.lstm import LSTMConfig, Memory

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import Cache


def growing_cache(config: Any = None) -> "Cache | Memory":
    """An empty cache of keys and values for the model of a configuration, or for any that needs no layers of its own kind.

    An LSTM keeps a state in their place.
    A sliding window needs none: the model's mask hides what has left it. Those that keep more than keys and values do.
    """
    if isinstance(config, LSTMConfig):
        return Memory()
    from models.growing_layer import GrowingLayer

    from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer  # here: --help need not wait for it

    layers = own_layers(config)
    ordinary = [type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers]
    if all(ordinary):
        return Cache(layer_class_to_replicate=GrowingLayer)
    return Cache(layers=[GrowingLayer() if known else layer for layer, known in zip(layers, ordinary, strict=True)])


def own_layers(config: Any) -> list:
    """The layers of the cache that transformers makes for a configuration; none for one of this project's."""
    from transformers.cache_utils import DynamicCache

    return DynamicCache(config=config).layers if hasattr(config, "get_text_config") else []


def check_cache(model: nn.Module) -> None:
    """Raises InputError, in one line, for a model of transformers that cannot be decoded with such a cache."""
    from transformers.cache_utils import LinearAttentionCacheLayerMixin

    kind = model.config.model_type
    if model._is_stateful or any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in own_layers(model.config)):
        raise InputError(f"{kind} keeps a running state, where decoding here needs keys and values")
    if kind == "xlnet":  # it would compute, but what its plain forward pass says of the next token is nothing it has learned
        raise InputError("xlnet predicts a token from a place that is kept free for it, which decoding here does not do")
    cache = growing_cache(model.config)
    try:
        with torch.inference_mode():
            for new in (2, 1):
                model(input_ids=torch.zeros(1, new, dtype=torch.long), past_key_values=cache, logits_to_keep=1)
    except Exception as error:  # whatever a model of another kind raises
        raise InputError(f"{kind} cannot be decoded here, token by token with a cache: {first_line(error)}") from error
    if cache.get_seq_length() not in (0, 3):  # 0: it reads the whole text again at every step, as GPT-1 does
        raise InputError(f"{kind} keeps what it has read in a cache of its own kind, not in keys and values")
