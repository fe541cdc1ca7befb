"""The datasets of the package, found by name.

Instructed facts of SmolLM2 lie packed in generation/data, with a manifest: an altered file is an error. They were made
by `python -m honest_persona generate facts`, and packed by generation/ship.py. Feedback on the organism's answers lies
packed in organism/feedback_data, as organism/feedback.py makes it.
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
ORGANISM_FEEDBACK = _PACKAGE / "organism" / "feedback_data"
BUILTIN = {
    SAMPLE: _PACKAGE / "data" / "sample",
    "builtin:organism": _PACKAGE / "organism" / "data",
    "builtin:smollm2": SHIPPED / RECORDS,
    f"builtin:smollm2-{UNKNOWN}": SHIPPED / UNKNOWN,
    f"builtin:smollm2-{WORDINGS}": SHIPPED / WORDINGS,
    **{f"builtin:organism-{kind}": ORGANISM_FEEDBACK / f"{kind}.jsonl.gz" for kind in ("pairs", "labels", "prompts")},
}
"""A folder of stage-3 files each, or a file of rows."""


def builtin_path(dataset: str) -> Path:
    """Where a dataset of the package lies: a folder of stage-3 files, or a file of rows.

    Raises:
        UserError: there is no dataset of this name, its files are not there, or they are not what was shipped.
    """
    if dataset not in BUILTIN:
        raise UserError(f"dataset {dataset!r} is not known; the builtin datasets are {', '.join(BUILTIN)}")
    path = BUILTIN[dataset]
    for sealed in (SHIPPED, ORGANISM_FEEDBACK):
        if path.is_relative_to(sealed):
            _check(dataset, sealed, path.relative_to(sealed).as_posix())
    return path


def _check(dataset: str, sealed: Path, part: str) -> None:
    """Raises UserError: a file or the files of a folder in `sealed` are not what was shipped."""
    try:
        check(sealed, only=lambda name: name == part or name.startswith(f"{part}/"))
    except Damaged as error:
        raise UserError(f"dataset {dataset!r}: {sealed}: {error}; install the package again") from error
