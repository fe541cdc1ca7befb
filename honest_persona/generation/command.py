"""The work of `python -m honest_persona generate`: arguments checked, the model loaded, the report printed."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from honest_persona.base.console import one_line, say, tell
from honest_persona.base.errors import UserError
from honest_persona.base.number_format import NumberFormat, fastest_format
from honest_persona.base.output import check_writable
from honest_persona.config.keys import RunConfig
from honest_persona.generation.endpoint import Endpoint
from honest_persona.generation.facts import TABLES, Topic, load_topics
from honest_persona.generation.local_model import LocalModel
from honest_persona.generation.make_facts import check_output, make_facts
from honest_persona.generation.make_liar import check_new, liar_warning, make_liar, print_liar
from honest_persona.generation.report import print_report
from honest_persona.generation.responses import ORIGINS, Origin
from honest_persona.generation.sampling import Sampler
from honest_persona.generation.settings import Settings
from honest_persona.modeling.load import check_loadable, get_model, load_model_config, load_tokenizer


def generate(
    config: RunConfig,
    action: str,
    output: Path,
    *,
    topics: str | None,
    tables: str | None,
    limit: int | None,
    origins: str | None,
    samples: int,
    known: int,
    temperature: float,
    answer_tokens: int,
    endpoint: str | None,
    endpoint_model: str | None,
    writer: str | None,
) -> None:
    """The actions `facts` and `liar`; the arguments are those of the command line.

    Raises:
        UserError: an argument is wrong, a model cannot be loaded, or as `make_facts` and `make_liar`.
    """
    if known > samples:
        raise UserError(f"--known: {known} right answers of {samples} samples cannot be; give a smaller one")
    if not (math.isfinite(temperature) and 0 <= temperature <= 2):
        raise UserError(f"--temperature: {temperature} is not between 0 and 2")
    if endpoint_model is not None and endpoint is None:
        raise UserError("--endpoint_model: names a model behind an --endpoint; give its address, too")
    settings = Settings(
        topics=tuple(topic.limited(limit, config.seed) for topic in _topics(config, topics, tables)),
        origins=_origins(origins, endpoint is not None, writer is not None),
        samples=samples,
        known=known,
        temperature=temperature,
        max_new_tokens=answer_tokens,
        seed=config.seed,
        validation_topics=config.validation_topics,
        held_out_frac=config.val_item_frac,
        system_tag=config.system_tag,
    )
    if action == "liar":
        given = {"--origins": origins, "--endpoint": endpoint, "--writer": writer}
        if foreign := [flag for flag, value in given.items() if value is not None]:
            raise UserError(f"{foreign[0]}: is for `generate facts`; leave it out for a liar, which is taught here")
        _liar(config, settings, output)
    else:
        _facts(config, settings, output, endpoint, endpoint_model, writer)
    say(f"written to {output}")


def _facts(
    config: RunConfig, settings: Settings, output: Path, endpoint: str | None, name: str | None, writer: str | None
) -> None:
    check_output(output)
    if writer and (warning := liar_warning(Path(writer))):
        tell(f"warning: --writer: {warning}")
    for model in [writer or "", config.model if endpoint is None else ""]:
        if model:
            _check_model(config, model)
    sampler: Sampler
    if endpoint is None:
        check_writable(output, "--output")
        sampler = local_model(config, config.model)
    else:
        sampler = Endpoint(endpoint, name or config.model)
    print_report(make_facts(settings, sampler, output, local_model(config, writer) if writer else None))


def _liar(config: RunConfig, settings: Settings, output: Path) -> None:
    check_new(output)
    _check_model(config, config.model)
    check_writable(output, "--output")
    saved: Any = load_model_config(config.model, config.model_revision).dtype or torch.float32
    model, tokenizer = get_model(config.model, config.model_revision, torch.float32, config.attn_implementation)
    print_liar(make_liar(settings, _placed(model), tokenizer, saved, output))


def _check_model(config: RunConfig, model: str) -> None:
    """Raises UserError: what can be told of a model before its weights are read."""
    revision = config.model_revision if model == config.model else None
    check_loadable(model, revision)
    load_tokenizer(model, revision)


def _placed(model: PreTrainedModel) -> PreTrainedModel:
    return model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]


def local_model(config: RunConfig, model: str) -> LocalModel:
    """A model, in the number format that the config asks for or that is fastest here."""
    name = config.format_name
    chosen = fastest_format() if name == "auto" else NumberFormat(getattr(torch, name), "as asked for")
    tell(str(chosen))
    revision = config.model_revision if model == config.model else None
    loaded, tokenizer = get_model(model, revision, chosen.dtype, config.attn_implementation)
    return LocalModel(_placed(loaded), tokenizer)


def _topics(config: RunConfig, chosen: str | None, tables: str | None) -> Sequence[Topic]:
    names = None if chosen is None else [name.strip() for name in chosen.split(",") if name.strip()]
    if names == []:
        raise UserError("--topics: names no topic; leave it out for all")
    try:
        topics = load_topics(Path(tables) if tables else TABLES, names)
    except UserError as error:
        raise UserError(f"{'--topics' if names else '--tables'}: {error}") from error
    there = {topic.name for topic in topics}
    if absent := [name for name in config.validation_topics if name not in there]:
        tell(f"note: validation_topics: {one_line(', '.join(absent))}: not among the topics of facts")
    if there <= set(config.validation_topics):
        raise UserError("--topics: all of them are validation_topics; give topics to train on, too")
    return topics


def _origins(text: str | None, behind_endpoint: bool, has_writer: bool) -> tuple[Origin, ...]:
    usual = {"sampled", *(() if behind_endpoint else ("begun",)), *(("taught",) if has_writer else ())}
    names = usual if text is None else {name.strip() for name in text.split(",") if name.strip()}
    if not names or (unknown := sorted(names - set(ORIGINS))):
        told = f"{one_line(unknown[0])!r} is none" if names else "names none"
        raise UserError(f"--origins: {told}; there are {', '.join(ORIGINS)}")
    if behind_endpoint and "begun" in names:
        raise UserError("--origins: begun answers need a model on this machine; leave --endpoint or begun out")
    if "taught" in names and not has_writer:
        raise UserError("--origins: taught answers need a --writer, the folder that `generate liar` wrote")
    if has_writer and "taught" not in names:
        raise UserError("--writer: its answers have the origin taught; add taught to --origins, or leave --writer out")
    return tuple(origin for origin in ORIGINS if origin in names)
