"""Which records of a dataset a run asks for: by topic, tag, intervention type, model and share."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from honest_persona.base.words import FLAGS
from honest_persona.config.keys import DEFAULT_TYPES
from honest_persona.data.rejections import Candidate
from honest_persona.data.sources.own import OwnRows
from honest_persona.data.sources.source import Source
from honest_persona.data.splits import in_share


@dataclass(frozen=True)
class Selection:
    """Which of a dataset's records a run asks for, and how rows of the user's own are read."""

    topics: tuple[str, ...] | None = None
    """None takes every topic."""
    tags_to_filter: tuple[str, ...] = ()
    """A record that carries one of these tags is left out."""
    intervention_types: tuple[str, ...] | None = None
    """Names of interventions, or of their types, which take all versions. None takes all."""
    models: tuple[str, ...] | None = None
    """Main models whose responses are used. None takes all."""
    topic_frac: float = 1.0
    """Seeded share of each topic's items (`claude_frac` in the config)."""
    seed: int = 0
    rows: OwnRows = field(default_factory=OwnRows)

    KEYS: ClassVar[frozenset[str]] = frozenset(
        (
            "train_topics",
            "validation_topics",
            "intervention_types",
            "data_model_source",
            "tags_to_filter",
            "claude_frac",
            "seed",
        )
    )
    """The config keys that `of` reads."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Selection":
        """The selection of a run's config; `values` are its keys and values."""
        train = names_of(values["train_topics"])
        return cls(
            topics=None
            if train is None
            else tuple(dict.fromkeys(train + (names_of(values["validation_topics"]) or ()))),
            tags_to_filter=tuple(values["tags_to_filter"]),
            intervention_types=names_of(values["intervention_types"]),
            models=names_of(values["data_model_source"]),
            topic_frac=values["claude_frac"],
            seed=values["seed"],
            rows=OwnRows.of(values),
        )

    def in_source(self, source: Source) -> "Selection":
        """The same; of the default intervention types those that the data has, and all types where it has neither."""
        if self.intervention_types != DEFAULT_TYPES:
            return self
        there = [kind for kind in DEFAULT_TYPES if any(matches_type(name, kind) for name in source.summary.names)]
        return replace(self, intervention_types=tuple(there) or None)


def refusal(candidate: Candidate, selection: Selection) -> tuple[str, str] | None:
    """Column and reason why `selection` leaves out a sound intervention; in the order that rejections.py gives."""
    values = candidate.values
    if selection.topics is not None and values["topic"] not in selection.topics:
        return "topic", "topic_not_selected"
    if selection.models is not None and values["model"] not in selection.models:
        return "model", "model_not_selected"
    types = selection.intervention_types
    if types is not None and not any(matches_type(values["intervention_name"], kind) for kind in types):
        return "intervention_name", "intervention_type_not_selected"
    if values["flag"] not in FLAGS:
        return "flag", f"flag_not_trainable:{values['flag']}"
    for tag in selection.tags_to_filter:
        if tag in values["tags"]:
            return "tags", f"tag:{tag}"
    if not in_share(values["group"] or values["item_id"], selection.topic_frac, selection.seed):
        return "item_id", "outside_topic_share"
    return None


def matches_type(name: str, kind: str) -> bool:
    """`split_personality` takes every version; `split_personality__version_3` that one, and not version_30."""
    return name == kind or name.startswith(f"{kind}__")


def unknown_names(source: Source, selection: Selection, topics_key: str) -> Iterator[tuple[str, str]]:
    """(config key, message) for each selected topic, intervention type and model that does not occur in `source`."""
    for topic in selection.topics or ():
        if topic not in source.topics:
            yield topics_key, f"topic {topic!r} is not in {source.label!r}{hint(topic, source.topics)}"
        elif not source.topics[topic]:
            yield (
                topics_key,
                f"topic {topic!r} of {source.label!r} has no batch_*.json file: add files or leave the topic out",
            )
    found = source.summary
    for kind in selection.intervention_types or ():
        if not any(matches_type(name, kind) for name in found.names):
            yield (
                "intervention_types",
                f"no intervention in {source.label!r} is of type {kind!r}{hint(kind, found.names)}",
            )
    for model in selection.models or ():
        if model not in found.models:
            yield (
                "data_model_source",
                f"no response in {source.label!r} is by the model {model!r}{hint(model, found.models)}",
            )


def hint(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, and all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return (f"; did you mean {close[0]!r}?" if close else ".") + f" There are: {', '.join(known) or 'none'}"


def names_of(value: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """A config value as names; None, which stands for all names, where the value is `all` or null."""
    if value is None or value == "all":
        return None
    return (value,) if isinstance(value, str) else tuple(value)
