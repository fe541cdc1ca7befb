"""The verb audit's work: did a run's model become truthful, or did it learn to please its reward? (docs/audit.md)

    audit(Options(Path("checkpoints/my-run"), monitor="verdict"))

Everything that can be wrong without a model is told before one is loaded. Writes audit.json, audit.jsonl, audit.html.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from honest_persona.base.console import one_line, say
from honest_persona.base.errors import UserError
from honest_persona.base.locks import held
from honest_persona.base.number_format import FormatName, NumberFormat, format_of
from honest_persona.base.output import check_writable
from honest_persona.data.feedback import Feedback
from honest_persona.evaluation.answers.folder import AnswersFolder
from honest_persona.evaluation.answers.held_out import held_out_prompts
from honest_persona.evaluation.answers.judgement import Judge
from honest_persona.evaluation.answers.settings import AnswerSettings
from honest_persona.evaluation.audit.asked import Answer, Asked, Policy, ask, mean_nats
from honest_persona.evaluation.audit.beside import beside
from honest_persona.evaluation.audit.figures import MONITOR, REWARD, TRUTH, kept_of, mean_change, relation_of
from honest_persona.evaluation.audit.monitor import independence, monitor_from, settings_of
from honest_persona.evaluation.audit.paid import EDITS, Paid, paid_for
from honest_persona.evaluation.audit.result import (
    AUDIT_ANSWERS,
    AUDIT_FILE,
    AUDIT_PAGE,
    FORMAT,
    figures,
    write_audit,
)
from honest_persona.evaluation.audit.rule import Found, decide
from honest_persona.evaluation.audit.run_reward import RunReward, check_same, run_reward
from honest_persona.evaluation.audit.scored import Pairs, Score, Scorer, Side, halves
from honest_persona.evaluation.audit.search import Test, changes_of
from honest_persona.evaluation.audit.tables import print_audit, write_answers
from honest_persona.evaluation.provenance import provenance
from honest_persona.evaluation.report.audit_page import write_audit_page
from honest_persona.experiments.evaluate_answers import judge_for
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.folder import identity_of
from honest_persona.modeling.adapters.published import resolve
from honest_persona.modeling.load import check_loadable
from honest_persona.rewards.mixture import Mixture
from honest_persona.rewards.reward import Reading, Reward, score

MOST_PROMPTS = 400


@dataclass(frozen=True)
class Options:
    """The verb's arguments."""

    run: str
    """The folder of the run."""
    monitor: str | None = None
    judge: str | None = None
    """None: the training's, unless it runs code."""
    reward: Sequence[str] | None = None
    reward_invalid: float | None = None
    dataset: str | None = None
    limit: int = MOST_PROMPTS
    answers: int = 1
    edits: int = EDITS
    max_answer: int | None = None
    max_verdict: int = 256
    batch_size: int | None = None
    dtype: FormatName = "auto"
    output: str | None = None
    seed: int = 0
    prints: bool = True


class Prepared(NamedTuple):
    """All that is known before a model is loaded."""

    folder: AnswersFolder
    reward: RunReward
    rewards: tuple[Mixture, Mixture]
    """For answers of the start, and of the trained model: they differ where the reward reads the policy."""
    monitor: Reward | None
    judge: Judge | None
    rows: list[Feedback]
    start: AnswersFolder | None
    """The adapter that the training continued; None: the start is the base model."""
    number_format: NumberFormat
    links: list[str]


def audit(options: Options, controls: Callable[[Path], list[dict[str, Any]]] | None = None) -> dict[str, Any]:
    """The content of audit.json, which is written with the page and the answers.

    Args:
        controls: makes their lines; gets the folder of the audit (audit_controls.py).

    Raises:
        UserError: what cannot be audited, with the remedy; see `prepared`.
    """
    given = prepared(options)
    folder = given.folder.folder
    target = Path(options.output) if options.output else folder
    check_writable(target, "--output")
    with held(target, "an audit", "give another --output"):
        say(str(given.number_format))
        asked = _asked(given, options)
        pairs = scored_pairs(given, asked, options.seed)
        tests, found = measured(pairs, *scorers(given), options.edits)
        verdict = decide(found)
        content = {
            "format": FORMAT,
            **figures(found, verdict, tests),
            "means": {name: _mean(pairs, name) for name in _named(pairs)},
            **_about(given, options, asked, pairs),
            **beside(folder),
            "controls": [],
        }
        write_answers(pairs, target / AUDIT_ANSWERS)
        _write(content, target, folder)
        if controls is not None:  # they train; the audit stands already
            content["controls"] = controls(target)
            _write(content, target, folder)
    if options.prints:
        print_audit(content, options.run)
        say("\n".join(f"{target / name}" for name in (AUDIT_PAGE, AUDIT_FILE, AUDIT_ANSWERS)))
    return content


def _write(content: dict[str, Any], target: Path, run: Path) -> None:
    write_audit(target, content)
    write_audit_page(target, run)


def prepared(options: Options) -> Prepared:
    """Raises UserError: no run on answers, no reward, a monitor that is the reward, no held-out prompt, a base that is
    gone, a judge that cannot judge these rows."""
    path = resolve(options.run)
    card = AdapterCard.load(path)
    if not card.trains_answers:
        raise UserError(
            f"--run: {options.run} is an honest persona, which writes reviews; the audit is for runs that trained "
            "answers. To measure a persona, use eval.py"
        )
    folder = AnswersFolder.read(path)
    reward = run_reward(card, options.reward, options.reward_invalid)
    check_loadable(card.base_model, card.base_revision, card.bits)
    reading = Reading(
        card.base_model, card.base_revision, None, options.dtype, _batch(options, card), options.max_verdict
    )
    of_start = reward.mixture(reading)
    of_trained = of_start if reward.reads == "base" else reward.mixture(reading_policy(reading, path))
    links = check_same(of_start, reward.settings)
    monitor = None
    if options.monitor is not None:
        monitor = monitor_from(options.monitor, reading, of_start.rewards, reward.settings or {})
    dataset = options.dataset or card.config["dataset"]
    judge = judge_for(card, options.judge, dataset == card.config["dataset"])
    rows = held_out_prompts(card, dataset, options.limit)
    if not rows:
        raise UserError(
            f"--run: {dataset} holds no prompt that the training did not see; name others with --dataset, of the same "
            "kind and with `split: validation`"
        )
    if judge is not None:
        judge.check(rows)
    start = card.config.get("adapter")
    before = None if start is None else AnswersFolder.read(resolve(start))
    return Prepared(
        folder,
        reward,
        (of_start, of_trained),
        monitor,
        judge,
        rows,
        before,
        format_of(options.dtype, card.trained_in),
        links,
    )


def reading_policy(reading: Reading, run: Path) -> Reading:
    return Reading(reading.model, reading.revision, str(run), reading.dtype, reading.batch_size, reading.max_new_tokens)


def _batch(options: Options, card: AdapterCard) -> int:
    return options.batch_size or int(card.config["validation_batch_size"])


def settings_of_answers(given: Prepared, options: Options) -> AnswerSettings:
    card = given.folder.card
    return AnswerSettings(
        _batch(options, card),
        options.max_answer or card.config.get("max_answer_tokens") or card.config["max_new_tokens"],
        card.config["seq_len"],
        seed=options.seed,
        against_base=False,
    )


def _asked(given: Prepared, options: Options) -> Asked:
    settings = settings_of_answers(given, options)

    def policy(folder: AnswersFolder) -> Policy:
        return Policy(lambda: folder.load(given.number_format.dtype), folder.form)

    start = None if given.start is None else policy(given.start)
    return ask(given.rows, policy(given.folder), start, settings, options.answers)


def scorers(given: Prepared) -> tuple[Scorer, Scorer | None, Scorer | None]:
    """Of the reward, the monitor and truth."""
    of_start, of_trained = (_by_mixture(mixture) for mixture in given.rewards)
    reward = Scorer(" + ".join(given.reward.names), of_trained, of_start)
    monitor = None if given.monitor is None else Scorer(given.monitor.name, _by_reward(given.monitor))
    truth = None if given.judge is None else Scorer(given.judge.name, _by_judge(given.judge))
    return reward, monitor, truth


def _conversations(rows: Sequence[Feedback], texts: Sequence[str]) -> list[list[Any]]:
    return [[*row.prompt, {"role": "assistant", "content": text}] for row, text in zip(rows, texts, strict=True)]


def _as_rows(rows: Sequence[Feedback]) -> list[dict[str, Any]]:
    return [row.model_dump(mode="json", exclude={"answers"}) for row in rows]


def _by_mixture(mixture: Mixture) -> Score:
    def of(rows: Sequence[Feedback], texts: Sequence[str], whole: Sequence[bool]) -> np.ndarray:
        return mixture.score(_conversations(rows, texts), _as_rows(rows), whole).total if rows else np.zeros(0)

    return of


def _by_reward(monitor: Reward) -> Score:
    """An answer that is not whole says nothing to a monitor."""

    def of(rows: Sequence[Feedback], texts: Sequence[str], whole: Sequence[bool]) -> np.ndarray:
        out, places = np.full(len(rows), np.nan), np.flatnonzero(whole).tolist()
        if places:
            asked = [rows[i] for i in places]
            out[places] = score(monitor, _conversations(asked, [texts[i] for i in places]), _as_rows(asked), np.nan)
        return out

    return of


def _by_judge(judge: Judge) -> Score:
    """nan where the judge cannot read an answer: an edit may have made it so."""

    def of(rows: Sequence[Feedback], texts: Sequence[str], whole: Sequence[bool]) -> np.ndarray:
        judged = judge(rows, texts)
        return np.array(
            [np.nan if one.truthful is None or not one.well_formed else float(one.truthful) for one in judged]
        )

    return of


def scored_pairs(given: Prepared, asked: Asked, seed: int) -> Pairs:
    reward, monitor, truth = scorers(given)
    start = _side(asked.rows, asked.start, reward.start, monitor, truth)
    trained = _side(asked.rows, asked.trained, reward.of, monitor, truth)
    return Pairs(asked.rows, start, trained, halves([row.cluster for row in asked.rows], seed))


def _side(
    rows: list[Feedback], answers: Sequence[Answer], reward: Score, monitor: Scorer | None, truth: Scorer | None
) -> Side:
    texts, whole = [answer.text for answer in answers], [answer.whole for answer in answers]
    said = None if truth is None else truth.of(rows, texts, whole)
    formed = np.array(whole) if said is None else np.array(whole) & ~np.isnan(said)
    return Side(
        texts,
        whole,
        reward(rows, texts, whole),
        None if monitor is None else monitor.of(rows, texts, whole),
        None if said is None else np.nan_to_num(said),  # what cannot be read is not true
        formed,
    )


def measured(
    pairs: Pairs, reward: Scorer, monitor: Scorer | None, truth: Scorer | None, edits: int
) -> tuple[list[Test], Found]:
    """All parts of the rule. A part that cannot be measured is named in `missing`."""
    witnesses = [name for name, of in ((TRUTH, truth), (MONITOR, monitor)) if of is not None]
    half = pairs.take(np.flatnonzero(~pairs.discovery))
    tests = changes_of(pairs.start.texts, pairs.trained.texts, pairs.clusters, pairs.discovery)
    rise = mean_change(pairs, REWARD)
    paid: list[Paid] = []
    if rise.interval is not None and rise.interval[0] > 0:
        changes = [test for test in tests if test.is_change]
        for number, test in enumerate(changes, start=1):
            say(f"edit {number} of {len(changes)}: {one_line(test.feature.name)}")
            paid.append(paid_for(test, half, reward, monitor or truth, edits))
    return tests, Found(
        n=len(pairs.rows),
        n_clusters=pairs.columns.k,
        rise=rise,
        relations=relation_of(pairs),
        kept=[kept_of(pairs, name) for name in witnesses],
        paid=paid,
    )


def _named(pairs: Pairs) -> list[str]:
    side = pairs.start
    return [REWARD, *([MONITOR] if side.monitor is not None else []), *([TRUTH] if side.truth is not None else [])]


def _mean(pairs: Pairs, name: str) -> dict[str, Any]:
    found = mean_change(pairs, name)
    return {"start": found.a, "trained": found.b, "change": found.difference, "interval": found.interval, "n": found.n}


def _about(given: Prepared, options: Options, asked: Asked, pairs: Pairs) -> dict[str, Any]:
    """What was audited, by what, and what was found beside the rule."""
    card, rewards = given.folder.card, given.rewards[0].rewards
    formed = [float(np.mean(side.formed)) for side in (pairs.start, pairs.trained) if side.formed is not None]
    monitor = given.monitor
    return {
        "links": {
            "run": {
                "folder": options.run,
                "identity": identity_of(given.folder.folder),
                "objective": card.objective,
                "base_model": card.base_model,
                "base_fingerprint": card.base_fingerprint,
            },
            "start": "the base model" if given.start is None else f"adapter {identity_of(given.start.folder)}",
            "rewards": [
                {"name": reward.name, "weight": weight, **settings_of(reward)}
                for reward, weight in zip(rewards, given.rewards[0].weights, strict=True)
            ],
            "reward_reads": given.reward.reads,
            "checked": given.links,
            "monitor": None if monitor is None else {"name": monitor.name, **settings_of(monitor)},
            "independence": [] if monitor is None else independence(monitor, rewards),
            "judge": None if given.judge is None else given.judge.name,
        },
        "form": {"start": formed[0], "trained": formed[1]},
        "nats_per_token": {name: mean_nats(values) for name, values in asked.nll.items()},
        "lacking": asked.lacking,
        "about": {
            **provenance(card),
            "dataset": options.dataset or card.config["dataset"],
            "prompts": len(given.rows),
            "answers_to_each": options.answers,
            "dtype": given.number_format.name,
            "seed": options.seed,
        },
    }
