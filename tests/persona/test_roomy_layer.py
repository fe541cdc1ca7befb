"""A cache that grows in buffers holds what transformers' own holds."""

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from honest_persona.persona.roomy_layer import RoomyLayer


@pytest.mark.parametrize("lengths", [(3,), (1, 70, 1, 64, 2)])
def test_buffers_hold_what_a_dynamic_cache_holds(lengths):
    keys, values = torch.randn(4, 2, 5, 3), torch.randn(4, 2, 5, 3)
    layer = RoomyLayer(keys, values)
    plain = DynamicLayer()
    plain.update(keys, values)
    for i, n in enumerate(lengths):
        new = torch.randn(len(plain.keys), 2, n, 3), torch.randn(len(plain.keys), 2, n, 3)
        for a, b in zip(layer.update(*new), plain.update(*new), strict=True):
            assert torch.equal(a, b)
        assert layer.get_seq_length() == plain.get_seq_length()
        assert layer.get_mask_sizes(1) == plain.get_mask_sizes(1)
        if i == 1:
            layer.batch_select_indices(torch.tensor([3, 1]))
            plain.batch_select_indices(torch.tensor([3, 1]))
