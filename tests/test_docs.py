"""What the docs say about the code is so; of the tree, tests/test_layout.py."""

import re

from honest_persona.config.table import keys_table


def test_config_page_is_the_table_of_the_code(root):
    page = (root / "docs" / "config.md").read_text()
    assert keys_table() in page, "run: python -m honest_persona keys, and put its output into docs/config.md"


def test_links_of_the_docs_lead_somewhere(root):
    for page in [root / "README.md", *(root / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_places_of_extensions_are_there(root):
    page = (root / "docs" / "extending.md").read_text()
    places = {place for place in re.findall(r"`([\w/]+(?:\.py|/))`", page) if "/" in place}
    assert len(places) > 20
    for place in places - {"tests/"}:
        assert any((root / base / place).exists() for base in ("honest_persona", "tests", ".")), place


def test_tests_that_the_docs_name_are_there(root):
    for page in [root / "README.md", *(root / "docs").glob("*.md")]:
        for path in re.findall(r"tests/[\w/]+\.py", page.read_text()):
            assert (root / path).exists(), f"{page.name}: {path}"
