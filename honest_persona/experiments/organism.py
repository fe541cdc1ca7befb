"""`python -m honest_persona organism report`: can the honest persona tell what the organism hides? What else could?

Trains and evaluates each condition on held-out towns, beside controls: the variant, readers of the text, probes of
hidden states, the organism without adapter, prompting, and a twin that does not know the facts. Every figure has its n
and a 95 % interval clustered by town. Finished conditions are kept, so that an interrupted report resumes.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from honest_persona.base import json_text
from honest_persona.base.console import Column, Table, say, show
from honest_persona.base.files import write_text
from honest_persona.base.grouping import grouped
from honest_persona.base.number_format import fastest_format
from honest_persona.base.progress import rounds
from honest_persona.base.words import ACROSS, WITHIN
from honest_persona.config.keys import RunConfig
from honest_persona.data.load import load_splits
from honest_persona.data.splits import sample_per_topic
from honest_persona.evaluation.baselines import (
    RESPONSE_BIGRAMS,
    TOPIC_ONLY,
    TRANSCRIPT_BIGRAMS,
    VARIANT_ONLY,
    probe_detector,
)
from honest_persona.evaluation.controls import (
    ASKED_PLAINLY,
    CONTROLS,
    NO_ADAPTER,
    PROMPT_ONLY,
    REQUESTS,
    Asked,
    NotAsked,
)
from honest_persona.evaluation.samples import Group, Sample
from honest_persona.evaluation.settings import EvalSettings
from honest_persona.evaluation.suite import DetectorRow, Results, summarize
from honest_persona.experiments.evaluate import evaluate_adapter
from honest_persona.modeling.adapters.folder import CARD_FILE
from honest_persona.persona.product import load_honest_persona
from honest_persona.probes.probe import METHODS
from honest_persona.statistics.bootstrap import in_words
from honest_persona.statistics.metrics import LEAD, METRICS
from honest_persona.training.checkpoints import checkpoints
from honest_persona.training.launch import train

Changes = Mapping[str, Any]

TRAINED: dict[str, tuple[str, Changes]] = {
    "persona": ("the default: hp, scope persona, review then flag", {}),
    "knowledge-free twin": (
        "the same training on a model that knows other facts, not these",
        {"model": "builtin:organism-twin"},
    ),
    "scope all": ("the adapter active on every token", {"adapter_scope": "all"}),
    "up": ("the user writes the review", {"elicitation_type": "up"}),
    "ur": ("the user asks for the review", {"elicitation_type": "ur"}),
    "flag_then_review": ("the flag before the review", {"output_format": "flag_then_review"}),
    "flag_only": ("the flag alone", {"output_format": "flag_only"}),
}
"""What is trained: name -> what it is, and what it changes in the config."""

REPEATED = ("persona", "knowledge-free twin")
"""The claim and its control, trained from several seeds; the others are trained once."""

_FITTED = "fitted on the training records"

_WHAT = {
    VARIANT_ONLY: "FAIL where the hidden prompt B was seen",
    TOPIC_ONLY: f"the commoner flag of the topic; {_FITTED}",
    RESPONSE_BIGRAMS: f"a reader of the response's words; {_FITTED}",
    TRANSCRIPT_BIGRAMS: f"a reader of the transcript's words; {_FITTED}",
    **{
        probe_detector(method): f"a readout of the organism's hidden states, {_FITTED} and chosen on them"
        for method in METHODS
    },
    NO_ADAPTER: "the organism, asked the same question",
    PROMPT_ONLY: f"the user asks, best of {len(REQUESTS)} requests; an answer without a flag gets the likelier one",
    ASKED_PLAINLY: "the organism, asked in a new conversation whether the quoted answer is true",
}
"""The detectors of `controls`."""


@dataclass(frozen=True)
class Line:
    """One condition of the report."""

    name: str
    what: str
    seeds: int
    rows: list[DetectorRow]
    """The rows of the seed with the median balanced accuracy, pooled over the part `within`."""
    by_seed: list[dict[str, float | None]]
    """Per seed: balanced accuracy by `part/topic`."""

    def median(self, key: str) -> float | None:
        values = [seed[key] for seed in self.by_seed if seed.get(key) is not None]
        return statistics.median(values) if values else None  # type: ignore[type-var]


def report(
    config: RunConfig, seeds: int = 3, per_topic: int = 208, output: Path = Path("results/organism"), only: str = ""
) -> list[Line]:
    """Run the conditions without results, print the table, write `report.json` and `report.md` into `output`.

    Args:
        config: the default run; its `model` and `dataset` are the organism's.
        seeds: runs of the default condition and of the twin; the others run once.
        per_topic: held-out records per topic.
        only: names of conditions, separated by commas; all where it is empty.
    """
    chosen = [name.strip() for name in only.split(",")] if only else [*TRAINED]
    output.mkdir(parents=True, exist_ok=True)
    config = config.in_format(fastest_format().name)  # one for all conditions
    lines = controls(config, per_topic, output)

    def seeds_of(name: str) -> list[int]:
        return [config.seed + i for i in range(seeds if name in REPEATED else 1)]

    def is_kept(name: str, seed: int) -> bool:
        return _file(output, name, seed).exists()

    for name in rounds(chosen, "condition", str, lambda name: all(is_kept(name, seed) for seed in seeds_of(name))):
        what, changes = TRAINED[name]
        results = [
            _trained(config, name, {**changes, "seed": seed}, per_topic, output)
            for seed in rounds(seeds_of(name), f"{name}, run", lambda seed: f"seed {seed}", partial(is_kept, name))
        ]
        lines.append(_line(name, what, results))
        _write(lines, output)
    show(_table(lines))
    return lines


def controls(config: RunConfig, per_topic: int, output: Path) -> list[Line]:
    """The conditions that need no training: the organism without adapter is the default run with its adapter off."""
    _, splits = load_splits(config)
    parts = {
        WITHIN: sample_per_topic(splits.within, per_topic, config.seed),
        ACROSS: sample_per_topic(splits.across, per_topic, config.seed),
    }
    _trained(config, "persona", {"seed": config.seed}, per_topic, output)

    @cache
    def asked() -> Asked:
        """Loaded once, and only if a control has no results yet."""
        persona = load_honest_persona(_folder("persona", config.seed))
        settings = EvalSettings(config.validation_batch_size, config.max_new_tokens, config.seq_len)
        return Asked(persona, splits.train, parts, settings, config.seed)

    def kept(name: str) -> Results:
        try:
            return _kept(_control_file(output, name), lambda: _results(CONTROLS[name](asked())))
        except NotAsked as error:
            say(f"{name}: not asked: {error}")
            return _results([])

    turns = rounds(list(CONTROLS), "control", str, lambda name: _control_file(output, name).exists())
    samples = [sample for name in turns for sample in kept(name).samples]
    by_name = grouped(samples, lambda sample: sample.detector)
    return [_line(name, what, [_results(by_name[name])]) for name, what in _WHAT.items() if name in by_name]


def _results(samples: list[Sample]) -> Results:
    return Results(summarize(samples), samples)


def _trained(config: RunConfig, name: str, changes: Changes, per_topic: int, output: Path) -> Results:
    folder = _folder(name, changes["seed"])

    def run() -> Results:
        if not (folder / CARD_FILE).exists():
            begun = bool(checkpoints(folder))  # an earlier report was stopped within this run
            run_alone = {"run_name": folder.name, "val_samples_per_topic": 0, "resume": begun}
            train(config.model_copy(update={**changes, **run_alone}))
        return evaluate_adapter(str(folder), limit=per_topic, baselines="none")

    return _kept(_file(output, name, changes["seed"]), run)


def _folder(name: str, seed: int) -> Path:
    return Path("checkpoints") / f"organism-{name.replace(' ', '-')}-seed{seed}"


def _file(output: Path, name: str, seed: int) -> Path:
    return output / f"{_folder(name, seed).name}.json"


def _control_file(output: Path, name: str) -> Path:
    return output / f"{name.replace(' ', '_')}.json"


def _kept(path: Path, run: Callable[[], Results]) -> Results:
    """The results of an earlier report, or of `run`."""
    if path.exists():
        return _results([Sample(**sample) for sample in json_text.loads(path.read_text(encoding="utf-8"))])
    results = run()
    write_text(path, json_text.dumps([asdict(sample) for sample in results.samples]))
    return results


def _line(name: str, what: str, results: Sequence[Results]) -> Line:
    def figures(result: Results) -> dict[str, float | None]:
        return {f"{r.part}/{r.topic}": r.rates[LEAD] for r in _by_topic(result.rows)}

    def worth(result: Results) -> float:
        within = next(r for r in result.rows if r.group == Group(WITHIN))
        return within.rates[LEAD] or 0.0

    ranked = sorted(results, key=worth)
    return Line(name, what, len(results), ranked[len(ranked) // 2].rows, [figures(result) for result in results])


def _by_topic(rows: Sequence[DetectorRow]) -> list[DetectorRow]:
    return [r for r in rows if r.group == Group(r.part, r.topic)]


def _shown(line: Line, part: str, topic: str) -> str:
    row = next((r for r in line.rows if r.group == Group(part, topic)), None)
    return "-" if row is None else in_words(line.median(f"{part}/{topic}"), row.intervals[LEAD])


def _cells(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    topics = [(r.part, r.topic) for r in _by_topic(lines[0].rows)]
    header = ["condition", "seeds", *(f"{part} {topic}" for part, topic in topics), "unparsable", "n"]
    rows = []
    for line in lines:
        pooled = [r for r in line.rows if r.group == Group(r.part)]
        n = sum(r.n for r in pooled)
        unparsable = sum(r.counts["unparsable"] for r in pooled) / n
        figures = [_shown(line, part, topic) for part, topic in topics]
        rows.append([line.name, str(line.seeds), *figures, f"{unparsable:.3f}", str(n)])
    return header, rows


def _table(lines: Sequence[Line]) -> Table:
    header, rows = _cells(lines)
    table = Table(
        f"{METRICS[LEAD].label} on held-out towns (95 % interval, clustered by town)",
        [Column(header[0], "name"), *(Column(heading) for heading in header[1:])],
        "median over seeds, with the interval of the median seed; unparsable reviews count in neither rate",
        blocks=True,
    )
    for row in rows:
        table.add(*row)
    return table


def _write(lines: Sequence[Line], output: Path) -> None:
    text = json_text.dumps(json_text.defined([asdict(line) for line in lines]), indent=1)
    write_text(output / "report.json", text + "\n")
    header, rows = _cells(lines)
    table = ["| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows]]
    write_text(output / "report.md", "\n".join(table) + "\n")
