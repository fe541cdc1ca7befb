"""The plots say what the figures say, alike every time, and fit into a page of any colour."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from sklearn.calibration import calibration_curve

from honest_persona.evaluation.report.plots import (
    COLORS,
    GREY,
    Curve,
    Plot,
    Point,
    Value,
    dots,
    reliability,
    roc,
    save,
    style,
    topic_matrix,
    training,
)
from honest_persona.statistics.columns import Columns
from honest_persona.statistics.detection import detect
from honest_persona.statistics.estimators import BINS
from honest_persona.statistics.metrics import FPRS
from tests.evaluation.report.report_folder import samples
from tests.statistics.contrast import contrast, rgb

LINES = [{"step": 1, "loss": 2.0, "token_accuracy": 0.5}, {"step": 4, "heavy_log/within/all/balanced_accuracy": 0.75}]


@pytest.fixture(scope="module")
def columns() -> Columns:
    return Columns.of_samples(samples(100))


def make(columns: Columns) -> list[Plot]:
    with style():
        curves = [Curve.of(columns, name, "0.900") for name in ("honest persona", "a < b & $c$")]
        points = [Point(0.1, 0.7, "written flags", "0.700")]
        return [
            roc("within", curves, points),
            roc("within", curves, points, 0.1),
            reliability({"within": columns}, {"within": 0.123}),
            dots(
                "detectors", "By detector", "AUROC", {"within": {"probe": Value(0.6, (0.5, 0.7)), "b": Value(1, None)}}
            ),
            topic_matrix({("x", "x"): 0.91, ("x", "$y_1$"): 0.52}, "Balanced accuracy"),
            *training(LINES),
        ]


@pytest.fixture
def made(columns) -> list[Plot]:
    return make(columns)


def texts(svg: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def test_files_are_whole_and_alike_every_time(made, columns, tmp_path):
    with style():
        first = [save(plot, tmp_path / "a") for plot in made]
        again = [save(plot, tmp_path / "b") for plot in make(columns)]
    assert first == again
    assert len({plot.name for plot in made}) == 7
    for plot in made:
        assert ElementTree.parse(tmp_path / "a" / f"{plot.name}.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
        with Image.open(tmp_path / "a" / f"{plot.name}.png") as image:
            assert min(image.size) > 300
            pixels = np.asarray(image.convert("L"))
            assert len(np.unique(pixels)) > 10, "something is drawn"
            assert pixels[0, 0] == 255
        for kind in ("png", "svg"):
            name = f"{plot.name}.{kind}"
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_inline_svgs_share_no_id_and_take_the_pages_colours(made, tmp_path):
    with style():
        inlined = [save(plot, tmp_path) for plot in made]
    ids = [found for svg in inlined for found in re.findall(r'\sid="([^"]*)"', svg)]
    assert len(ids) == len(set(ids)) > 50
    for svg in inlined:
        assert set(re.findall(r'(?:url\(|href=")#([^)"]*)', svg)) <= set(ids)
        assert "#000000" not in svg
        assert "<style" not in svg
        assert "://" not in svg, "not even a namespace, which HTML knows"
        root = ElementTree.fromstring(svg)
        assert root.attrib["role"] == "img"
        assert len(root.attrib["aria-label"]) > 20
        assert root.attrib["fill"] == "currentColor"
    assert "#000000" in (tmp_path / "topic_matrix.svg").read_text(), "the file for papers is black on white"


def test_what_is_written_in_them(made, tmp_path):
    with style():
        found = {plot.name: texts(save(plot, tmp_path)) for plot in made}
    assert {"honest persona 0.900", "a < b & $c$ 0.900", "written flags 0.700"} <= set(found["roc_within"])
    assert "within: ECE 0.123" in found["reliability"]
    assert {"0.91", "0.52", "x", "$y_1$"} <= set(found["topic_matrix"])
    assert "balanced accuracy within" in found["training_accuracy"]


def test_nothing_logged_is_no_plot():
    with style():
        assert training([]) == []
        assert [plot.name for plot in training(LINES[:1])] == ["training_loss", "training_accuracy"]
        assert [plot.name for plot in training(LINES[1:])] == ["training_accuracy"]


def test_a_training_by_a_reward_shows_the_reward_in_place_of_its_loss():
    lines = [{"step": i, "loss": -0.01 * i, "reward": 0.1 * i, "rewards/truth/mean": 0.2 * i} for i in (1, 2)]
    with style():
        reward, share = training(lines)
    assert (reward.name, share.name) == ("training_reward", "training_accuracy")
    assert reward.alt == "reward over steps. At the end, reward: 0.2 at step 2"
    assert reward.figure.axes[0].get_yscale() == "linear"
    assert "true answers of training: 0.4 at step 2" in share.alt


def test_own_operating_points_are_on_the_curve(columns):
    curve, found = Curve.of(columns, "", ""), detect(columns, resamples=2)
    for fpr in FPRS:
        at = curve.reached(fpr)
        assert at <= fpr
        assert curve.tpr[curve.fpr == at].max() == found[f"tpr_at_own_fpr_{fpr:g}"].value
    assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(found["auroc"].value, abs=1e-12)


def test_reliability_shows_scikit_learns_curve(columns):
    with style():
        axes = reliability({"within": columns}, {"within": 0.1}).figure.axes[0]
    dots_of = [line.get_xydata()[0] for line in axes.lines if len(line.get_xydata()) == 1]
    shares, means = calibration_curve(columns.failed, columns.p_fail, n_bins=BINS, strategy="quantile")
    np.testing.assert_allclose(dots_of, np.stack([means, shares], 1))


@pytest.mark.parametrize("color", [*COLORS, GREY])
@pytest.mark.parametrize("back", ["#ffffff", "#0f1318"])
def test_colours_show_on_white_and_on_the_dark_page(color, back):
    assert contrast(rgb(color), rgb(back)) >= 3, "WCAG 2.2, 1.4.11"
