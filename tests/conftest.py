"""Shared fixtures. Nothing here needs the network; what stands beside the checkout only is skipped where it is not."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def _shared(name: str) -> Path:
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"needs the test data in {path}, which is not part of the package")
    return path


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def spt_dir() -> Path:
    """Real stage-3 data."""
    return _shared("spt")


@pytest.fixture(scope="session")
def minimind_dir() -> Path:
    """A real chat tokenizer."""
    return _shared("tokenizers") / "minimind"


@pytest.fixture(scope="session")
def minimind(minimind_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(minimind_dir)
