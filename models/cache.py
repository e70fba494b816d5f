"""The cache: what a model has read, kept so that it need not read it again.

What any cache here must do: tell its length, `get_seq_length()`, and keep some rows, `batch_select_indices(rows)`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Cache


def growing_cache() -> "Cache":
    """An empty cache of keys and values, for any causal language model that takes transformers' `DynamicCache`."""
    from models.growing_layer import GrowingLayer

    from transformers.cache_utils import Cache  # here, because --help need not wait for it

    return Cache(layer_class_to_replicate=GrowingLayer)
