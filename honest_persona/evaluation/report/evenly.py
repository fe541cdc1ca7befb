"""Which samples are on a page, where there are too many for it."""

from collections.abc import Sequence

EMBEDDED_SAMPLES = 300


def evenly(groups: Sequence[Sequence[int]], most: int) -> list[int]:
    """At most `most` members, equally many of each group as far as it has them, spread over the group's length."""
    quotas = [0] * len(groups)
    while sum(quotas) < most and quotas != [len(group) for group in groups]:
        for i, group in enumerate(groups):
            quotas[i] += quotas[i] < len(group) and sum(quotas) < most
    spread = [
        group[(2 * j + 1) * len(group) // (2 * quota)]
        for group, quota in zip(groups, quotas, strict=True)
        for j in range(quota)
    ]
    return sorted(spread)
