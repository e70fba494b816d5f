"""Rotary factors that depend on how long the text is: LongRoPE's (Ding et al. 2024), as in Phi-3, and dynamic NTK scaling.

Such a model turns every key by other angles once the text has grown beyond a length. So the keys in a cache that were
computed before do not hold behind it: the text must be read again from its beginning.
"""

from typing import Any

from models.limits import rope_parameters, text_config

from torch import nn


def keys_hold(config: Any, read: int, length: int) -> bool:
    """Whether keys that were computed for the first `read` tokens of a text are right when it has `length`.

    LongRoPE has two sets of factors, one for texts of up to `original_max_position_embeddings` tokens and one for longer
    ones. Dynamic scaling has one for each length beyond `max_position_embeddings`.
    """
    for rope in rope_parameters(config):
        if rope["rope_type"] == "longrope" and 0 < read <= rope["original_max_position_embeddings"] < length:
            return False
        if rope["rope_type"] == "dynamic" and 0 < read and length > text_config(config).max_position_embeddings:
            return False
    return True


def forget_lengths(model: nn.Module) -> None:
    """Let dynamic factors depend on the text at hand: transformers keeps those of the longest one, until a short one comes."""
    for module in model.modules():
        if "dynamic" in str(getattr(module, "rope_type", None)):  # a name, or one for each kind of layer
            module.register_forward_pre_hook(restart)


def restart(rotary: nn.Module, _: Any) -> None:
    """Take a rotary embedding back to before its first text."""
    for name in [name for name in vars(rotary) if name.endswith("max_seq_len_cached")]:
        setattr(rotary, name, rotary.original_max_seq_len)
    for name, factors in list(rotary.named_buffers()):
        if name.endswith("original_inv_freq"):
            setattr(rotary, name.replace("original_", ""), factors.clone())
