"""A layer of the cache that grows a token at a time without being copied for each."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

_ROOM_TOKENS = 64


class RoomyLayer(DynamicLayer):
    """Keys and values in buffers with room to spare. A `DynamicLayer` copies all of them for every new token."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = self._key_buffer, self._value_buffer = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        self._key_buffer = _with_new(self._key_buffer, start, key_states)
        self._value_buffer = _with_new(self._value_buffer, start, value_states)
        self.keys, self.values = self._key_buffer[..., :end, :], self._value_buffer[..., :end, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        self._key_buffer, self._value_buffer = self._key_buffer[indices], self._value_buffer[indices]
        end = self.get_seq_length()
        self.keys, self.values = self._key_buffer[..., :end, :], self._value_buffer[..., :end, :]


def _with_new(buffer: Tensor, start: int, new: Tensor) -> Tensor:
    """The buffer with new states from `start` on, or a larger one where it is full."""
    end = start + new.shape[-2]
    if end > buffer.shape[-2]:
        old, buffer = buffer, buffer.new_empty((*buffer.shape[:-2], end + _ROOM_TOKENS, buffer.shape[-1]))
        buffer[..., :start, :] = old[..., :start, :]
    buffer[..., start:end, :] = new
    return buffer
