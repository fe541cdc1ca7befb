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
