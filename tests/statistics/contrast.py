"""How well a colour shows on another, by WCAG 2.2."""

import numpy as np


def rgb(color: str) -> list[float]:
    """`#rrggbb` as shares of 1."""
    return [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def contrast(a: list[float], b: list[float]) -> float:
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: list[float]) -> float:
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in color]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))
