"""A check that the installed libraries are in the ranges of this package, before any of them is imported.

The ranges stand in pyproject.toml alone: pip stores them beside the installed package, and they are read from there.
"""

from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from honest_persona.base.errors import UserError

_PACKAGE = "honest-persona"


def check_versions(extra: str = "") -> None:
    """Refuse libraries that are missing or out of range.

    Args:
        extra: an optional part of the package to check too, as `trackio`.

    Raises:
        UserError: names every such library in one message, with the command that installs the right ones.
    """
    try:
        given = [Requirement(line) for line in requires(_PACKAGE) or ()]
    except PackageNotFoundError:
        raise UserError("honest_persona is not installed here: pip install -e . (or `make`, in a checkout)") from None
    needed = [wanted for wanted in given if wanted.marker is None or wanted.marker.evaluate({"extra": extra})]
    problems = {wanted.name + _range(wanted): problem for wanted in needed if (problem := _problem_with(wanted))}
    if problems:
        mending = " ".join(f"'{pin}'" for pin in problems)
        raise UserError("\n".join([*problems.values(), f"To mend it: pip install {mending}"]))


def _problem_with(wanted: Requirement) -> str | None:
    try:
        installed = version(wanted.name)
    except PackageNotFoundError:
        return f"{wanted.name} is not installed, honest_persona needs {_range(wanted)}"
    if wanted.specifier.contains(installed, prereleases=True):  # a build of a library's main branch is let through
        return None
    return f"{wanted.name} {installed} is installed, honest_persona needs {_range(wanted)}"


def _range(wanted: Requirement) -> str:
    """As people write it, the lower bound first."""
    return ",".join(sorted(map(str, wanted.specifier), reverse=True))
