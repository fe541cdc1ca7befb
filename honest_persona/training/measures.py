"""What a heavy log measures: reviews of records, or the main persona's answers to prompts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from honest_persona.base.console import counted, say
from honest_persona.config.keys import RunConfig
from honest_persona.config.ood import ood_entries
from honest_persona.data.choices.read import read_ood
from honest_persona.data.feedback import Feedback
from honest_persona.data.records import Record
from honest_persona.evaluation.answers import tables as answer_tables
from honest_persona.evaluation.answers.choices import Asked, ask
from honest_persona.evaluation.answers.judgement import Judge
from honest_persona.evaluation.answers.reward_pairs import evaluate_pairs, print_pairs
from honest_persona.evaluation.answers.samples import TRAINED, read_answers_file
from honest_persona.evaluation.answers.settings import AnswerSettings
from honest_persona.evaluation.answers.suite import AnswerResults, evaluate_answers
from honest_persona.evaluation.report.tables import print_samples, print_table, rows_of_topics
from honest_persona.evaluation.samples import read_samples
from honest_persona.evaluation.sets import ANSWERS_FILE, SAMPLES_FILE, NewSet
from honest_persona.evaluation.settings import EvalSettings
from honest_persona.evaluation.suite import Results, evaluate_records
from honest_persona.prompts.prepare import Material
from honest_persona.prompts.tokens import TokenFormat

Tables = dict[str, list[list[Any]]]
"""For trackers: by name, a header and rows."""
_PRINTED_SAMPLES = 3
_TRACKED_SAMPLES = 8
_OF_REVIEW = ("record_id", "topic", "variant", "truth", "flag", "p_fail", "ending", "review")
_OF_ANSWER = ("record_id", "topic", "truthful", "well_formed", "said", "answer")


class Measure(Protocol):
    @property
    def parts(self) -> Mapping[str, Sequence[Any]]:
        """The held-out rows that are measured, by part; every heavy log measures the same."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to measure."""

    def run(self, model: Any, into: NewSet, stop: Callable[[], bool] | None, what: str) -> Any:
        """Results with `as_dict` and `scalars`. All ranks call this together. Raises Stopped: `stop` said so."""

    def about(self) -> dict[str, Any]:
        """What results.json says of how it was measured."""

    def tell(self, results: Any, folder: Path, title: str) -> Tables:
        """Print the figures and a few samples from the files in `folder`; return tables for trackers."""


@dataclass(frozen=True)
class ReviewsMeasure:
    parts: Mapping[str, Sequence[Record]]
    form: TokenFormat
    settings: EvalSettings

    @property
    def is_empty(self) -> bool:
        return not any(self.parts.values())

    def run(self, model: Any, into: NewSet, stop: Callable[[], bool] | None, what: str) -> Results:
        return evaluate_records(model, self.parts, self.form, self.settings, into=into, stop=stop, what=what)

    def about(self) -> dict[str, Any]:
        return {}

    def tell(self, results: Results, folder: Path, title: str) -> Tables:
        print_table(results, title)
        spread = max(1, len(results.samples) // _TRACKED_SAMPLES)
        samples = list(islice(read_samples(folder / SAMPLES_FILE), 0, None, spread))[:_TRACKED_SAMPLES]
        print_samples(samples[:_PRINTED_SAMPLES])
        return {"topics": rows_of_topics(results), "samples": _shown(samples, _OF_REVIEW)}


@dataclass(frozen=True)
class AnswersMeasure:
    parts: Mapping[str, Sequence[Feedback]]
    form: TokenFormat
    settings: AnswerSettings
    judge: Judge | None
    asked: Asked = field(default_factory=Asked)
    """Questions with given choices."""

    @property
    def is_empty(self) -> bool:
        return not any(self.parts.values()) and not self.asked.jobs

    def run(self, model: Any, into: NewSet, stop: Callable[[], bool] | None, what: str) -> AnswerResults:
        return evaluate_answers(
            model, self.parts, self.form, self.settings, self.judge, into, stop, what, asked=self.asked
        )

    def about(self) -> dict[str, Any]:
        return self.settings.about(self.judge)

    def tell(self, results: AnswerResults, folder: Path, title: str) -> Tables:
        answer_tables.print_table(results, title)
        written = [s for s in read_answers_file(folder / ANSWERS_FILE) if s.policy == TRAINED and s.answer is not None]
        samples = written[:: max(1, len(written) // _TRACKED_SAMPLES)][:_TRACKED_SAMPLES]
        if samples:
            answer_tables.print_samples(samples[:_PRINTED_SAMPLES])
        return {"topics": answer_tables.rows_of_topics(results), "samples": _shown(samples, _OF_ANSWER)}


def asked_of(config: RunConfig, form: TokenFormat, material: Material) -> Asked:
    """The questions of the config's `ood`, as many of each file as the heavy log takes of a topic; tells their numbers.

    Where heavy logs are off, the files are only checked.

    Raises:
        UserError: as `read_ood` and `ask` raise.
    """
    topics = {*material.trained_topics, *(row.topic for rows in material.parts.values() for row in rows)}
    n = config.val_samples_per_topic
    sets = read_ood(ood_entries(config.ood), topics, n or None, config.seed)
    asked = ask(sets, form, config.seq_len, config.overlong)
    for part, found in asked.parts.items():
        left = f"; {long:,} left out, longer than seq_len" if (long := asked.too_long.get(part)) else ""
        if n:
            say(f"{part}: {counted(found, 'question')} in each heavy log{left}")
    return asked if n else Asked()


@dataclass(frozen=True)
class PairsMeasure:
    """Of a reward model."""

    parts: Mapping[str, Sequence[Feedback]]
    form: TokenFormat
    settings: AnswerSettings

    @property
    def is_empty(self) -> bool:
        return not any(self.parts.values())

    def run(self, model: Any, into: NewSet, stop: Callable[[], bool] | None, what: str) -> AnswerResults:
        return evaluate_pairs(model, self.parts, self.form, self.settings, into, stop, what)

    def about(self) -> dict[str, Any]:
        return {"judge": None, "margin_against": "nothing: the difference of the two rewards"}

    def tell(self, results: AnswerResults, folder: Path, title: str) -> Tables:
        print_pairs(results, title)
        return {"topics": answer_tables.rows_of_topics(results)}


def _shown(samples: Sequence[Any], names: Sequence[str]) -> list[list[Any]]:
    return [list(names), *([getattr(sample, name) for name in names] for sample in samples)]
