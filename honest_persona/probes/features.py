"""Hidden states that probes read: of the base model, adapter off, at chosen layers and positions of a transcript.

prompts = [prompt_of(record, form) for record in records]
states = read_states(model, prompts, form, layers)         # Site -> (n, d), of the transcript alone
states |= contrast_states(model, prompts, form, layers)    # Site -> (n, 2, d), after the trigger and a flag
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from honest_persona.base.errors import UserError
from honest_persona.base.progress import Progress
from honest_persona.base.tensors import pad_with_mask
from honest_persona.base.words import FLAGS
from honest_persona.modeling.adapters.tuning import Model, adapter_off, backbone_of
from honest_persona.modeling.modes import in_mode
from honest_persona.modeling.prefix.frozen import positions, run_prefix, suffix_arguments, why_not_split
from honest_persona.prompts.kinds import Kind, Segment
from honest_persona.prompts.tokens import TokenFormat, Tokens


class Position(StrEnum):
    """Where in a transcript a state is read."""

    RESPONSE_END = "response_end"
    """The last token of the last response."""
    RESPONSE_MEAN = "response_mean"
    """The mean over the last response's tokens."""
    BEFORE_TRIGGER = "before_trigger"
    """The last token before the trigger, after all tokens that end the response's turn."""
    FLAG = "flag"
    """A contrast pair: the last token of the flag PASS and the last token of FAIL, each directly after the trigger."""


READING = (Position.RESPONSE_END, Position.RESPONSE_MEAN, Position.BEFORE_TRIGGER)
"""The positions that need the transcript alone."""


class Site(NamedTuple):
    """What a probe reads."""

    layer: int
    """0: the embeddings; i: after the i-th block (the last one: after the final norm too)."""
    position: Position


def spread_layers(model: Model, at_most: int = 8) -> list[int]:
    """Layers from the first to the last block, evenly spaced."""
    n = model.config.get_text_config().num_hidden_layers
    count = min(n, at_most)
    return sorted({round(1 + i * (n - 1) / max(count - 1, 1)) for i in range(count)} | {n})


def read_states(
    model: Model,
    prompts: Sequence[Tokens],
    form: TokenFormat,
    layers: Sequence[int],
    at: Sequence[Position] = READING,
    batch_size: int = 32,
) -> dict[Site, Tensor]:
    """States of transcripts, (n, d) float32 on the CPU per site. Triggers are left out; equal transcripts run once.

    Where the weights are sharded, all ranks must call this with equally many distinct transcripts.

    Raises:
        UserError: a prompt has no response, a layer is not there, or a state is not finite.
    """
    assert Position.FLAG not in at, "contrast_states reads the flags"
    _check_layers(model, layers)
    place: dict[tuple[tuple[int, ...], tuple[tuple[int, int], ...]], int] = {}
    index = []
    for i, prompt in enumerate(prompts):
        end, spans = _spans(prompt, i)
        key = tuple(prompt.input_ids[:end]), tuple(spans[position] for position in at)
        index.append(place.setdefault(key, len(place)))
    states = _states_at(model, [ids for ids, _ in place], [spans for _, spans in place], form, layers, batch_size)
    _check_finite(states)
    states = states[index]  # (n, positions, layers, d)
    return {Site(layer, p): states[:, i, j].clone() for i, p in enumerate(at) for j, layer in enumerate(layers)}


def contrast_states(
    model: Model, prompts: Sequence[Tokens], form: TokenFormat, layers: Sequence[int], batch_size: int = 32
) -> dict[Site, Tensor]:
    """Contrast pairs, (n, 2, d) float32 on the CPU per layer: the prompt answered by the flag PASS, and by FAIL.

    The ids that both answers share run once, where the model allows it.
    """
    _check_layers(model, layers)
    shared, _, _ = form.flag_ids
    tails = [_flag_run(flag, form)[len(shared) :] for flag in FLAGS]
    bodies = [(*prompt.input_ids, *shared) for prompt in prompts]
    if why_not_split(model.config) is None:
        states = _behind_prefixes(model, bodies, tails, form, layers, batch_size)
    else:
        rows = [(*body, *tail) for body in bodies for tail in tails]
        ends = [((len(row) - 1, len(row)),) for row in rows]
        states = _states_at(model, rows, ends, form, layers, batch_size)[:, 0].unflatten(0, (len(prompts), 2))
    _check_finite(states)
    return {Site(layer, Position.FLAG): states[:, :, j].clone() for j, layer in enumerate(layers)}  # (n, 2, L, d)


def _check_finite(states: Tensor) -> None:
    if not states.isfinite().all():
        raise UserError(
            "the base model's hidden states are not finite numbers: its weights are damaged, or overflow in float16. "
            "Load it in bfloat16 or float32, or take a sound copy"
        )


def _check_layers(model: Model, layers: Sequence[int]) -> None:
    n = model.config.get_text_config().num_hidden_layers
    if wrong := [layer for layer in layers if not 0 <= layer <= n]:
        raise UserError(f"layers: {wrong} are not in this model; it has 0 (the embeddings) to {n}")


def _spans(prompt: Tokens, number: int) -> tuple[int, dict[Position, tuple[int, int]]]:
    """The trigger's index, and per position the first index and the index after the last."""
    trigger = next(i for i, kind in enumerate(prompt.kinds) if kind in (Kind.PERSONA_TOKEN, Kind.INTERVENTION))
    responses = [i for i in range(trigger) if prompt.kinds[i] == Kind.RESPONSE]
    if not responses:
        raise UserError(
            f"prompt {number}: the response is empty, so there is nothing for a probe to read; leave it out"
        )
    stop = start = responses[-1] + 1
    while start and prompt.kinds[start - 1] == Kind.RESPONSE:
        start -= 1
    return trigger, {
        Position.RESPONSE_END: (stop - 1, stop),
        Position.RESPONSE_MEAN: (start, stop),
        Position.BEFORE_TRIGGER: (trigger - 1, trigger),
    }


def _flag_run(flag: str, form: TokenFormat) -> list[int]:
    return form.encode_text([Segment(Kind.FLAG, form.persona.flag_prefix + flag)])[0]


@torch.no_grad()
def _states_at(
    model: Model,
    rows: Sequence[tuple[int, ...]],
    spans: Sequence[tuple[tuple[int, int], ...]],
    form: TokenFormat,
    layers: Sequence[int],
    batch_size: int,
) -> Tensor:
    """(n, K, L, d): means over each row's K spans of tokens, at L layers."""
    found: dict[int, Tensor] = {}
    with _base_alone(model) as backbone, Progress("hidden states", len(rows), "transcripts") as progress:
        for batch in _batches([len(row) for row in rows], batch_size):
            ids, mask = pad_with_mask([rows[i] for i in batch], form.pad_id, "left", model.device)
            output = backbone(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions(mask),
                use_cache=False,
                output_hidden_states=True,
            )
            hidden = [output.hidden_states[layer] for layer in layers]
            states = []
            for b, i in enumerate(batch):
                pad = ids.shape[1] - len(rows[i])
                means = [[h[b, pad + a : pad + z].float().mean(0) for h in hidden] for a, z in spans[i]]
                states.append(torch.stack([torch.stack(at_layers) for at_layers in means]))
            found |= zip(batch, torch.stack(states).cpu(), strict=True)
            progress.advance(len(batch))
    return torch.stack([found[i] for i in range(len(rows))])


@torch.no_grad()
def _behind_prefixes(
    model: Model,
    bodies: Sequence[tuple[int, ...]],
    tails: Sequence[list[int]],
    form: TokenFormat,
    layers: Sequence[int],
    batch_size: int,
) -> Tensor:
    """(n, 2, L, d): the last token of each tail, directly after each body."""
    tail_ids, tail_mask = pad_with_mask(tails, form.pad_id, "right", model.device)
    lengths = tail_mask.sum(1)
    found: dict[int, Tensor] = {}
    with Progress("contrast pairs", len(bodies), "transcripts") as progress:
        for batch in _batches([len(body) for body in bodies], batch_size):
            inputs = pad_with_mask([bodies[i] for i in batch], form.pad_id, "left", model.device)
            prefix = run_prefix(model, *inputs, adapter_on=False)
            row = torch.arange(len(batch), device=model.device).repeat_interleave(2)  # PASS, FAIL of each
            which = torch.arange(2, device=model.device).repeat(len(batch))
            with _base_alone(model) as backbone:
                output = backbone(
                    input_ids=tail_ids[which],
                    output_hidden_states=True,
                    **suffix_arguments(prefix, tail_mask[which], row),
                )
            ends = torch.arange(len(row), device=model.device), lengths[which] - 1
            states = torch.stack([output.hidden_states[layer][ends].float() for layer in layers], dim=1)  # (2B, L, d)
            found |= zip(batch, states.unflatten(0, (len(batch), 2)).cpu(), strict=True)
            progress.advance(len(batch))
    return torch.stack([found[i] for i in range(len(bodies))])


def _batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Batches of indices; rows of similar length are in one batch."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    for start in range(0, len(order), size):
        yield order[start : start + size]


@contextmanager
def _base_alone(model: Model) -> Iterator[Any]:
    """The base model's transformer without its head, adapter off, in eval mode; afterwards both are as before."""
    with adapter_off(model), in_mode(model, training=False):
        yield backbone_of(model)
