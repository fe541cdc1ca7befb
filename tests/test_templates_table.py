"""docs/templates.md is what the command prints."""

import pytest

from tests.families import FAMILIES
from tests.templates_table import HEAD, row

QUICK = ("deepseekv3", "gptoss", "qwen3")


def test_the_page_has_all_templates(root):
    page = (root / "docs" / "templates.md").read_text()
    assert page.startswith(HEAD), "run: python -m tests.templates_table > docs/templates.md"
    assert [line.split(" | ")[0].removeprefix("| ") for line in page.removeprefix(HEAD).splitlines()] == FAMILIES


@pytest.mark.parametrize("family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.long) for f in FAMILIES])
def test_a_row_of_the_page(root, family):
    assert row(family) in (root / "docs" / "templates.md").read_text().splitlines()
