"""docs/families.md is what the checks of architectures find."""

from importlib.metadata import version

import pytest

from tests.architecture_checks import PAGE, Row, packages, page, row_of
from tests.architectures import ARCHITECTURES

SOME = ("deepseek_v3", "gemma3", "gpt2", "gpt_oss", "mixtral", "phimoe", "qwen2_moe", "qwen3_next")
"""Fused experts, shared experts, latent attention, windows, noise in routers, linear attention, images, Conv1D."""


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [Row.parsed(line) for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]


def test_the_page_is_of_the_locked_versions(root):
    locked = dict(line.split("==") for line in (root / "requirements.lock").read_text().splitlines() if "==" in line)
    assert packages(locked.__getitem__) in PAGE.read_text(encoding="utf-8"), "run: python -m tests.architecture_checks"


def test_the_page_has_every_architecture_of_these_versions(rows):
    if packages(version) not in PAGE.read_text(encoding="utf-8"):
        pytest.skip("other versions than the locked ones are installed, and the page is of the locked ones")
    assert [row.kind for row in rows] == list(ARCHITECTURES)
    assert page(rows) == PAGE.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("kind", SOME)
def test_some_lines(kind, rows):
    assert row_of(kind) in rows


@pytest.mark.long
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_line(kind, rows):
    assert row_of(kind) in rows
