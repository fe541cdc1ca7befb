"""`honest_persona.json` beside an adapter's weights: all that is needed to call the adapter. Its author may be anyone.

card = AdapterCard.load(folder)  # checks the folder's files against the manifest, and the range of every value
replace(card, threshold=...).save(folder)
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from honest_persona.base import json_text
from honest_persona.base.errors import UserError
from honest_persona.base.files import write_text
from honest_persona.config.keys import FIELDS_ALONE, RunConfig
from honest_persona.config.objectives import DEFAULT_OBJECTIVE, spec_of
from honest_persona.config.persona import Persona
from honest_persona.config.tuning_keys import DEFAULT_TUNING
from honest_persona.modeling.adapters.folder import (
    CARD_FILE,
    check_folder,
    check_lora_config,
    read_object,
    tell_unsealed,
)

_FORMAT = 1
_DEPTH = 16
_AT_MOST = {"max_new_tokens": 2**20, "validation_batch_size": 2**16, "seq_len": 2**24, "seed": 2**32 - 1}
"""The largest values of settings that memory is allocated by. The config itself sets no upper ends."""

_Share = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=1)]


class _Threshold(BaseModel):
    """`statistics.threshold.Threshold`, with the intervention and the data that it was fixed on."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    value: _Share
    wanted_fpr: Annotated[float, Field(gt=0, lt=1)]
    n: _Count
    n_clusters: _Count
    achieved_fpr: _Share
    interval: tuple[_Share, _Share]
    note: str
    intervention: str
    data: str | None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """The number format of the calibration; older cards do not say."""


class RunSettings(dict[str, Any]):
    """The resolved config of a run. Reading a missing key raises a UserError that blames the card."""

    def __missing__(self, key: str) -> NoReturn:
        raise UserError(f"{CARD_FILE}: config has no {key}, so no run of this package wrote it; save the adapter again")

    def over(self, **changes: Any) -> "RunSettings":
        return RunSettings({**self, **changes})


@dataclass(frozen=True)
class AdapterCard:
    """What `honest_persona.json` says beside the adapter's weights."""

    persona: Persona
    base_model: str
    base_revision: str | None
    base_fingerprint: str
    default_intervention: str
    trained_topics: list[str] = field(default_factory=list)
    validation_topics: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    """The resolved run config, as `RunSettings`"""
    versions: dict[str, str] = field(default_factory=dict)
    threshold: dict[str, Any] | None = None
    """`statistics.threshold.Threshold`, with the `intervention` and the `data` of its calibration; None before"""
    sealed: bool = False
    """Whether a manifest was written beside the card: then a folder without a manifest is not whole"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", RunSettings(self.config))

    @property
    def trained_in(self) -> str:
        """The number format of the training: `bfloat16`, `float32` or `float16`."""
        half = "bfloat16" if self.config.get("bf16", True) else "float32"
        return "float16" if self.config.get("fp16") else half

    @property
    def objective(self) -> str:
        return self.config.get("objective", DEFAULT_OBJECTIVE)

    @property
    def tuning(self) -> str:
        """Which weights were trained: `lora`, `full` or `sparse`. The latter two change the base model itself."""
        return self.config.get("tuning", DEFAULT_TUNING)

    @property
    def trains_answers(self) -> bool:
        """Whether the adapter answers users, as the main persona; otherwise it writes reviews."""
        return self.persona.adapter_scope == "response" or spec_of(self.objective).trains_answers

    @property
    def makes_reward(self) -> bool:
        """Whether it gives a number to answers, and writes none."""
        return spec_of(self.objective).makes_reward

    @property
    def bits(self) -> Literal[4, 8] | None:
        """Of each weight of the base model in the training; None where the weights were not quantized."""
        return 4 if self.config.get("load_in_4bit") else 8 if self.config.get("load_in_8bit") else None

    def save(self, folder: Path) -> None:
        write_text(folder / CARD_FILE, self.as_text())

    def as_text(self) -> str:
        content = {"format": _FORMAT, **asdict(self), "persona": self.persona.model_dump()}
        return json_text.dumps(content, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, folder: Path, reward_model: bool = False) -> "AdapterCard":
        """The card of a folder, after a check that all files that are loaded are whole.

        Args:
            reward_model: whether the folder may hold a reward model, which neither answers nor reviews.

        Raises:
            UserError: a reward model that is not asked for; no card; a file that differs from the saved one; a card or
                an adapter_config.json that no version of this package writes, with the place.
        """
        path = folder / CARD_FILE
        if not path.is_file():
            raise UserError(f"{folder}: no {CARD_FILE}; name the folder of a finished run, or one of its checkpoints")
        has_manifest = check_folder(folder)
        try:
            content = read_object(path)
            _check_texts(content)
            written_as = content.pop("format")
            if written_as == _FORMAT:
                card = _validated(cls, content)
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = _first(error) if isinstance(error, ValidationError) else error
            raise UserError(f"{path}: not a card of this package ({reason}); save the adapter again") from error
        if written_as != _FORMAT:
            raise UserError(
                f"{path}: written by another version of honest_persona (format {str(written_as)[:20]}, this one reads "
                f"{_FORMAT}); update the package"
            )
        if card.sealed and not has_manifest:
            raise UserError(
                f"{folder}: the manifest that was saved with this adapter is missing, so the folder was not saved or "
                "copied to its end; copy it again, with all of its files"
            )
        if not has_manifest:
            tell_unsealed(folder)
        check_lora_config(folder, card.makes_reward)
        if card.makes_reward and not reward_model:
            raise UserError(
                f"{folder} holds a reward model (objective {card.objective}), which writes no text; name it as reward: "
                f"'[model:{folder}]', of a training or of `python -m honest_persona label`"
            )
        return card


def _validated(cls: type[AdapterCard], content: dict[str, Any]) -> AdapterCard:
    """Raises ValidationError, ValueError, KeyError or TypeError, with the place."""
    TypeAdapter(cls).validate_json(json_text.dumps(content), strict=True)  # a dataclass does not check types
    card = cls(**{**content, "persona": Persona(**content["persona"])})
    if card.threshold is not None:
        try:
            found = _Threshold.model_validate_json(json_text.dumps(card.threshold))
        except ValidationError as error:
            raise ValueError(_first(error, "threshold")) from error
        if found.interval[0] > found.interval[1] or found.n_clusters > found.n:
            raise ValueError("threshold: its interval or its counts contradict each other")
    _check_config(card.config)
    return card


def _check_config(config: dict[str, Any]) -> None:
    """Check types and ranges of our own keys. Of all other keys (the trainer's fields, keys of other versions) only the
    number format is ever read. The objective may be one that only the training's process knew."""
    checked = RunConfig.model_fields.keys() - {"trainer", "objective"}
    own = {key: value for key, value in config.items() if key in checked}
    try:
        RunConfig.model_validate(own, context=FIELDS_ALONE)
    except ValidationError as error:
        raise ValueError(_first(error, "config")) from error
    for key, most in _AT_MOST.items():
        if config.get(key, 0) > most:
            raise ValueError(f"config.{key}: {config[key]} is more than {most}")
    for key in ("bf16", "fp16"):
        if not isinstance(config.get(key, True), bool | str):
            raise ValueError(f"config.{key}: must be true, false or a word")
    if not isinstance(config.get("objective", ""), str):
        raise ValueError("config.objective: must be text")


def _first(error: ValidationError, *where: str) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, (*where, *first['loc'])))}: {first['msg']}"


def _check_texts(content: Any, place: str = "", depth: int = 0) -> None:
    """Raises ValueError: values nested too deep, or text that no file name and no tokenizer can hold."""
    if depth > _DEPTH:
        raise ValueError(f"{place[:80]}: it is nested too deep")
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            _check_texts(key, f"a key of {place or 'the card'}", depth)
            _check_texts(value, f"{place}.{key}" if place else str(key), depth + 1)
    elif isinstance(content, str) and ("\0" in content or any("\ud800" <= c <= "\udfff" for c in content)):
        raise ValueError(f"{place[:80]!a}: it holds a character that no text may hold")
