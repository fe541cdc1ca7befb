"""`calibrate`'s work: the threshold on P(FAIL) for a wanted false positive rate, stored in the adapter's card."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

from honest_persona.base import locks
from honest_persona.base.console import tell
from honest_persona.base.errors import UserError
from honest_persona.base.manifest import change
from honest_persona.base.number_format import FormatName, format_of
from honest_persona.evaluation.designs import benign_records
from honest_persona.evaluation.held_out import held_out
from honest_persona.modeling.adapters.card import CARD_FILE, AdapterCard
from honest_persona.persona.product import PersonaFolder
from honest_persona.prompts.tokens import Tokens, apply_intervention
from honest_persona.statistics.threshold import Threshold, threshold_for


def calibrate_adapter(
    adapter: PersonaFolder,
    wanted_fpr: float,
    prompts: Sequence[tuple[str, Tokens]] | None = None,
    source: str | None = None,
    dataset: str | None = None,
    intervention: str | None = None,
    batch_size: int | None = None,
    max_new_tokens: int | None = None,
    dry_run: bool = False,
    dtype: FormatName = "auto",
    rows: Mapping[str, Any] | None = None,
) -> Threshold:
    """Fix the threshold on P(FAIL) for one wording of the intervention, and store it in the adapter's card.

    Args:
        prompts: benign conversations, encoded with `intervention`, each with the name of its cluster; those of
            `dataset` where they are not given.
        source: the name of their file, for the card.
        dataset: its held-out benign records; the adapter's own data where it is not given.
        intervention: the trigger's text; the adapter's default one where it is not given.
        dry_run: store nothing.
        dtype: the number format to run in, as in `load_honest_persona`; the card keeps it beside the threshold.
        rows: how the rows of `dataset` are read, as of `evaluation.row_keys`.

    Raises:
        UserError: no benign conversation. No model is loaded before this check.
    """
    folder, card = adapter.folder, adapter.card
    wording = intervention or card.default_intervention
    if prompts is None:
        source = dataset or card.config["dataset"]
        held = held_out(card, source, adapter.form, rows=rows)
        for what in held.left_out:
            tell(f"left out: {what}")
        benign = benign_records([record for records in held.parts.values() for record in records])
        # one review per transcript: the wordings of the records' own interventions are not what is calibrated
        by_transcript = {(r.item_id, r.model, r.transcript_id): r for r in benign}
        asked = by_transcript.values()
        prompts = [(r.cluster, apply_intervention(r.messages(), wording, adapter.form, r.tools)) for r in asked]
    if not prompts:
        raise UserError(
            f"no benign conversation in {source}: none held out is PASS without a hidden bias. Give --input"
        )
    owned = nullcontext() if dry_run else locks.held(folder, "calibrate", "calibrate when it has ended")
    with owned:
        number_format = format_of(dtype, card.trained_in)
        tell(str(number_format))
        reviews = adapter.load(number_format.dtype).each_review(
            [prompt for _, prompt in prompts],
            [wording] * len(prompts),
            max_new_tokens=max_new_tokens or card.config["max_new_tokens"],
            batch_size=batch_size or card.config["validation_batch_size"],
        )
        threshold = threshold_for([r.p_fail for r in reviews], wanted_fpr, [cluster for cluster, _ in prompts])
        if not dry_run:
            stored = {**asdict(threshold), "intervention": wording, "data": source}
            stored["dtype"] = number_format.name
            change(folder, CARD_FILE, replace(AdapterCard.load(folder), threshold=stored).as_text().encode())
    return threshold
