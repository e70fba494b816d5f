"""The keys and values of what a model has read, kept so that it need not read it again; they grow in place.

transformers' own `DynamicCache` copies all of them at every token, which for 200 rows is a sixth of a step's time. Here a
token is written into spare room behind them, and a copy is made only when the room is full, or the rows have changed.
"""

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

SPARE = 64  # tokens


class GrowingLayer(DynamicLayer):
    """One layer's keys and values (rows, heads, tokens, head_dim): views of the first tokens of two larger tensors, `rooms`."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """What transformers calls with the first keys and values."""
        super().lazy_initialization(key_states, value_states)
        self.rooms, self.in_room = (), None  # in_room: `keys` as last written; a selection replaces `keys`, but not this

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add new tokens' keys and values, (rows, heads, new, head_dim), and return all keys and all values.

        Further arguments, which some models pass, are ignored.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        past = self.get_seq_length()
        end = past + key_states.shape[-2]
        if self.keys is not self.in_room or end > self.rooms[0].shape[-2]:
            self.rooms = with_room(self.keys, key_states, past), with_room(self.values, value_states, past)
        for room, new in zip(self.rooms, (key_states, value_states), strict=True):
            room[:, :, past:end] = new
        self.keys, self.values = (room[:, :, :end] for room in self.rooms)
        self.in_room = self.keys
        return self.keys, self.values


def with_room(states: Tensor, new: Tensor, past: int) -> Tensor:
    """A tensor (rows, heads, past + new + spare, head_dim) that begins with the `past` tokens of `states`."""
    rows, heads, length, head_dim = new.shape
    room = new.new_empty(rows, heads, past + length + SPARE, head_dim)
    if past:
        room[:, :, :past] = states
    return room
