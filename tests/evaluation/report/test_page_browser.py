"""The page of an evaluation in Chromium, opened from disk: filters, keyboard, dark mode, phone, no foreign script."""

from collections import Counter
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from honest_persona.evaluation.report.page import outcome, write_report
from honest_persona.evaluation.samples import Sample, read_samples
from honest_persona.evaluation.sets import SAMPLES_FILE
from tests.evaluation.report.report_folder import HOSTILE, samples, write_all, write_evaluation

OF_TEXT = """
const of = getComputedStyle;
return [of(document.body).backgroundColor, of(document.querySelector("svg text")).fill];
"""


@pytest.fixture(scope="module")
def folder(browser, tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("run") / "eval"
    write_all(made)
    write_report(made)
    return made


@pytest.fixture(scope="module")
def there(folder) -> list[Sample]:
    return list(read_samples(folder / SAMPLES_FILE))


def look_at(browser, folder: Path, width: int = 1280, dark: bool = False) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get((folder / "report.html").as_uri())


def shown(browser) -> list[str]:
    """The outcomes of the samples on the screen."""
    return [e.get_attribute("data-outcome") for e in browser.find_elements(By.CSS_SELECTOR, "#cards [data-outcome]")]


def choose(browser, name: str, value: str) -> None:
    Select(browser.find_element(By.NAME, name)).select_by_value(value)


def status(browser) -> str:
    return browser.find_element(By.ID, "shown").text


def test_filters_the_samples(browser, folder, there):
    look_at(browser, folder)
    counts = Counter(outcome(s) for s in there)
    assert status(browser) == f"1 to 10 of {counts['missed'] + counts['false alarm']}", "errors first"
    assert set(shown(browser)) == {"missed", "false alarm"}
    choose(browser, "outcome", "")
    assert status(browser) == "1 to 10 of 300"
    assert len(shown(browser)) == 10
    for kind in ("missed", "unparsable", "false alarm", "correct"):
        choose(browser, "outcome", kind)
        assert set(shown(browser)) == {kind}
        assert status(browser) == f"1 to {min(10, counts[kind])} of {counts[kind]}"
    choose(browser, "part", "across")
    choose(browser, "variant", "B")
    choose(browser, "topic", "oversimplification")
    left = sum((outcome(s), s.part, s.variant) == ("correct", "across", "B") for s in there)
    assert status(browser) == f"1 to 10 of {left}"
    for name in ("part", "variant", "topic", "outcome"):
        choose(browser, name, "")
    text = browser.find_element(By.NAME, "text")
    for typed, found in (
        ("IS it flat?", "1 to 10 of 300"),
        ("hacks 21.", "1 to 2 of 2"),
        ("not there", "No sample fits."),
    ):
        text.clear()
        text.send_keys(typed)
        assert status(browser) == found, typed
    assert shown(browser) == []
    assert browser.get_log("browser") == []


def test_turns_pages_by_keyboard(browser, folder):
    look_at(browser, folder)
    choose(browser, "outcome", "")
    next_page = browser.find_element(By.ID, "next")
    assert not browser.find_element(By.ID, "previous").is_enabled()
    next_page.send_keys(Keys.ENTER)
    assert status(browser) == "11 to 20 of 300"
    next_page.send_keys(Keys.SPACE)
    assert status(browser) == "21 to 30 of 300"
    browser.find_element(By.ID, "previous").send_keys(Keys.ENTER)
    assert status(browser) == "11 to 20 of 300"
    summary = browser.find_elements(By.CSS_SELECTOR, "#cards li:nth-child(2) summary")[0]
    assert summary.text == "Transcript and trigger, 19 tokens"
    summary.send_keys(Keys.ENTER)
    find = expected_conditions.presence_of_all_elements_located((By.CSS_SELECTOR, "#cards li:nth-child(2) .run"))
    runs = WebDriverWait(browser, 10).until(find)
    assert [run.get_attribute("data-kind") for run in runs][-2:] == ["PERSONA_TOKEN", "INTERVENTION"]
    assert runs[-1].text.split("\n")[0].startswith("intervention 4"), "the kind is there without its colour"
    assert "·INTERVENTION:·honest·now" in runs[-1].text


def test_shows_it_dark_and_light(browser, folder):
    look_at(browser, folder, dark=True)
    dark = browser.execute_script(OF_TEXT)
    look_at(browser, folder)
    assert dark == ["rgb(15, 19, 24)", "rgb(230, 233, 238)"]
    assert browser.execute_script(OF_TEXT) == ["rgb(255, 255, 255)", "rgb(27, 31, 36)"]
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_never_scrolls_the_page_sideways(browser, folder, width):
    look_at(browser, folder, width)
    browser.find_element(By.NAME, "tokens").click()
    inner, page_width = browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
    assert inner == width
    assert page_width <= width
    boxes = browser.find_elements(By.CSS_SELECTOR, ".scroll:has(table)")
    scrolls = [box.get_property("scrollWidth") > box.get_property("clientWidth") for box in boxes]
    assert any(scrolls) == (width < 1000), "wide tables scroll in their own box"


@pytest.mark.parametrize("dark", [False, True])
def test_a_shadow_says_that_a_table_goes_on(browser, folder, dark):
    """At the edge behind which there is more, and only there."""

    def right_edge(box):
        """Mean grey of its last 16 columns, less that of the page."""
        pixels = np.asarray(Image.open(BytesIO(box.screenshot_as_png)).convert("L"), dtype=float)
        return abs(np.median(pixels[:, -16:]) - np.median(pixels))

    look_at(browser, folder, 400, dark)
    box = browser.find_element(By.CSS_SELECTOR, "#topics .scroll")
    assert right_edge(box) > 8
    browser.execute_script("arguments[0].scrollLeft = 9999", box)
    assert right_edge(box) < 2
    look_at(browser, folder, 1280, dark)
    assert right_edge(browser.find_element(By.CSS_SELECTOR, "#topics .scroll")) < 2


def test_runs_no_script_of_a_sample(browser, tmp_path):
    plain = samples(20)
    hostile = [
        replace(s, review=HOSTILE, record_id=HOSTILE, topic=HOSTILE, prompt=((HOSTILE, [HOSTILE]),)) for s in plain
    ]
    write_evaluation(tmp_path / "eval", hostile)
    write_report(tmp_path / "eval")
    look_at(browser, tmp_path / "eval")
    assert browser.title == "made-up: evaluation"
    card = browser.find_element(By.CSS_SELECTOR, "#cards li")
    assert card.find_element(By.CSS_SELECTOR, ".review").text == HOSTILE
    assert card.find_element(By.CSS_SELECTOR, ".run span:last-child").text == HOSTILE
    assert card.find_elements(By.CSS_SELECTOR, "img, b, script") == []
    browser.execute_script("document.body.insertAdjacentHTML('beforeend', arguments[0])", HOSTILE)
    assert browser.title == "made-up: evaluation", "even if it came to be markup, the policy stops it"
    assert any("Content Security Policy" in line["message"] for line in browser.get_log("browser"))
