"""What the README and the docs say about the code is so."""

import re

from honest_persona.config_table import keys_table


def test_config_page_is_the_table_of_the_code(root):
    page = (root / "docs" / "config.md").read_text()
    assert keys_table() in page, "run: python -m honest_persona keys, and put its output into docs/config.md"


def test_readme_tree_names_every_file(root):
    readme = (root / "README.md").read_text()
    tree = readme[readme.index("## The tree") : readme.index("## Config keys")]
    named = set(re.findall(r"^\s*([\w.]+\.py)\s", tree, re.MULTILINE))
    there = {path.name for path in (root / "honest_persona").rglob("*.py")} | {"train.py", "eval.py"}
    assert there - named == {"__init__.py", "__main__.py"}
    assert named <= there


def test_links_of_the_docs_lead_somewhere(root):
    for page in [root / "README.md", *(root / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_an_import_goes_one_way(root):
    """A file imports only from packages above its own in this order."""
    order = [
        "base",
        "data",
        "modeling",
        "probes",
        "evaluation",
        "training",
        "organism",
        "harness",
        "hub",
        "verbs",
        "cli",
    ]
    first = re.compile(r"^\s*(?:from|import) honest_persona\.(\w+)", re.MULTILINE)
    checked = 0
    for path in (root / "honest_persona").rglob("*.py"):
        own = path.relative_to(root / "honest_persona").parts[0].removesuffix(".py")
        # config, environment and errors stand above the other packages; they may use base and each other alone
        limit = order.index(own) if own in order else 0
        for imported in first.findall(path.read_text()):
            level = order.index(imported) if imported in order else -1
            if own not in ("__init__", "__main__"):
                assert level <= limit, f"{path.relative_to(root)} imports honest_persona.{imported}"
            checked += 1
    assert checked > 50


def test_no_package_file_is_overlong_without_reason(root):
    for path in (root / "honest_persona").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 350, path.name
