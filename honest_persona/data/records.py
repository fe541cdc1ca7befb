"""A record is one intervention with the response it looks back at, typed and whole.

Read from a stage-3 batch file (`parse_batch`) or from a row with a Record's own columns (`parse_row`: JSONL, Hub
datasets). Both give, per intervention, a `Candidate` (sound) or a `Rejection` (located, with a reason and a remedy).
Bad data never raises.

Every intervention is counted once, under the first reason that applies, in this order:

1. Defects of the data, whatever was selected: missing_field, wrong_type, repeated_key, not_unicode, unknown_field,
   unknown_variant, unknown_split, item_id_mismatch, empty_response, empty_intervention, empty_review, unknown_flag,
   variant_b_without_prompt; and malformed_json, unreadable_file, topic_mismatch, topic_without_files, which reject a
   whole line, file or folder.
2. What the run did not ask for: topic_not_selected, model_not_selected, intervention_type_not_selected.
3. What cannot train: flag_not_trainable:AMBIGUOUS and :ERROR.
4. Quality filters: tag:<the first of tags_to_filter that the record carries>.
5. Sampling: outside_topic_share; and last duplicate_id, among what is left.

So a defect of the files shows in every run over them, and a quality filter counts only records that the run would else
have used. Groups 2 to 5 are applied in sources.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from honest_persona.base import json_text
from honest_persona.base.words import VARIANTS
from honest_persona.data.strict_json import RepeatedKey

MARKER = "<split-personality-token>"
TRAINABLE_FLAGS = ("PASS", "FAIL")
UNTRAINABLE_FLAGS = ("AMBIGUOUS", "ERROR")

REMEDIES = {
    "malformed_json": "Mend the JSON at this place, or restore the file from its source.",
    "unreadable_file": "Make it a file that can be read (no folder, no broken link, permitted), or remove it.",
    "topic_without_files": "Add batch_*.json files to this folder, or remove the folder.",
    "missing_field": "Add the field `{detail}` (for `tags`: an empty list where there are none).",
    "wrong_type": "Give `{detail}` the type that the format asks for: text, list of texts, or object.",
    "repeated_key": "Keep one of the keys `{detail}` of the object that stands here.",
    "not_unicode": "Replace the lone surrogates (\\ud800 to \\udfff) in `{detail}` by real characters.",
    "unknown_field": "Remove `{detail}`: a row has the columns of a Record and no others.",
    "unknown_variant": "Use A or B as the variant.",
    "unknown_split": "Use train or validation, or leave `split` out for the seeded split by item.",
    "topic_mismatch": "Move the file to the folder of the topic it names, or correct its `topic` field.",
    "item_id_mismatch": "Remove `item_id`: it is computed from the system prompts and the task.",
    "empty_response": "Generate the response again, or remove the inference.",
    "empty_intervention": "Write the trigger text, or remove the intervention.",
    "empty_review": "Write the review, or remove the intervention.",
    "unknown_flag": "Use PASS or FAIL (AMBIGUOUS and ERROR are known, and not trained on).",
    "variant_b_without_prompt": "Give the item a system prompt B, or remove its B inferences.",
    "topic_not_selected": "Name the topic in train_topics or validation_topics to use it.",
    "model_not_selected": "Name the model in data_model_source to use it.",
    "intervention_type_not_selected": "Name the type in intervention_types to use it.",
    "flag_not_trainable": "Nothing to do: only PASS and FAIL train. Review it again to decide on one of them.",
    "tag": "Remove `{detail}` from tags_to_filter to use such records.",
    "outside_topic_share": "Raise claude_frac to use a larger share of each topic's items.",
    "duplicate_id": "Keep one of the records with this id, or give them different ids.",
}
"""What to do about each reason; `{detail}` is what stands behind the colon of a reason such as `missing_field:T`."""


class Record(BaseModel, frozen=True, extra="forbid"):
    """One intervention, ready for training and evaluation."""

    id: str
    """Unique; the intervention's `id_string`."""
    item_id: str
    """Content hash of the item, see `item_hash`. Records of one item are never split."""
    topic: str
    variant: Literal["A", "B"]
    """Which of the item's two system prompts the main persona saw."""
    system: str
    """The system prompt that the main persona saw; "" means none."""
    other_system: str | None
    """The other variant's system prompt; None where the item has no B."""
    task: str
    model: str
    """The main model that wrote the response."""
    response: str
    intervention_name: str
    """For example `split_personality__version_3`."""
    intervention: str
    """The trigger text, without the leading marker."""
    review: str
    flag: Literal["PASS", "FAIL"]
    tags: tuple[str, ...]
    """The intervention's and the inference's tags together, each once."""
    difficulty: str | None = None
    group: str | None = None
    """What several items share (`metadata.group`), so that they are split together: an entity they are about, say."""
    split: Literal["train", "validation"] | None = None
    """The part that the data itself gives the item to (`metadata.split`); None leaves it to the seeded split."""

    @property
    def cluster(self) -> str:
        """Records of one cluster are not independent: never split, and drawn together for intervals."""
        return self.group or self.item_id


class Rejection(NamedTuple):
    """One intervention (or one unreadable file, line or folder) that is not used, and why."""

    file: str
    place: str
    """Path of the offending value inside the file."""
    field: str
    """The field's own name in that file."""
    reason: str
    """Stable snake_case code, with a detail behind a colon where there is one."""
    record_id: str | None = None

    @property
    def remedy(self) -> str:
        return remedy_for(self.reason)

    def __str__(self) -> str:
        return f"{self.file}: {self.place}: {self.reason}. {self.remedy}"


class Candidate(NamedTuple):
    """A sound intervention; whether the run wants it is not asked yet."""

    file: str
    place: str
    values: dict[str, Any]
    """A Record's columns; the flag may still be AMBIGUOUS or ERROR."""
    inference_place: str | None = None
    """Where the response stands in a stage-3 file; None for a row."""

    def reject(self, column: str, reason: str) -> Rejection:
        field = column
        if self.inference_place is None:
            place = f"{self.place}, {column}"
        else:
            field = _STAGE3_NAMES.get(column, column)
            parent = self.inference_place if column in ("response", "variant") else self.place
            place = f"{parent}.{field}" if column in _STAGE3_NAMES else parent
        return Rejection(self.file, place, field, reason, self.values["id"])


Outcome = Candidate | Rejection

_STAGE3_NAMES = {"response": "S", "intervention": "I", "review": "R", "flag": "P", "tags": "tags"}
_OPTIONAL_COLUMNS = ("item_id", "other_system", "difficulty", "group", "split")
SPLITS = (None, "train", "validation")


def remedy_for(reason: str) -> str:
    """The sentence that says what to do about `reason`."""
    code, _, detail = reason.partition(":")
    return REMEDIES[code].replace("{detail}", detail)


def item_hash(system_a: str, system_b: str | None, task: str) -> str:
    """First 16 hex digits of the SHA-256 of JSON [A, B, T]; B is null where the item has none."""
    return hashlib.sha256(json_text.dumps([system_a, system_b, task]).encode()).hexdigest()[:16]


def strip_marker(intervention: str) -> str:
    """The trigger text without leading markers and the white space around them; elsewhere a marker is text."""
    while (text := intervention.lstrip()).startswith(MARKER):
        intervention = text[len(MARKER) :].lstrip()
    return intervention


def parse_batch(batch: Any, file: str, topic: str) -> list[Outcome]:
    """Every intervention of one stage-3 batch. A part too broken to count its interventions gives one rejection.

    `topic` is the name of the file's folder; a file that names another topic is rejected whole.
    """
    try:
        data = _get(_checked(batch, dict, "whole file", "batch"), "data", list, "")
    except _Refused as refused:
        return [refused.rejection(file)]
    outcomes = [outcome for index, item in enumerate(data) for outcome in _parse_item(item, index, file, topic)]
    try:
        if _get(batch, "topic", str, "") != topic:
            raise _Refused("topic", "topic", "topic_mismatch")
    except _Refused as refused:
        return [
            refused.rejection(file, outcome.record_id if isinstance(outcome, Rejection) else outcome.values["id"])
            for outcome in outcomes
        ]
    return outcomes


def parse_row(row: Any, file: str, place: str) -> Outcome:
    """One row with a Record's columns; `item_id`, `other_system` and `difficulty` may be absent."""
    record_id = None
    try:
        values = dict(_checked(row, dict, place, "row"))
        record_id = _get(values, "id", str, place, sep=", ")
        for column in Record.model_fields:
            if column in _OPTIONAL_COLUMNS:
                values[column] = _get_optional(values, column, place, sep=", ")
            else:
                _get(values, column, list if column == "tags" else str, place, sep=", ")
        for column in values:
            if column not in Record.model_fields:
                _checked(column, str, f"{place}, {column!r}", "key")
                raise _Refused(f"{place}, {column}", column, f"unknown_field:{column}")
        values["tags"] = _tags(values, place, sep=", ")
        _one_of(VARIANTS, values["variant"], f"{place}, variant", "variant")
        _one_of(SPLITS, values["split"], f"{place}, split", "split")
        system, other = values["system"], values["other_system"]
        if values["variant"] == "B":
            system, other = _checked(other, str, f"{place}, other_system", "other_system"), system
        item_id = item_hash(system, other, values["task"])
        if values["item_id"] not in (None, item_id):
            raise _Refused(f"{place}, item_id", "item_id", "item_id_mismatch")
    except _Refused as refused:
        return refused.rejection(file, record_id)
    values |= {"item_id": item_id, "intervention": strip_marker(values["intervention"])}
    return _without_defect(Candidate(file, place, values))


def _parse_item(item: Any, index: int, file: str, topic: str) -> Iterator[Outcome]:
    place = f"data[{index}]"
    try:
        inferences = _get(_checked(item, dict, place, "data"), "inferences", dict, place)
    except _Refused as refused:
        yield refused.rejection(file)
        return
    for model, variants in inferences.items():
        model_place = f"{place}.inferences[{model!r}]"
        try:
            _checked(variants, dict, model_place, "inferences")
        except _Refused as refused:
            yield refused.rejection(file)
            continue
        for variant, inference in variants.items():
            yield from _parse_inference(
                item, inference, model, variant, f"{model_place}[{variant!r}]", index, file, topic
            )


def _parse_inference(
    item: dict, inference: Any, model: str, variant: str, place: str, index: int, file: str, topic: str
) -> Iterator[Outcome]:
    try:
        interventions = _get(_checked(inference, dict, place, "inferences"), "interventions", dict, place)
    except _Refused as refused:
        yield refused.rejection(file)
        return
    for name, intervention in interventions.items():
        here = f"{place}.interventions[{name!r}]"
        record_id = None
        try:
            for key in (model, variant, name):
                _checked(key, str, here, "key")
            # As in the reference's own files, with the topic in front: file names may repeat among topics.
            record_id = f"{topic}__{Path(file).stem}__idx{index}__{model.replace('/', '_')}_{variant}__{name}"
            _checked(intervention, dict, here, "interventions")
            record_id = _get_optional(intervention, "id_string", here) or record_id
            _one_of(VARIANTS, variant, place, "variant")
            origin = {"id": record_id, "topic": topic, "variant": variant, "model": model, "intervention_name": name}
            texts = _item_texts(item, variant, f"data[{index}]")
            spoken = {
                "response": _get(inference, "S", str, place),
                "intervention": strip_marker(_get(intervention, "I", str, here)),
                "review": _get(intervention, "R", str, here),
                "flag": _get(intervention, "P", str, here),
                "tags": tuple(dict.fromkeys(_tags(intervention, here) + _tags(inference, place))),
            }
        except _Refused as refused:
            yield refused.rejection(file, record_id)
        else:
            yield _without_defect(Candidate(file, here, origin | texts | spoken, place))


def _item_texts(item: dict, variant: str, place: str) -> dict[str, Any]:
    a, task = _get(item, "A", str, place), _get(item, "T", str, place)
    b = _get_optional(item, "B", place)
    if b is not None and not b.strip():
        b = None  # an empty B carries no bias: the item has no variant B
    inside = f"{place}.metadata"
    metadata = _checked(item.get("metadata", {}), dict, inside, "metadata")
    return {
        "item_id": item_hash(a, b, task),
        "system": a if variant == "A" else b or "",
        "other_system": b if variant == "A" else a,
        "task": task,
        "difficulty": _get_optional(metadata, "difficulty", inside),
        "group": _get_optional(metadata, "group", inside),
        "split": _one_of(SPLITS, _get_optional(metadata, "split", inside), f"{inside}.split", "split"),
    }


def _without_defect(candidate: Candidate) -> Outcome:
    values = candidate.values
    for column in ("response", "intervention", "review"):
        if not values[column].strip():
            return candidate.reject(column, f"empty_{column}")
    if values["flag"] not in TRAINABLE_FLAGS + UNTRAINABLE_FLAGS:
        return candidate.reject("flag", "unknown_flag")
    if values["variant"] == "B" and not values["system"].strip():
        return candidate.reject("variant", "variant_b_without_prompt")
    return candidate


class _Refused(Exception):
    """Internal: the walk over one intervention ends here."""

    def __init__(self, place: str, field: str, reason: str) -> None:
        super().__init__(reason)
        self.place, self.field, self.reason = place, field, reason

    def rejection(self, file: str, record_id: str | None = None) -> Rejection:
        return Rejection(file, self.place, self.field, self.reason, record_id)


def _checked(value: Any, kind: type, place: str, field: str) -> Any:
    if isinstance(value, RepeatedKey):
        raise _Refused(place, field, f"repeated_key:{value.key}")
    if not isinstance(value, kind):
        raise _Refused(place, field, f"wrong_type:{field}")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Refused(place, field, f"not_unicode:{field}") from None
    return value


def _get(owner: Mapping[str, Any], name: str, kind: type, place: str, sep: str = ".") -> Any:
    here = f"{place}{sep}{name}" if place else name
    if name not in owner:
        raise _Refused(here, name, f"missing_field:{name}")
    return _checked(owner[name], kind, here, name)


def _get_optional(owner: Mapping[str, Any], name: str, place: str, sep: str = ".") -> str | None:
    return None if owner.get(name) is None else _get(owner, name, str, place, sep)


def _tags(owner: Mapping[str, Any], place: str, sep: str = ".") -> tuple[str, ...]:
    tags = _get(owner, "tags", list, place, sep)
    return tuple(_checked(tag, str, f"{place}{sep}tags[{index}]", "tags") for index, tag in enumerate(tags))


def _one_of(choices: tuple[str | None, ...], value: str | None, place: str, field: str) -> str | None:
    if value not in choices:
        raise _Refused(place, field, f"unknown_{field}")
    return value
