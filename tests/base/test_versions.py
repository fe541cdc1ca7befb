"""Libraries out of range are named at the start, with the remedy, before any of them is imported."""

import os
import subprocess
import sys
import tomllib
from itertools import chain

import pytest
from packaging.requirements import Requirement

from honest_persona.base.errors import UserError
from honest_persona.base.versions import check_versions


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Puts a distribution's metadata before the installed ones, as another version of it would stand there."""

    def put(name: str, version: str, *lines: str) -> str:
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines]
        (folder / "METADATA").write_text("\n".join(metadata) + "\n")
        return str(tmp_path)

    monkeypatch.syspath_prepend(tmp_path)
    return put


def test_the_installed_versions_are_in_range():
    check_versions()
    check_versions("trackio")


def test_all_that_is_wrong_comes_at_once_with_one_remedy(installed):
    """A package that needs what is not there, what is too old, and what is too new."""
    installed("transformers", "4.57.0")
    installed("peft", "0.30.0")
    needs = ["no-such-library>=2", "transformers<6,>=5.20", "peft<0.22,>=0.21.2", "numpy>=1"]
    installed("honest-persona", "9", *(f"Requires-Dist: {need}" for need in needs))
    with pytest.raises(UserError) as caught:
        check_versions()
    assert str(caught.value).splitlines() == [
        "no-such-library is not installed, honest_persona needs >=2",
        "transformers 4.57.0 is installed, honest_persona needs >=5.20,<6",
        "peft 0.30.0 is installed, honest_persona needs >=0.21.2,<0.22",
        "To mend it: pip install 'no-such-library>=2' 'transformers>=5.20,<6' 'peft>=0.21.2,<0.22'",
    ]


@pytest.mark.parametrize(
    ("version", "fits"),
    [("5.23.0", True), ("5.23.0.dev0", False), ("5.24.0.dev0", True), ("5.23.1+local", True), ("6.0.0rc1", False)],
)
def test_builds_of_a_main_branch(installed, version, fits):
    installed("transformers", version)
    installed("honest-persona", "9", "Requires-Dist: transformers<6,>=5.23")
    if fits:
        check_versions()
    else:
        with pytest.raises(UserError, match=r"transformers .* is installed"):
            check_versions()


def test_optional_parts_are_asked_for_by_name(installed):
    installed("trackio", "0.1")
    extra = 'Requires-Dist: trackio<0.44,>=0.43; extra == "trackio"'
    installed("honest-persona", "9", "Provides-Extra: trackio", extra)
    check_versions()
    with pytest.raises(UserError, match=r"trackio 0\.1 is installed, honest_persona needs >=0\.43,<0\.44"):
        check_versions("trackio")


@pytest.mark.parametrize("words", ["train.py", "eval.py --adapter x", "-m honest_persona keys"])
def test_entry_points_say_it_before_heavy_imports(root, tmp_path, installed, words):
    folder = installed("torch", "1.13.1")
    script, *rest = words.split()
    run = [script, *rest] if script == "-m" else [str(root / script), *rest]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *run],
        cwd=root,
        env=os.environ | {"PYTHONPATH": folder},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2
    assert said[0].startswith("error: torch 1.13.1 is installed, honest_persona needs >=")
    assert said[1].startswith("To mend it: pip install 'torch>=")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}
    assert "honest_persona.base.versions" in imported
    assert not imported & {"torch", "transformers", "deepspeed", "numpy"}


def test_the_lock_lies_in_the_ranges(root):
    """The ranges and the versions that the tests run on are written in two files."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    pins = dict(line.split("==") for line in (root / "requirements.lock").read_text().splitlines() if "==" in line)
    locked = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    lines = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    for wanted in map(Requirement, lines):
        if wanted.name != "honest-persona":
            assert wanted.specifier.contains(locked[wanted.name.lower().replace("_", "-")]), wanted
