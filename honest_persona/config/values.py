"""The kinds of values that keys of a run have."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from honest_persona.base.words import ALL_LINEAR


def _names(value: Any) -> Any:
    if isinstance(value, str) and value:
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
        raise ValueError("must be a name or a list of names")
    if len(set(value)) < len(value):
        raise ValueError("must not repeat a name")
    return tuple(value)


def _names_or_all(value: Any) -> Any:
    names = _names(value)
    return "all" if names == ("all",) else names


def _names_or_all_linear(value: Any) -> Any:
    names = _names(value)
    return ALL_LINEAR if names == (ALL_LINEAR,) else names


def _bit(value: Any) -> Any:
    """The reference writes its switches as 0 and 1."""
    return bool(value) if type(value) is int and value in (0, 1) else value


def all_is_none(value: Any) -> Any:
    """The reference writes -1 for all."""
    return None if value == -1 and type(value) is int else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
NonemptyNames = Annotated[Names, Field(min_length=1)]
NamesOrAll = Annotated[Literal["all"] | tuple[str, ...], BeforeValidator(_names_or_all)]
LayerNames = Annotated[Literal["all-linear"] | NonemptyNames, BeforeValidator(_names_or_all_linear)]
Switch = Annotated[bool, BeforeValidator(_bit)]
Probability = Annotated[float, Field(ge=0, le=1)]
Augmentation = Literal["longer_answer", "forged_review"]
Augmentations = Annotated[tuple[Augmentation, ...], BeforeValidator(_names)]
PositiveInt = Annotated[int, Field(ge=1)]
