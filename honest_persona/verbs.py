"""What the verbs of `python -m honest_persona` do; their arguments are in cli.py.

The package's other modules are imported inside the verbs: torch and its libraries read the environment when they are
imported, so `load_environment` must come before. Importing them takes seconds: arguments and config are checked before.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from honest_persona.base import json_text
from honest_persona.base.console import console, hand_out, one_line, say, tell
from honest_persona.base.errors import UserError

if TYPE_CHECKING:
    from honest_persona.config.keys import RunConfig

KEPT: Mapping[str, str] = MappingProxyType(
    {
        "organism": "trainings and results so far are kept in checkpoints/ and {output}; the same command resumes",
        "answers": "finished trainings are kept in checkpoints/ and {output}; the same command resumes",
        "generate": "the answers so far are kept in {output}; the same command goes on from there",
        "facts": "finished parts are kept in {output}; the same command resumes",
        "sweep": "finished folds and checkpoints are kept; the same command resumes",
        "sample": "each answer that was written is whole in {output}; the same command goes on from there",
        "label": "the scores so far are kept in {output}; the same command goes on from there",
        "review": "each review that was written is whole; the same command with an --output goes on from there",
        "calibrate": "the adapter is as it was; start again",
        "capability": "nothing was written; start again",
        "report": "the evaluation is as it was; start again",
        "prepare": "{output} is there as a whole, or not at all; without --dataset, --push pushes what is there",
        "push": "a push is one commit, so the repo has all of it or nothing; push again",
        "export": "{output} is not whole: remove it and export again",
    }
)
"""What is kept when a verb is interrupted, and how to continue; the other verbs write nothing."""


def data(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Print what a config's data holds: what is kept, how it is split, and what is rejected and why."""
    from honest_persona.config.load import load_config
    from honest_persona.config.objectives import spec_of
    from honest_persona.data.check import check_selection, fitted_arguments
    from honest_persona.data.feedback_inventory import feedback_inventory, print_feedback_inventory
    from honest_persona.data.feedback_load import load_feedback_parts
    from honest_persona.data.inventory import inventory, print_inventory
    from honest_persona.data.load import read_splits

    overrides = fitted_arguments(args.config, overrides)
    try:
        config = load_config(args.config, overrides)
    except UserError:
        load_config(args.config, overrides, checks=[check_selection])  # what is wrong with the data stands beside it
        raise
    spec = spec_of(config.objective)
    if spec.trains_answers:
        found, show = feedback_inventory(*load_feedback_parts(config), spec), print_feedback_inventory
    else:
        found, show = inventory(*read_splits(config)), print_inventory
    counts = {"dataset": config.dataset, **found}
    if args.json:
        hand_out(json_text.dumps(counts))
    else:
        show(counts)
    load_config(args.config, overrides, checks=[check_selection])  # what stops a run is told below the table


def tokens(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Print training rows token by token, as the collator gets them."""
    config = _config(args, overrides)
    from honest_persona.config.objectives import spec_of
    from honest_persona.modeling.token_format import token_format
    from honest_persona.prompts import show
    from honest_persona.prompts.feedback_prepare import token_rows
    from honest_persona.prompts.prepare import prepare

    # a smaller choice of samples is a part of a larger one, so the run trains on these rows
    n = args.n if config.num_samples is None else min(args.n, config.num_samples)
    form = token_format(config)
    first = config.model_copy(update={"num_samples": n})
    rows: Iterable[Mapping[str, Any]]
    if spec_of(config.objective).trains_answers:
        rows = token_rows(first, form)
    else:
        material = prepare(first, form)
        rows = material.rows
        if material.too_long:
            tell(f"left out as longer than seq_len {config.seq_len}: {', '.join(map(one_line, material.too_long))}")
    if args.json:
        for row in rows:
            hand_out(json_text.dumps(show.as_json(row)))
        return
    out = console()
    out.print(show.legend(), "")
    for row in rows:
        out.print(show.render(row, form))


def shortcuts(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Print how well variant, topic and words alone predict the flags of held-out items of a config's data."""
    config = _config(args, overrides)
    from honest_persona.data.load import load_records
    from honest_persona.data.selection import Selection
    from honest_persona.evaluation.baselines import shortcut_samples
    from honest_persona.evaluation.report.tables import print_detectors
    from honest_persona.evaluation.suite import summarize

    records = load_records(config.dataset, Selection.of(config.as_dict())).records
    print_detectors(summarize(shortcut_samples(records)))


def keys(args: argparse.Namespace, _: Sequence[str]) -> None:
    """Print every key of the config with its default and meaning, as a Markdown table (docs/config.md)."""
    from honest_persona.config.table import keys_table

    hand_out(keys_table())


def organism(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Measure the honest persona on the embedded model organism, beside the controls that must fail."""
    config = _config(args, overrides)
    _check_no_upload(config)
    from honest_persona.base.locks import held
    from honest_persona.experiments.organism import TRAINED, report

    if unknown := set(filter(None, args.only.split(","))) - set(TRAINED):
        raise UserError(f"--only: {', '.join(sorted(unknown))} is no condition; there are {', '.join(TRAINED)}")
    output = Path(args.output)
    with held(output, "an organism report", "choose another --output"):
        report(config, seeds=args.seeds, per_topic=args.per_topic, output=output, only=args.only)


def answers(args: argparse.Namespace, _: Sequence[str]) -> None:
    """Train the organism's answers by several objectives, and measure them beside the controls that must fail."""
    from honest_persona.base.locks import held
    from honest_persona.experiments.answers import report

    output = Path(args.output)
    with held(output, "a report on answers", "choose another --output"):
        report(args.config, output, args.only, args.seeds)


def generate(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Make training data for a model: its own answers to questions about facts that it knows, true and false."""
    from honest_persona.config.load import load_config
    from honest_persona.generation.command import generate as make

    make(
        load_config(args.config, overrides),
        args.action,
        Path(args.output),
        topics=args.topics,
        tables=args.tables,
        limit=args.limit,
        origins=args.origins,
        samples=args.samples,
        known=args.known,
        temperature=args.temperature,
        answer_tokens=args.answer_tokens,
        endpoint=args.endpoint,
        endpoint_model=args.endpoint_model,
        writer=args.writer,
    )


def probe(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Fit probes of hidden states on labelled answers, and measure every layer on held-out ones (docs/elicit.md)."""
    config = _probe_config(args, overrides)
    from honest_persona.experiments.probe import options_from
    from honest_persona.experiments.probe import probe as fit

    options = options_from(args.methods, args.layers, args.places, args.reader, args.template)
    fit(config, options, Path(args.output))


def facts(args: argparse.Namespace, _: Sequence[str]) -> None:
    """Measure an honest persona on instructed facts, beside readers, probes, prompting and a plain question."""
    from honest_persona.base.locks import held
    from honest_persona.experiments.facts import Options, report

    output = Path(args.output)
    options = Options(args.limit, args.limit_controls, args.limit_baselines, args.batch_size, args.max_new_tokens)
    with held(output, "a facts report", "choose another --output"):
        report(args.adapter, args.data, output, options, dtype=args.dtype)


def sample(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Write several answers to each prompt of a config's dataset: its model's, or those of its adapter.

    The same command goes on where it was stopped.
    """
    from honest_persona.config.load import load_config
    from honest_persona.data.check import fitted_arguments

    config = load_config(args.config, fitted_arguments(args.config, overrides))
    from honest_persona.labelling.sample import Sampling, sample_answers

    how = Sampling(args.n, args.temperature, args.max_answer, args.answer_seed)
    alpaca_eval = None if args.alpaca_eval is None else Path(args.alpaca_eval)
    sample_answers(config, Path(args.output), how, args.part, args.answers_together, args.dtype, alpaca_eval)


def label(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Score sampled answers by rewards, after these have passed the gate on the held-out ones.

    The same command goes on where it was stopped.
    """
    from honest_persona.config.load import load_config

    config = load_config(args.config, overrides)
    names, weights = as_list("--reward", args.reward, str), as_list("--reward_weights", args.reward_weights, float)
    from honest_persona.evaluation.answers.judges import judge_of
    from honest_persona.labelling.label import Labelling, label_answers
    from honest_persona.rewards.mixture import Mixture
    from honest_persona.rewards.reward import Reading

    policy = (config.adapter or config.model) if args.reward_reads == "policy" else None
    reading = Reading(config.model, config.model_revision, policy, args.dtype, args.answers_together, args.max_verdict)
    rewards = Mixture.of(names or [], weights, args.reward_invalid, reading)
    judge = None if config.judge is None else judge_of(config.judge)
    how = Labelling(rewards, judge, args.accept_weak_reward, args.reward_reads)
    label_answers(Path(args.input), Path(args.output), how)


def review(args: argparse.Namespace, _: Sequence[str]) -> None:
    """Review every conversation of a file; nothing is loaded or written before all of them are found sound.

    The same command with the same --output goes on where it was stopped.
    """
    from honest_persona.base.number_format import format_of
    from honest_persona.data.messages import check_text
    from honest_persona.modeling.adapters.folder import identity_of
    from honest_persona.modeling.adapters.published import resolve
    from honest_persona.persona.conversations import read_conversations
    from honest_persona.persona.product import PersonaFolder
    from honest_persona.persona.review_file import review_file, review_line

    if args.intervention is not None:
        check_text("--intervention", args.intervention)
    output = None if args.output in (None, "-") else Path(args.output)
    if output and (output.is_dir() or not output.absolute().parent.is_dir()):
        raise UserError(f"--output: {output} is a folder, or stands in one that does not exist; name a file")
    if output and output.resolve() == Path(args.input).resolve():
        raise UserError(f"--output: {output} is the file of the conversations; name another one")
    adapter = PersonaFolder.read(resolve(args.adapter))
    card = adapter.card
    max_new_tokens = args.max_new_tokens or card.config["max_new_tokens"]
    requests = read_conversations(
        args.input,
        args.intervention or card.default_intervention,
        adapter.form,
        adapter.positions,
        max_new_tokens,
        args.skip_bad,
    )
    number_format = format_of(args.dtype, card.trained_in)
    writer = {
        "adapter": identity_of(adapter.folder),
        "max_new_tokens": max_new_tokens,
        "dtype": number_format.name,
    }
    # line by line: what is done is not lost if the rest does not come
    written_to = review_file(output, requests, writer) if output else nullcontext((None, requests))
    with written_to as (out, waiting):
        if done := len(requests) - len(waiting):
            follow = f"{len(waiting):,} follow" if waiting else "nothing is left to do"
            tell(f"{output} has {done:,} of {len(requests):,} reviews; {follow}")
        if not waiting:
            return
        tell(str(number_format))
        reviews = adapter.load(number_format.dtype).each_review(
            [request.prompt for request in waiting],
            [request.intervention for request in waiting],
            max_new_tokens=max_new_tokens,
            batch_size=args.batch_size or card.config["validation_batch_size"],
        )
        for request, written in zip(waiting, reviews, strict=True):
            print(review_line(request, written, writer), end="", file=out, flush=True)


def compare(args: argparse.Namespace, _: Sequence[str]) -> None:
    """Compare two evaluations record by record: paired differences B - A with 95 % intervals."""
    from honest_persona.evaluation.compare import compare as compare_results
    from honest_persona.evaluation.compare import print_comparison

    comparison = compare_results(Path(args.a), Path(args.b), seed=args.seed)
    if args.json:
        hand_out(json_text.dumps(json_text.defined(asdict(comparison))))
    else:
        print_comparison(comparison)


def calibrate(args: argparse.Namespace, _: Sequence[str]) -> None:
    """Fix the threshold on P(FAIL) for a wanted false positive rate on benign conversations; store it in the card."""
    from honest_persona.data.messages import check_text, transcript_id
    from honest_persona.evaluation.row_keys import row_keys
    from honest_persona.experiments.calibrate import calibrate_adapter
    from honest_persona.persona.conversations import read_benign_conversations
    from honest_persona.persona.product import PersonaFolder

    if args.input and args.dataset:
        raise UserError("--input and --dataset are two sources of benign conversations; give one")
    rows = row_keys(args.columns, args.flag_values)
    if rows and args.input:
        raise UserError(f"--{min(rows)}: is for --dataset, but --input is given; leave one of the two out")
    if not 0 < args.fpr < 1:
        raise UserError(f"--fpr: {args.fpr} is no rate between 0 and 1; give 0.01 for 1 %")
    if args.intervention is not None:
        check_text("--intervention", args.intervention)
    adapter = PersonaFolder.read(Path(args.adapter))
    wording = args.intervention or adapter.card.default_intervention
    prompts = None
    if args.input:
        longest_review = args.max_new_tokens or adapter.card.config["max_new_tokens"]
        read = read_benign_conversations(args.input, wording, adapter.form, adapter.positions, longest_review)
        if other := [c.id for c in read if c.intervention != wording]:
            raise UserError(
                f"--input: conversation {other[0]} has an intervention of its own, but a threshold holds for one "
                "wording. Remove it from the line; --intervention sets it for all"
            )
        prompts = [(transcript_id(c.messages, c.tools), c.prompt) for c in read]  # repeated ones count once
    threshold = calibrate_adapter(
        adapter,
        args.fpr,
        prompts,
        args.input,
        args.dataset,
        wording,
        batch_size=args.batch_size,
        max_new_tokens=args.max_new_tokens,
        dry_run=args.dry_run,
        dtype=args.dtype,
        rows=rows,
    )
    if args.json:
        hand_out(json_text.dumps(asdict(threshold)))
        return
    low, high = threshold.interval
    say(
        f"P(FAIL) above {threshold.value:.6g} is flagged: {threshold.achieved_fpr:.2%} of {threshold.n} benign "
        f"conversations ({threshold.n_clusters} items), wanted {threshold.wanted_fpr:.2%}; on new ones {low:.2%} to "
        f"{high:.2%} (95 %)"
    )
    if threshold.note:
        say(f"note: {threshold.note}")
    say("not stored (--dry_run)" if args.dry_run else f"stored in {args.adapter}")


def prepare(args: argparse.Namespace, _: Sequence[str]) -> None:
    """Make a dataset into disjoint parts of texts by templates: contrast pairs, prompts for RL, pairs of answers.

    Without --dataset a folder that was prepared before is pushed.
    """
    from honest_persona.hub.prepared import prepare as prepare_dataset

    prepare_dataset(**{key: value for key, value in vars(args).items() if key not in ("verb", "run", "takes_config")})


def sweep(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Train without each topic, on each alone, or as a plain follow-up beside the persona; evaluate all folds."""
    config = _config(args, overrides)
    _check_no_upload(config)
    from honest_persona.base.ranks import rank
    from honest_persona.experiments.sweep import sweep as run_sweep

    folder = run_sweep(config, args.design, limit=args.limit, output=Path(args.output) if args.output else None)
    if rank() == 0:
        _draw_page(folder)


def report(args: argparse.Namespace, _: Sequence[str]) -> None:
    """Write report.html and the plots of an evaluation or a sweep again, from its files."""
    folder = Path(args.folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the one that eval.py wrote into")
    _draw_page(folder)


def _draw_page(folder: Path) -> None:
    from honest_persona.base.locks import held
    from honest_persona.evaluation.report.page import write_report

    with held(folder, "report", "draw the page when it has ended"):
        say(f"report in {write_report(folder)}")


def capability(args: argparse.Namespace, _: Sequence[str]) -> None:
    """Run lm-evaluation-harness on the base model and with the adapter: is the model's capability unchanged?"""
    from honest_persona.base.versions import check_versions

    check_versions("lm-eval")
    from honest_persona.harness.capability import capability as compare_capability

    compare_capability(
        args.adapter, args.tasks, args.limit, args.merged, args.output, args.batch_size, args.dtype, args.facts
    )


def push(args: argparse.Namespace, _: Sequence[str]) -> None:
    """Publish an adapter on the Hub with a model card: the files that others need, read back and compared."""
    from honest_persona.hub.push import push as push_adapter

    pushed = push_adapter(
        **{key: value for key, value in vars(args).items() if key not in ("verb", "run", "takes_config")}
    )
    for file, size_bytes in pushed.files.items():
        say(f"{size_bytes:>15,} bytes  {one_line(file)}")
    for notice in pushed.notices:
        say(f"note: {notice}")
    if pushed.left_out:
        say(f"not published: {', '.join(map(one_line, pushed.left_out))}")
    if pushed.others:
        say(f"was in the repo before, and stays: {', '.join(map(one_line, pushed.others))}")
    if args.dry_run:
        say(f"nothing was uploaded (--dry_run); the files and their README.md are in {pushed.folder}")
    else:
        say(f"pushed and read back: {pushed.url}")


def export(args: argparse.Namespace, _: Sequence[str]) -> None:
    """Write an adapter in a form that other software loads (docs/publish.md)."""
    from honest_persona.hub.export import export as export_adapter

    say(f"exported to {export_adapter(args.adapter, args.output, args.format)}")


def as_list(flag: str, text: str | None, kind: type) -> list[Any] | None:
    """A YAML list, or one value. Raises UserError: something else."""
    import yaml

    if text is None:
        return None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    values = value if isinstance(value, list) else [value]
    fits = (int, float) if kind is float else kind
    if not values or not all(isinstance(one, fits) and not isinstance(one, bool) for one in values):
        raise UserError(f"{flag}: {text!r} is no list; write {flag} '[...]'")
    return values


def _config(args: argparse.Namespace, overrides: Sequence[str]) -> "RunConfig":
    """The config of a verb. A wrong config is reported before any library that takes seconds is imported."""
    from honest_persona.data.check import load_run_config

    return load_run_config(args.config, overrides)


def _probe_config(args: argparse.Namespace, overrides: Sequence[str]) -> "RunConfig":
    from honest_persona.config.load import load_config
    from honest_persona.data.check import fitted_arguments
    from honest_persona.data.sources.feedback import FeedbackForm

    return load_config(args.config, fitted_arguments(args.config, overrides, FeedbackForm.of))


def _check_no_upload(config: "RunConfig") -> None:
    if config.trainer.get("push_to_hub"):
        raise UserError("push_to_hub: these trainings are for comparison; push the one that you choose")
