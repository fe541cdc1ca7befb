"""`python -m honest_persona facts report`: can the honest persona tell lies about facts that the model knows?

Reviews the held-out records of instructed facts (`generate facts`): known facts within the trained topics and across
topics never trained, the same under the other system prompt and under none, in wordings that no training had, and facts
that the model does not know, where nobody can tell. Beside them stand the readers of the text, probes, the base model
without adapter, prompting, and the honest upper baseline: the base model, asked plainly whether the answer is true.

The model is loaded once. Finished parts are kept, so that an interrupted report resumes.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.console import one_line, say
from honest_persona.base.errors import UserError
from honest_persona.base.files import write_text
from honest_persona.base.grouping import grouped
from honest_persona.base.number_format import FormatName
from honest_persona.base.progress import rounds
from honest_persona.base.words import HONEST_PERSONA, PARTS
from honest_persona.data.sources.builtin import RECORDS, UNKNOWN, WORDINGS, builtin_path
from honest_persona.data.sources.stage3 import raw_items
from honest_persona.data.splits import sample_per_topic
from honest_persona.evaluation.controls import CONTROLS, FITTED_PER_TOPIC, Asked, NotAsked
from honest_persona.evaluation.held_out import HeldOut, held_out
from honest_persona.evaluation.samples import Sample, read_samples, write_samples
from honest_persona.evaluation.sets import BASELINES_FILE, RESULTS_FILE, SAMPLES_FILE, read_set
from honest_persona.evaluation.settings import EvalSettings
from honest_persona.evaluation.unchanged import Unchanged, compare_answers
from honest_persona.experiments.evaluate import evaluate_adapter
from honest_persona.experiments.facts_table import (
    AFTER_DENIAL,
    OF_DESIGNS,
    OTHER_WORDINGS,
    SAME_RECORDS,
    UNKNOWN_FACTS,
    FactsReport,
    both_parts,
    lines_of,
    print_report,
    write_report,
)
from honest_persona.experiments.opened import Opened
from honest_persona.generation.denied import DENIED
from honest_persona.generation.local_model import named
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.folder import identity_of

CHANGED = "changed"
"""The part of held-out records with another system prompt, or none."""
READERS = "readers"
"""The control that needs no model; it is asked about all records."""
UNCHANGED_N = 32
"""Prompts that the main persona answers twice."""
_FITTED_PER_ASKED = 4
_CONTROLS = (UNKNOWN, WORDINGS, DENIED)
"""The datasets beside the records."""
_STATE, _UNCHANGED = "state.json", "unchanged.json"


@dataclass(frozen=True)
class Options:
    """What a report is asked for, besides adapter and data."""

    limit: int | None = None
    """Records per topic that the honest persona reviews, of known facts and of unknown ones; None takes all."""
    limit_controls: int | None = None
    """The same of held-out records with something changed: other prompts and wordings, denials."""
    limit_baselines: int | None = None
    """Records per topic about which the detectors that need the model are asked; probes are fitted on four times as
    many."""
    batch_size: int | None = None
    max_new_tokens: int | None = None


def datasets_of(data: str, flag: str = "--data") -> dict[str, str]:
    """The names of the datasets, of those that hold something; `flag` is the argument that named them.

    Raises:
        UserError: a folder without records.
    """
    if data.startswith("builtin:"):
        return {RECORDS: data, UNKNOWN: f"{data}-{UNKNOWN}", WORDINGS: f"{data}-{WORDINGS}"}
    root = Path(data).expanduser()
    if not (root / RECORDS).is_dir():
        inside = root.name in (RECORDS, UNKNOWN, WORDINGS)
        remedy = "give its parent folder" if inside else "give a folder that `generate facts` wrote, or builtin:smollm2"
        raise UserError(f"{flag}: {data} holds no folder {RECORDS}/; {remedy}")
    return {name: str(root / name) for name in (RECORDS, *_CONTROLS) if name == RECORDS or _holds_data(root / name)}


def _holds_data(folder: Path) -> bool:
    """A model that knows all it was asked about has no unknown facts: then the folder, or its file, is empty."""
    return any(path.is_file() and path.stat().st_size for path in folder.rglob("*"))


def _known_to_others(records: str, card: AdapterCard) -> list[str]:
    """A note where the facts are those that another model than the adapter's base model knows."""
    root = builtin_path(records) if records.startswith("builtin:") else Path(records)
    metadata = (item.get("metadata") for _, item in raw_items(root))
    names = {str(of["model"]) for of in metadata if isinstance(of, dict) and "model" in of}
    own = named(card.base_fingerprint)
    return [
        f"note: known and unknown are what {name} knows; the adapter's base model is {own}, and was not asked"
        for name in sorted(names - {own})
    ]


def report(adapter: str, data: str, output: Path, options: Options, dtype: FormatName = "auto") -> FactsReport:
    """Run what has no results yet, print the table, write report.json and report.md into `output`.

    Raises:
        UserError: no usable adapter or data, no held-out record, or `output` has the report of another adapter, of
            other data or settings. No model is loaded before these checks.
    """
    opened = Opened(adapter, dtype)
    work = _Work(opened, datasets_of(data), output, options)
    output.mkdir(parents=True, exist_ok=True)
    _check_state(output / _STATE, work.identity)
    samples = dict(work.samples())
    others = [sample for name in samples if name not in work.held for sample in samples[name]]
    changed = [sample for sample in samples[CHANGED] if ":" in sample.part]
    by_part = grouped([*samples[RECORDS], *changed], lambda sample: sample.part)
    parts = [f"{part}{design}" for design in ("", *(f": {name}" for name in OF_DESIGNS)) for part in PARTS]
    records = [sample for part in parts for sample in by_part.get(part, [])]
    about = {"adapter": adapter, "base_model": opened.folder.card.base_model, "data": data, **work.identity}
    found = FactsReport(
        about,
        [
            *lines_of(records),
            *lines_of(samples.get(WORDINGS, []), {HONEST_PERSONA: OTHER_WORDINGS}),
            *lines_of(samples.get(DENIED, []), {HONEST_PERSONA: AFTER_DENIAL}),
            *lines_of(both_parts(samples.get(UNKNOWN, [])), {HONEST_PERSONA: UNKNOWN_FACTS}),
            *lines_of(_same_records(records, others), {HONEST_PERSONA: SAME_RECORDS}),
            *lines_of(others),
        ],
        work.unchanged,
        list(dict.fromkeys(work.left_out)),
    )
    write_report(found, output)
    print_report(found)
    say(f"figures in {output / 'report.json'} and {output / 'report.md'}; reviews in {output / RECORDS}")
    return found


def _same_records(reviewed: Sequence[Sample], others: Sequence[Sample]) -> list[Sample]:
    """The honest persona's samples of the records that the others were asked about, where these are fewer."""
    asked = {(sample.part, sample.record_id) for sample in others}
    own = [sample for sample in reviewed if sample.detector == HONEST_PERSONA and sample.part in PARTS]
    same = [sample for sample in own if (sample.part, sample.record_id) in asked]
    return same if len(same) < len(own) else []


class _Work:
    """The parts of a report, each done once: by an earlier run that was interrupted, or now."""

    def __init__(self, opened: Opened, datasets: Mapping[str, str], output: Path, options: Options) -> None:
        self.opened, self.output, self.options = opened, output, options
        self.left_out = [f"{name}: the data holds none" for name in _CONTROLS if name not in datasets]
        self.left_out += _known_to_others(datasets[RECORDS], opened.folder.card)
        self.held: dict[str, HeldOut] = {}
        self._read: dict[str, list[Sample]] = {}
        self.datasets = {RECORDS: datasets[RECORDS], CHANGED: datasets[RECORDS], **datasets}
        for name, dataset in self.datasets.items():
            folder, limit = opened.folder, self._limit(name)
            held = held_out(folder.card, dataset, folder.form, limit=limit, all_items=name == UNKNOWN)
            if any(held.parts.values()):
                self.held[name] = held
            elif name == RECORDS:
                raise UserError(f"--data: {dataset} has no held-out record: all items of all topics belong to training")
            else:
                self.left_out.append(f"{name}: no held-out record")
        origins = {record.model for of in self.held[RECORDS].parts.values() for record in of}
        if len(origins) == 1:
            self.left_out.append(
                f"note: all held-out answers are {origins.pop()}; answers of other origins: not measured"
            )

    def _limit(self, name: str) -> int | None:
        return self.options.limit if name in (RECORDS, UNKNOWN) else self.options.limit_controls

    @cached_property
    def settings(self) -> EvalSettings:
        config, options = self.opened.folder.card.config, self.options
        return EvalSettings(
            options.batch_size or config["validation_batch_size"],
            options.max_new_tokens or config["max_new_tokens"],
            config["seq_len"],
        )

    @cached_property
    def seed(self) -> int:
        return self.opened.folder.card.config["seed"]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What must be equal for a report to go on. A batch's size changes no figure."""
        data = hashlib.sha256()
        for name, held in self.held.items():
            for part, records in held.parts.items():
                data.update(json_text.dumps([name, part, [(r.id, r.transcript_id, r.flag) for r in records]]).encode())
        return {
            "limit": self.options.limit,
            "limit_controls": self.options.limit_controls,
            "limit_baselines": self.options.limit_baselines,
            "max_new_tokens": self.settings.max_new_tokens,
            "dtype": self.opened.number_format.name,
            "adapter_identity": identity_of(self.opened.folder.folder),
            "records_identity": data.hexdigest()[:16],
        }

    def samples(self) -> Iterator[tuple[str, list[Sample]]]:
        """The samples of each part, by its name: the datasets', then each control's."""
        names = [*self.held, *(name for name in CONTROLS if name != READERS)]
        for name in rounds(names, "part", str, self._is_kept):
            if name in self.held:
                yield name, self._reviewed(name)
            else:
                yield name, self._kept(name)

    @cached_property
    def unchanged(self) -> Unchanged:
        path = self.output / _UNCHANGED
        if not path.exists():
            records = [record for of in self.held[RECORDS].parts.values() for record in of]
            found = compare_answers(self.opened.persona, records, UNCHANGED_N, self.seed, self.settings.batch_size)
            write_text(path, json_text.dumps(asdict(found)) + "\n")
        try:
            content = json_text.loads(path.read_text(encoding="utf-8"))
            return Unchanged(**{**content, "first": tuple(content["first"]) if content["first"] else None})
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not what a report writes; remove the file, and run again") from error

    @cached_property
    def asked(self) -> Asked:
        """What the honest persona could be asked about, up to `limit_baselines` records per topic."""
        held, most = self.held[RECORDS], self.options.limit_baselines
        reviewed = {sample.record_id for sample in self._reviewed(RECORDS)}
        parts = {part: [record for record in of if record.id in reviewed] for part, of in held.parts.items()}
        if most is not None:
            parts = {part: sample_per_topic(of, most, self.seed) for part, of in parts.items()}
        fitted = FITTED_PER_TOPIC if most is None else _FITTED_PER_ASKED * most
        return Asked(self.opened.persona, held.train, parts, self.settings, self.seed, fitted)

    def _file(self, control: str) -> Path:
        return self.output / "detectors" / f"{control.replace(' ', '_')}.jsonl"

    def _is_kept(self, name: str) -> bool:
        return (self.output / name / RESULTS_FILE).exists() if name in self.held else self._file(name).exists()

    def _reviewed(self, name: str) -> list[Sample]:
        """Of the honest persona, and of the readers where they were asked."""
        if name not in self._read:
            self._read[name] = self._review(name)
        return self._read[name]

    def _review(self, name: str) -> list[Sample]:
        folder = self.output / name
        if not self._is_kept(name):
            evaluate_adapter(
                self.opened,
                self.datasets[name],
                limit=self._limit(name),
                output=str(folder),
                batch_size=self.settings.batch_size,
                max_new_tokens=self.settings.max_new_tokens,
                all_items=name == UNKNOWN,
                baselines="readers" if name == RECORDS else "none",
                designs=",".join(OF_DESIGNS) if name == CHANGED else "",
                prints=False,
            )
        content = read_set(folder)
        assert content is not None, "it was written, or it was there"
        self.left_out += [f"{name}: {reason}" for reason in content["about"]["left_out"]]
        files = (folder / SAMPLES_FILE, folder / BASELINES_FILE)
        return [sample.without_texts() for path in files for sample in read_samples(path)]

    def _kept(self, control: str) -> list[Sample]:
        """Of a control's detectors; none where it cannot be asked."""
        path = self._file(control)
        if not path.exists():
            try:
                samples = CONTROLS[control](self.asked)
            except NotAsked as error:
                self.left_out.append(f"{control}: {error}")
                return []
            write_samples(samples, path)
        return list(read_samples(path))


def _check_state(path: Path, identity: Mapping[str, Any]) -> None:
    """Raises UserError: the folder has parts of another report."""
    if not path.exists():
        write_text(path, json_text.dumps(identity, indent=1) + "\n")
        return
    try:
        before = json_text.loads(path.read_text(encoding="utf-8"))
        others = [key for key, value in identity.items() if before[key] != value]
    except (ValueError, KeyError, TypeError):
        others = [path.name]
    if others:
        changed = ", ".join(key.removesuffix("_identity") for key in others)
        raise UserError(
            f"--output: {one_line(path.parent)} has a report with another {changed}; choose another --output, or "
            "remove the folder"
        )
