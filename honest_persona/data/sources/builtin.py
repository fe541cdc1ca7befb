"""The datasets of the package, found by name.

Instructed facts of SmolLM2 lie packed in generation/data, with a manifest: an altered file is an error. They were made
by `python -m honest_persona generate facts`, and packed by generation/ship.py.
"""

from pathlib import Path

from honest_persona.base.errors import UserError
from honest_persona.base.manifest import Damaged, check

SAMPLE = "builtin:sample"
FACTS = (RECORDS, UNKNOWN, WORDINGS) = ("records", "unknown", "wordings")
"""The subfolders of instructed facts: known facts, unknown facts, and known facts in held-out wordings."""
_PACKAGE = Path(__file__).parents[2]
SHIPPED = _PACKAGE / "generation" / "data"
"""A folder of instructed facts, with the same subfolders as `generate facts` writes."""
BUILTIN = {
    SAMPLE: _PACKAGE / "data" / "sample",
    "builtin:organism": _PACKAGE / "organism" / "data",
    "builtin:smollm2": SHIPPED / RECORDS,
    f"builtin:smollm2-{UNKNOWN}": SHIPPED / UNKNOWN,
    f"builtin:smollm2-{WORDINGS}": SHIPPED / WORDINGS,
}


def builtin_folder(dataset: str) -> Path:
    """Where a dataset of the package lies.

    Raises:
        UserError: there is no dataset of this name, its files are not there, or they are not what was shipped.
    """
    if dataset not in BUILTIN:
        raise UserError(f"dataset {dataset!r} is not known; the builtin datasets are {', '.join(BUILTIN)}")
    folder = BUILTIN[dataset]
    if folder.is_relative_to(SHIPPED):
        try:
            check(SHIPPED, only=lambda name: name.startswith(f"{folder.name}/"))
        except Damaged as error:
            raise UserError(f"dataset {dataset!r}: {SHIPPED}: {error}; install the package again") from error
    return folder
