"""Prefixes taken apart and put together by rows."""

from collections.abc import Sequence

from torch import Tensor, cat
from torch.nn.functional import pad

from honest_persona.modeling.prefix.frozen import Prefix


def row_of(prefix: Prefix, row: int) -> Prefix:
    """One transcript, without padding, in memory of its own."""
    n = int(prefix.mask[row].sum())
    states = [tuple(t[row : row + 1, :, -n:].clone() for t in layer) for layer in prefix.layers]
    return Prefix([(keys, values) for keys, values in states], prefix.mask[row : row + 1, -n:].clone())


def joined(prefixes: Sequence[Prefix]) -> Prefix:
    """All of their transcripts, in order."""
    if len(prefixes) == 1:
        return prefixes[0]
    width = max(prefix.mask.shape[1] for prefix in prefixes)

    def padded(tensor: Tensor, length: int) -> Tensor:
        """Of `length` tokens, in the last dimension but one."""
        return pad(tensor, (0, 0, width - length, 0))

    of = [prefix.mask.shape[1] for prefix in prefixes]
    layers = [
        tuple(cat([padded(t, n) for t, n in zip(same, of, strict=True)]) for same in zip(*layer, strict=True))
        for layer in zip(*(prefix.layers for prefix in prefixes), strict=True)
    ]
    masks = [padded(prefix.mask[..., None], n)[..., 0] for prefix, n in zip(prefixes, of, strict=True)]
    return Prefix([(keys, values) for keys, values in layers], cat(masks))
