"""Classifier-free guidance: a text is written as if its labels counted γ times (Ho and Salimans 2022, section 3.2; for language
models Sanchez et al. 2023, section 3).

The next token's log-probabilities are those without labels plus γ times what the labels add: u + γ (c - u), renormalised. γ = 1
is the model with its labels, γ = 0 without, more is over-guided.

    guided = Guided(model, 2.0)
    decode(guided, ids, choose, columns, eos_ids, limit, num_rows, cache=guided.new_cache([wanted]))
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from models.control import Controlled, LabelledCache
from models.transformer import Output

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import Cache


def guide(conditional: Tensor, unconditional: Tensor, gamma: float) -> Tensor:
    """Logits with and without labels, both (..., vocab), to guided log-probabilities (..., vocab), float32.

    A token that is impossible in both stays so, at -inf.
    """
    c, u = conditional.float().log_softmax(dim=-1), unconditional.float().log_softmax(dim=-1)
    added = (gamma * (c - u)).nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    return (u + added).log_softmax(dim=-1)


class Pairs:
    """The cache of rows that are each read twice: first all with their labels, then all without."""

    def __init__(self, cache: "Cache | LabelledCache", rows: int) -> None:
        self.cache, self.rows = cache, rows

    def get_seq_length(self) -> int:
        return self.cache.get_seq_length()

    def batch_select_indices(self, rows: Tensor) -> None:
        """Keep these rows, in this order, and with each its other reading."""
        self.cache.batch_select_indices(torch.cat([rows, rows + self.rows]))
        self.rows = len(rows)


class Guided(nn.Module):
    """A controlled model whose `logits` are guided log-probabilities; whoever decodes sees each row once.

    Each row is read twice, so a step costs as much as two rows do. It is decoded with a cache of its own `new_cache` alone.
    """

    def __init__(self, model: Controlled, gamma: float) -> None:
        super().__init__()
        self.model, self.config, self.gamma = model, model.config, gamma

    def new_cache(self, labels: Sequence[Mapping[str, str]]) -> Pairs:
        """An empty cache for as many rows as there are labels: see `Controlled.new_cache`."""
        return Pairs(self.model.new_cache([*labels, *({} for _ in labels)]), len(labels))

    def forward(self, input_ids: Tensor, past_key_values: Pairs | None = None, logits_to_keep: int = 0) -> Output:
        """Guided log-probabilities (rows, kept, vocab) after input_ids (rows, new); arguments as Controlled's.

        Without a cache, labels can stand in the text alone. Raises InputError as Controlled does.
        """
        both = torch.cat([input_ids, self.model.unlabelled(input_ids)])
        cache = None if past_key_values is None else past_key_values.cache
        conditional, unconditional = self.model(both, cache, logits_to_keep).logits.chunk(2)
        return Output(guide(conditional, unconditional, self.gamma))
