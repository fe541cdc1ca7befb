"""Verbs that use an adapter: review, calibrate, push, export."""

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from honest_persona.base import json_text
from honest_persona.base.console import hand_out, one_line, say, tell
from honest_persona.base.errors import UserError


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
