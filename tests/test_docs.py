"""What the docs say about the code is so; of the tree, tests/test_layout.py."""

import argparse
import re
from dataclasses import fields

from trl import SFTConfig

from honest_persona.cli import _parser
from honest_persona.cli.common import add_dtype
from honest_persona.config.keys import RunConfig
from honest_persona.config.table import keys_table
from honest_persona.generation.stages.config import GenConfig


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


def actions(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next((a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)), {})


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    """Those of the verb and of its stages."""
    return {*parser._option_string_actions}.union(*(flags_of(stage) for stage in actions(parser).values()))


def test_flags_that_the_docs_name_are_there(root):
    verbs = actions(_parser())
    keys = {
        f"--{name}"
        for name in (*RunConfig.model_fields, *GenConfig.model_fields, *(field.name for field in fields(SFTConfig)))
    }
    eval_parser = argparse.ArgumentParser()
    add_dtype(eval_parser)
    in_file = re.findall(r'add_argument\(\s*"(--\w+)"', (root / "eval.py").read_text())
    of_eval = {*in_file, *flags_of(eval_parser)}
    n = 0
    for page in [root / "README.md", *(root / "docs").glob("*.md")]:
        text = page.read_text().replace("\\\n", " ")
        commands = re.findall(r"(?:python -m honest_persona (\w+)|\b(train|eval)\.py)(?= )([^\n`#]*)", text)
        for verb, script, rest in commands:
            if verb:
                known = flags_of(verbs[verb]) | (keys if verbs[verb].get_default("takes_config") else set())
            else:
                known = of_eval if script == "eval" else keys | {"--config"}
            for flag in re.findall(r"(?<=\s)--[A-Za-z]\w*(?![\w.])", re.split(r"[|;&]", rest)[0]):
                assert flag in known, f"{page.name}: {verb or script + '.py'} {flag}"
                n += 1
    assert n > 200
