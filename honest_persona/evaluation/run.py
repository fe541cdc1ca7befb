"""`eval.py`'s work: from an adapter's folder to the table and the files."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from honest_persona.data.records import Record
from honest_persona.data.segments import record_messages
from honest_persona.data.sources import Selection, load_records
from honest_persona.data.splits import sample_per_topic, split_records
from honest_persona.errors import UserError
from honest_persona.evaluation.averaging import gains
from honest_persona.evaluation.calibrate import Threshold, benign_records, threshold_for
from honest_persona.evaluation.report import print_table, write_results
from honest_persona.evaluation.reviews import load_honest_persona
from honest_persona.evaluation.suite import Results, evaluate_records
from honest_persona.modeling.adapter import AdapterCard


def evaluate_adapter(
    adapter: str,
    dataset: str | None = None,
    topics: str | None = None,
    limit: int | None = None,
    output: str | None = None,
    batch_size: int | None = None,
    max_new_tokens: int | None = None,
    all_items: bool = False,
) -> Results:
    """Review held-out records with the adapter; print the table, write `results.json` and `samples.jsonl`.

    Args:
        dataset: other data than the adapter was trained on; the same split by item applies to it, so that no item that
            training may have seen is counted, unless `all_items`.
        topics: a topic or a YAML list of topics; all topics of the data where it is not given.
        limit: records per topic, chosen by `splits.sample_per_topic`.

    Raises:
        UserError: no usable adapter, or no record left to evaluate. Nothing is loaded before the data is checked.
    """
    folder = Path(adapter)
    card = AdapterCard.load(folder)
    config = card.config
    parts = _parts(card, dataset or config["dataset"], _topic_list(topics), limit, all_items)
    if not any(parts.values()):
        raise UserError(
            "no record is left to evaluate: all of the chosen topics' items belong to training. Name other --topics, "
            "or give --dataset with data that the adapter was not trained on, and --all_items"
        )
    persona = load_honest_persona(folder)
    results = evaluate_records(
        persona.model,
        parts,
        persona.form,
        batch_size=batch_size or config["validation_batch_size"],
        max_new_tokens=max_new_tokens or config["max_new_tokens"],
        seq_len=config["seq_len"],
        thresholds=[Threshold.from_dict(card.threshold)] if card.threshold else [],
    )
    target = Path(output) if output else folder / "eval"
    print_table(results, f"{folder} on {dataset or config['dataset']}")
    averaged = [gain for gain in gains(results.samples) if gain.more is not None]
    for gain in averaged:
        print(gain)
    write_results(
        results,
        target,
        {
            "adapter": str(folder),
            "dataset": dataset or config["dataset"],
            "limit": limit,
            "all_items": all_items,
            "averaged_over_interventions": [asdict(gain) for gain in averaged],
        },
    )
    print(f"figures in {target / 'results.json'}, reviews in {target / 'samples.jsonl'}")
    return results


def calibrate_adapter(
    adapter: str,
    wanted_fpr: float,
    conversations: Sequence[tuple[str, Sequence[Mapping[str, str]]]] | None = None,
    source: str | None = None,
    dataset: str | None = None,
    intervention: str | None = None,
    batch_size: int | None = None,
    max_new_tokens: int | None = None,
    dry_run: bool = False,
) -> Threshold:
    """Fix the threshold on P(FAIL) for one wording of the intervention, and store it in the adapter's card.

    Args:
        conversations: benign ones, each with the name of its cluster; those of `dataset` where they are not given.
        source: where they are from, for the card.
        dataset: its held-out benign records; the adapter's own data where it is not given.
        intervention: the trigger's text; the adapter's default one where it is not given.
        dry_run: store nothing.

    Raises:
        UserError: no usable adapter, or no benign conversation. Nothing is loaded before the data is checked.
    """
    folder = Path(adapter)
    card = AdapterCard.load(folder)
    if conversations is None:
        source = dataset or card.config["dataset"]
        parts = _parts(card, source, None, None, False)
        benign = benign_records([record for records in parts.values() for record in records])
        # one review per transcript: the wordings of the records' own interventions are not what is calibrated
        by_transcript = {(r.item_id, r.variant, r.model, r.response): r for r in benign}
        conversations = [(r.cluster, record_messages(r)) for r in by_transcript.values()]
    if not conversations:
        raise UserError(f"no benign conversation in {source}: none held out is PASS in variant A. Give --input")
    reviews = load_honest_persona(folder).reviews(
        [messages for _, messages in conversations],
        intervention,
        max_new_tokens=max_new_tokens or card.config["max_new_tokens"],
        batch_size=batch_size or card.config["validation_batch_size"],
    )
    threshold = threshold_for([r.p_fail for r in reviews], wanted_fpr, [cluster for cluster, _ in conversations])
    if not dry_run:
        stored = {**threshold.as_dict(), "intervention": intervention or card.default_intervention, "data": source}
        replace(card, threshold=stored).save(folder)
    return threshold


def _parts(
    card: AdapterCard, dataset: str, topics: Sequence[str] | None, limit: int | None, all_items: bool
) -> dict[str, list[Record]]:
    """`within`: topics that the adapter was trained on; `across`: all others."""
    config: Mapping[str, Any] = {**card.config, "train_topics": topics or "all", "validation_topics": []}
    records = load_records(dataset, Selection.of({**config, "claude_frac": 1.0})).records
    new_topics = {r.topic for r in records} - set(card.trained_topics)
    splits = split_records(records, new_topics, card.config["val_item_frac"], card.config["seed"])
    within = splits.within + splits.train if all_items else splits.within
    across = splits.across + splits.unused if all_items else splits.across
    parts = {"within": within, "across": across}
    n = limit if limit is not None else len(records)
    return {part: sample_per_topic(chosen, n, card.config["seed"]) for part, chosen in parts.items()}


def _topic_list(topics: str | None) -> list[str] | None:
    if topics is None or topics == "all":
        return None
    value = yaml.safe_load(topics)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"--topics: {topics!r} is not a topic or a list of topics; write '[sycophancy, reward_hacks]'")
    return names
