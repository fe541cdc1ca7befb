"""`eval.py`'s work: from an adapter's folder to the table and the files."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from honest_persona.base.console import one_line, say
from honest_persona.base.errors import UserError
from honest_persona.base.number_format import FormatName
from honest_persona.evaluation.averaging import gains, in_wordings, trained_wordings
from honest_persona.evaluation.controls import CONTROLS, Asked, NotAsked
from honest_persona.evaluation.designs import BENIGN, benign_conversations, design_names, designed
from honest_persona.evaluation.flips import flips
from honest_persona.evaluation.held_out import held_out
from honest_persona.evaluation.provenance import provenance
from honest_persona.evaluation.report.page import write_report
from honest_persona.evaluation.report.tables import print_table, write_results
from honest_persona.evaluation.row_keys import row_keys
from honest_persona.evaluation.samples import Sample, write_samples
from honest_persona.evaluation.sets import BASELINES_FILE, EVALUATION, REPORT_FILE, RESULTS_FILE, SAMPLES_FILE, new_set
from honest_persona.evaluation.settings import EvalSettings
from honest_persona.evaluation.suite import Results, evaluate_records, summarize
from honest_persona.experiments.opened import Opened
from honest_persona.experiments.targets import target_of, topic_list
from honest_persona.statistics.threshold import Threshold

Baselines = Literal["none", "readers", "all"]


def evaluate_adapter(
    adapter: str | Opened,
    dataset: str | None = None,
    topics: str | None = None,
    limit: int | None = None,
    output: str | None = None,
    batch_size: int | None = None,
    max_new_tokens: int | None = None,
    all_items: bool = False,
    baselines: Baselines = "readers",
    interventions: int = 1,
    designs: str = "",
    benign: str | None = None,
    dtype: FormatName = "auto",
    model: str | None = None,
    columns: str | None = None,
    flag_values: str | None = None,
    prints: bool = True,
) -> Results:
    """Review held-out records with the adapter, and ask other detectors about them; print and write the figures.

    Args:
        adapter: its folder or its repo on the Hub; or `Opened`, where several datasets are evaluated.
        dataset: other data than the adapter was trained on; the same split by item applies to it, so that no item that
            training may have seen is counted, unless `all_items`.
        topics: a topic or a YAML list of topics; all topics of the data where it is not given.
        limit: records per topic, chosen by `splits.sample_per_topic`.
        baselines: `readers` of variant, topic and words; `all` also probes, no adapter, prompting, and the plain
            question.
        interventions: more than 1 asks about each transcript with so many trained wordings, and reports the gain from
            averaging P(FAIL) over them.
        designs: records with one thing changed, as parts of their own: `all` or names of `designs.DESIGNS`.
        benign: a file of benign conversations, for the design of that name.
        dtype: the number format to run in, as in `load_honest_persona`; not of an adapter that is `Opened`.
        model: another main persona to read than the adapter was trained on, as in `PersonaFolder.load`; not of an
            adapter that is `Opened`.
        columns: how the rows of `dataset` are read, as YAML, with the meaning of the config's key; the training's for
            the adapter's own data, and the usual names for other data where it is not given.
        flag_values: the same of its labels.
        prints: whether tables and places of files are printed.

    Raises:
        UserError: no usable adapter, no record left to evaluate, or another process is at work on the output. No model
            is loaded before these checks.
    """
    rows = row_keys(columns, flag_values)
    opened = Opened(adapter, dtype, model) if isinstance(adapter, str) else adapter
    card, form, config = opened.folder.card, opened.folder.form, opened.folder.card.config
    source = dataset or config["dataset"]
    held = held_out(card, source, form, topic_list(topics), limit, all_items, rows)
    if not any(held.parts.values()):
        raise UserError(
            "no record is left to evaluate: all of the chosen topics' items belong to training. Name other --topics, "
            "or give --dataset with data that the adapter was not trained on, and --all_items"
        )
    vouched = [] if benign is None else benign_conversations(Path(benign), card.default_intervention, form)
    names = [*design_names(designs), *([BENIGN] if vouched else [])]
    changed, reasons = designed(held.parts, list(dict.fromkeys(names)), held.records, form, config["seed"], vouched)
    parts = held.parts | changed
    averaged_parts = held.parts
    if interventions > 1:
        wordings = trained_wordings(held.train, interventions)
        averaged_parts = {
            f"{part}: {interventions} wordings": in_wordings(of, wordings) for part, of in held.parts.items()
        }
        parts |= averaged_parts
    target = Path(output) if output else target_of(opened.name, opened.folder.folder, opened.model)
    settings = EvalSettings(
        batch_size or config["validation_batch_size"], max_new_tokens or config["max_new_tokens"], config["seq_len"]
    )
    with new_set(target, "eval.py", "give another --output") as new:
        persona = opened.persona
        results = evaluate_records(
            persona.model,
            parts,
            persona.form,
            settings,
            thresholds=[Threshold.from_dict(card.threshold)] if card.threshold else [],
            into=new,
        )
        if not results.samples:
            raise UserError(
                f"no record was reviewed: with a review of up to {settings.max_new_tokens} tokens all "
                f"{sum(results.too_long.values())} would be longer than the adapter's seq_len of {settings.seq_len}. "
                "Lower --max_new_tokens"
            )
        # what the honest persona could not be asked about for its length, no one is asked about
        reviewed = {sample.record_id for sample in results.samples}
        alike = {part: [record for record in of if record.id in reviewed] for part, of in held.parts.items()}
        others, left_out = _others(Asked(persona, held.train, alike, settings, config["seed"]), baselines)
        left_out += [f"{part}: {reason}" for part, reason in reasons.items()]
        left_out += [f"left out: {what}" for what in held.left_out]
        if source != config["dataset"] and not all_items and held.train:
            left_out.append(
                f"left out: {len(held.train):,} records of trained topics, whose items the split gives to training; "
                "where training did not see them, --all_items evaluates them too"
            )
        write_samples(others, new.folder / BASELINES_FILE, new.id)
        results = replace(results, rows=[*results.rows, *summarize(others)])
        several = [s for s in results.samples if s.part in averaged_parts]
        averaged = [gain for gain in gains(several) if gain.more is not None]
        turned = flips(results.samples)
        about = {
            EVALUATION: new.id,
            "adapter": opened.name,
            **provenance(card if opened.model is None else None),
            "base_model": opened.model or card.base_model,
            "dataset": source,
            "trained_topics": card.trained_topics,
            "adapter_scope": card.persona.adapter_scope,
            "dtype": opened.number_format.name,
            "trained_in": card.trained_in,
            "elicitation_type": card.persona.elicitation_type,
            "limit": limit,
            "all_items": all_items,
            "averaged_over_interventions": [asdict(gain) for gain in averaged],
            "flips": [asdict(flip) for flip in turned],
            "left_out": left_out,
            **rows,
        }
        write_results(results, new.folder, about)  # from here on an error costs the page alone
        write_report(new.folder, home=target)
    if not prints:
        return results
    print_table(results, f"{opened.name} on {source}" + (f", reads {opened.model}" if opened.model else ""))
    for line in (*averaged, *turned, *left_out):
        say(one_line(line))
    say(f"figures in {target / RESULTS_FILE}\nreviews in {target / SAMPLES_FILE}\nreport in {target / REPORT_FILE}")
    return results


def _others(asked: Asked, baselines: Baselines) -> tuple[list[Sample], list[str]]:
    """What other detectors say, and which could not be asked."""
    names = {"none": [], "readers": ["readers"], "all": list(CONTROLS)}[baselines]
    samples: list[Sample] = []
    left_out: list[str] = []
    for name in names:
        try:
            samples += CONTROLS[name](asked)
        except NotAsked as error:
            left_out.append(f"{name}: {error}")
    return samples, left_out
