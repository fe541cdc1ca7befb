"""The plots of an evaluation, for its page and for papers: PNG, and SVG that a page can contain.

    with style():
        plot = reliability({"within": columns}, {"within": row["rates"]["ece"]})
        svg = save(plot, folder / "plots")      # reliability.png, reliability.svg; the text of <svg> for a page

Colours can be seen on white and on black; line styles and markers tell apart what colours tell apart.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from sklearn.metrics import roc_curve

from honest_persona.base.console import one_line
from honest_persona.base.files import moved_into
from honest_persona.statistics.bootstrap import draw, interval
from honest_persona.statistics.columns import Columns
from honest_persona.statistics.estimators import BINS, mass_bins, share_statistic

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a6761d")
"""Four of Okabe and Ito's, and a brown: each has a contrast of 3 or more to white and to nearly black."""
GREY = "#808080"
LOW_FPR = 0.1
"""Where the second ROC plot ends: in use, few false alarms are allowed."""

_DARK_TEXT = "#111111"  # on a light cell of the heat map, in light and dark pages alike
_MARKERS = "osD^vP"
T = TypeVar("T")

_WIDTH = 4.0  # inches
_LINES = ("-", "--", ":")  # three and four colours make twelve looks
_STYLE: Any = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same text widths on every machine
    "font.size": 9,
    "grid.alpha": 0.25,
    "grid.color": GREY,
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.1,
    "savefig.dpi": 200,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "honest_persona",  # the same ids every time
    "text.parse_math": False,  # a topic's name may hold a dollar sign
}


class Plot(NamedTuple):
    name: str
    """The name of its files."""
    title: str
    alt: str
    """What the plot shows, for readers who do not see it."""
    figure: Figure


class Value(NamedTuple):
    """A figure and its 95 % interval, as results.json has them."""

    value: float
    interval: Sequence[float] | None


class Point(NamedTuple):
    """An operating point."""

    fpr: float
    tpr: float
    label: str
    shown: str
    """The true positive rate as text."""


class Curve(NamedTuple):
    """A detector's ROC curve, through every threshold."""

    fpr: np.ndarray
    tpr: np.ndarray
    label: str
    shown: str
    """The area under the curve as text."""

    @classmethod
    def of(cls, columns: Columns, label: str, shown: str) -> "Curve":
        """The curve of records of both truths."""
        fpr, tpr, _ = roc_curve(columns.failed, columns.p_fail, drop_intermediate=False)
        return cls(fpr, tpr, label, shown)

    def reached(self, fpr: float) -> float:
        """The highest false positive rate on the curve up to `fpr`: the place of `tpr_at_own_fpr_*`."""
        return float(self.fpr[self.fpr <= fpr + 1e-12].max())


def style() -> AbstractContextManager[None]:
    """The style of all plots: make and save them inside."""
    return matplotlib.rc_context(_STYLE)


def roc(part: str, curves: Sequence[Curve], points: Sequence[Point], limit: float = 1.0) -> Plot:
    """ROC curves up to a false positive rate of `limit`. The first is the honest persona's, with the points."""
    figure, axes = _axes(legend=max(len(curves), len(points)) + 1)
    _by_chance(axes, [0, 1], [0, 1])
    looks = zip(cycle(COLORS[1:]), cycle(_LINES), strict=False)
    lines = [axes.plot(*curves[0][:2], color=COLORS[0], linewidth=2, zorder=3)[0]]
    for curve, (color, line) in zip(curves[1:], looks, strict=False):
        lines += axes.plot(curve.fpr, curve.tpr, color=color, linestyle=line, linewidth=0.9)
    marks = [
        axes.plot(point.fpr, point.tpr, marker, color=COLORS[0], mfc="none", ms=8, mew=1.4, zorder=4)[0]
        for point, marker in zip(points, cycle(_MARKERS), strict=False)
    ]
    axes.set(xlim=(-0.03 * limit, 1.02 * limit), ylim=(-0.03, 1.03))
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    of_curves, of_points = ([one_line(f"{x.label} {x.shown}") for x in of] for of in (curves, points))
    place = {"ncols": 1, "alignment": "left"}
    figure.legend(lines, of_curves, loc="outside lower left", title="AUROC", **place)
    figure.legend(marks, of_points, loc="outside lower right", title="TPR", **place)
    low = limit < 1
    title = f"ROC, {one_line(part)}" + f", FPR up to {limit * 100:g} %" * low
    said = "; ".join([f"AUROC {text}" for text in of_curves] + [f"TPR {text}" for text in of_points])
    return Plot(_file_name(f"roc_{part}" + "_low_fpr" * low), title, f"{title}: {said}", figure)


def reliability(parts: Mapping[str, Columns], ece: Mapping[str, float]) -> Plot:
    """Share of FAIL over mean P(FAIL), in the bins of the calibration error."""
    parts, ece = _plain(parts), _plain(ece)
    figure, axes = _axes(legend=(len(parts) + 1) // 2)
    _by_chance(axes, [0, 1], [0, 1])
    for (part, columns), color, marker in zip(parts.items(), cycle(COLORS), cycle(_MARKERS), strict=False):
        bins, draws = mass_bins(columns.p_fail), draw(columns.k)
        for b in sorted(set(bins)):
            inside = bins == b
            found = interval(share_statistic(columns, columns.failed & inside, inside), draws)
            place = Value(float(columns.failed[inside].mean()), found)
            _dot(axes, float(columns.p_fail[inside].mean()), place, color, marker, upright=True)
        axes.plot([], [], marker, color=color, label=f"{part}: ECE {ece[part]:.3f}")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.set(xlabel=f"mean P(FAIL) of {BINS} bins of equal mass", ylabel="share whose truth is FAIL")
    _legend(figure, axes)
    said = "; ".join(f"{part} {ece[part]:.3f}" for part in parts)
    return Plot("reliability", "Calibration", f"Reliability diagram; expected calibration error: {said}", figure)


def dots(
    name: str, title: str, metric: str, series: Mapping[str, Mapping[str, Value]], chance: float | None = 0.5
) -> Plot:
    """A line per label, and on it a dot with its interval for each series: {series: {label: value}}. Dotted: chance."""
    series = {part: _plain(of) for part, of in _plain(series).items()}
    labels = list(dict.fromkeys(label for of in series.values() for label in of))
    figure, axes = _axes(legend=(len(series) + 1) // 2, height=0.7 + 0.28 * len(labels))
    if chance is not None:
        _by_chance(axes, [chance, chance], [-0.5, len(labels) - 0.5])
    step = 0.5 / len(series)
    for i, (part, of) in enumerate(series.items()):
        color, marker = COLORS[i % len(COLORS)], _MARKERS[i % len(_MARKERS)]
        for label, value in of.items():
            _dot(axes, labels.index(label) + (i - (len(series) - 1) / 2) * step, value, color, marker)
        axes.plot([], [], marker, color=color, ms=5, label=part)
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(labels) - 0.5, -0.5), xlabel=metric)
    axes.grid(axis="y", visible=False)
    _legend(figure, axes)
    said = "; ".join(f"{label}, {part}: {v.value:.3f}" for part, of in series.items() for label, v in of.items())
    return Plot(_file_name(name), title, f"{title}. {said}", figure)


def topic_matrix(cells: Mapping[tuple[str, str], float], metric: str) -> Plot:
    """{(train topic, test topic): value} as a heat map, darkest at chance or below; missing cells stay empty."""
    cells = {(one_line(train), one_line(test)): value for (train, test), value in cells.items()}
    trained = list(dict.fromkeys(train for train, _ in cells))
    tested = [*trained, *sorted({test for _, test in cells} - set(trained))]
    values = np.array([[cells.get((train, test), np.nan) for test in tested] for train in trained])
    figure = Figure(figsize=(2.4 + 0.52 * len(tested), 1.6 + 0.42 * len(trained)), layout="constrained")
    axes = figure.add_subplot()
    axes.pcolormesh(values, cmap="cividis", vmin=0.5, vmax=1, edgecolors="none")
    for (y, x), value in np.ndenumerate(values):
        if not np.isnan(value):
            color = "#ffffff" if value < 0.77 else _DARK_TEXT
            axes.text(x + 0.5, y + 0.5, f"{value:.2f}", ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(np.arange(len(tested)) + 0.5, tested, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(trained)) + 0.5, trained)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set(xlabel="tested on", ylabel="trained on")
    said = "; ".join(f"{train} to {test} {value:.2f}" for (train, test), value in cells.items())
    title = f"{metric} by train and test topic"
    return Plot("topic_matrix", title, f"{title}: {said}", figure)


def training(lines: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """Loss (or reward) and accuracy over steps, from the lines of metrics.jsonl; no plot where nothing is logged."""
    losses = {"loss": "loss", "review_loss": "review loss", "flag_loss": "flag loss"}
    of_answers = any("chosen_nll" in line for line in lines)
    losses |= {"chosen_nll": "nats per token of the answers to learn"} if of_answers else {}
    rewarded = any("reward" in line for line in lines)
    if rewarded:  # the loss of answers that were just written says nothing: it stays near 0
        losses = {"reward": "reward"}
    accuracies = {
        "rewards/truth/mean": "true answers of training",
        "token_accuracy": "token accuracy of training",
        "reward_accuracy": "preference accuracy of training",
    }
    for key in (key for line in lines for key in line):
        if found := re.fullmatch(r"heavy_log/(.+)/all/balanced_accuracy", key):
            accuracies[key] = f"balanced accuracy {one_line(found[1])}"
        elif found := re.fullmatch(r"heavy_log/(.+)/all/(truthful|well_formed)", key):
            accuracies[key] = f"{found[2].replace('_', '-')} answers {one_line(found[1])}"
    plots = []
    for name, label, keys in (
        (
            "training_reward" if rewarded else "training_loss",
            "reward" if rewarded else "loss" if of_answers else "loss in nats per token",
            losses,
        ),
        ("training_accuracy", "accuracy", accuracies),
    ):
        curves = {keys[key]: points for key in keys if (points := _over_steps(lines, key))}
        if not curves:
            continue
        figure, axes = _axes(legend=(len(curves) + 1) // 2, height=2.6)
        for (key, points), color, marker in zip(curves.items(), cycle(COLORS), cycle(_MARKERS), strict=False):
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, ms=3.5, label=key)
        axes.set(xlabel="optimizer step", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        if keys is losses and not rewarded:
            axes.set_yscale("log")
            low, high = axes.get_ylim()
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        _legend(figure, axes)
        last = "; ".join(f"{key}: {points[-1][1]:.3g} at step {points[-1][0]}" for key, points in curves.items())
        plots.append(Plot(name, label.capitalize() + " over steps", f"{label} over steps. At the end, {last}", figure))
    return plots


def save(plot: Plot, folder: Path) -> str:
    """Write `<name>.png` and `<name>.svg`; return the SVG's text for a page."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{plot.name}.svg"
    with moved_into(path) as part:
        plot.figure.savefig(part, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    with moved_into(path.with_suffix(".png")) as part:
        plot.figure.savefig(part, format="png", facecolor="white")
    return inline(path.read_text(encoding="utf-8"), plot.name, plot.alt)


def inline(svg: str, prefix: str, alt: str) -> str:
    """An SVG file's text to put into HTML: in the page's colour and font, as wide as there is room.

    Args:
        prefix: put before each id, so that no two plots on a page share an id.
    """
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):  # the style is for every element of a page
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update({name: _inline_value(name, value, prefix) for name, value in attributes.items()})
    width = float(root.attrib.pop("width").removesuffix("pt"))
    del root.attrib["height"], root.attrib["version"]
    # a text without a fill has the page's colour; below 0.75 of the plot's width text is too small to read
    root.attrib |= {"role": "img", "aria-label": alt, "fill": "currentColor"}
    root.attrib["style"] = f"stroke-linejoin: round; min-width: {0.75 * width:.0f}px; max-width: {1.8 * width:.0f}px"
    return ElementTree.tostring(root, encoding="unicode")


def _inline_value(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name == "style":
        value = re.sub(r"\s*font-family:[^;]*;?", "", value).replace("#000000", "currentColor")
    return re.sub(r"^#|(?<=url\()#", f"#{prefix}-", value)


def _axes(legend: int, height: float = 3.0) -> tuple[Figure, Axes]:
    """Axes narrow enough for a phone, with room for `legend` lines below."""
    figure = Figure(figsize=(_WIDTH, height + 0.1 + 0.18 * legend), layout="constrained")
    return figure, figure.add_subplot()


def _legend(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)


def _by_chance(axes: Axes, x: Sequence[float], y: Sequence[float]) -> None:
    """A dotted line: of a detector that knows nothing, or of perfect calibration."""
    axes.plot(x, y, color=GREY, linewidth=1, linestyle=(0, (1, 2)))


def _dot(axes: Axes, place: float, value: Value, color: str, marker: str, upright: bool = False) -> None:
    """A value with its interval, at a place on the other axis."""
    if value.interval is not None:
        low, high = value.interval
        (axes.vlines if upright else axes.hlines)(place, low, high, color=color, linewidth=1.3, alpha=0.8)
    x, y = (place, value.value) if upright else (value.value, place)
    axes.plot(x, y, marker, color=color, ms=4.5, clip_on=False, zorder=3)


def _plain(by_name: Mapping[str, T]) -> dict[str, T]:
    """Names from data without control characters, with which the SVG would not be XML."""
    return {one_line(name): value for name, value in by_name.items()}


def _over_steps(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(line["step"], line[name]) for line in lines if name in line]


def _file_name(text: str) -> str:
    return re.sub(r"\W+", "_", text)
