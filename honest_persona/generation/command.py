"""The work of `python -m honest_persona generate`: arguments checked, the model loaded, the report printed."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from honest_persona.base.console import one_line, say, tell
from honest_persona.base.errors import UserError
from honest_persona.base.number_format import NumberFormat, fastest_format
from honest_persona.base.output import check_writable
from honest_persona.config.keys import RunConfig
from honest_persona.generation.endpoint import Endpoint
from honest_persona.generation.facts import TABLES, Topic, load_topics
from honest_persona.generation.local_model import LocalModel
from honest_persona.generation.make_facts import Settings, check_output, make_facts
from honest_persona.generation.report import print_report
from honest_persona.generation.responses import ORIGINS, Origin
from honest_persona.generation.sampling import Sampler
from honest_persona.modeling.load import check_loadable, get_model, load_tokenizer


def generate_facts(
    config: RunConfig,
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
) -> None:
    """The action `facts`; the arguments are those of the command line.

    Raises:
        UserError: an argument is wrong, the model cannot be loaded, or as `make_facts`.
    """
    if known > samples:
        raise UserError(f"--known: {known} right answers of {samples} samples cannot be; give a smaller one")
    if not (math.isfinite(temperature) and 0 <= temperature <= 2):
        raise UserError(f"--temperature: {temperature} is not between 0 and 2")
    settings = Settings(
        topics=tuple(topic.limited(limit, config.seed) for topic in _topics(config, topics, tables)),
        origins=_origins(origins, endpoint is not None),
        samples=samples,
        known=known,
        temperature=temperature,
        max_new_tokens=answer_tokens,
        seed=config.seed,
        validation_topics=config.validation_topics,
        held_out_frac=config.val_item_frac,
        system_tag=config.system_tag,
    )
    check_output(output)
    if endpoint_model is not None and endpoint is None:
        raise UserError("--endpoint_model: names a model behind an --endpoint; give its address, too")
    sampler: Sampler
    if endpoint is None:
        check_loadable(config.model, config.model_revision)
        load_tokenizer(config.model, config.model_revision)
        check_writable(output, "--output")
        sampler = local_model(config, config.model)
    else:
        sampler = Endpoint(endpoint, endpoint_model or config.model)
    report = make_facts(settings, sampler, output)
    print_report(report)
    say(f"written to {output}")


def local_model(config: RunConfig, model: str) -> LocalModel:
    """A model, in the number format that the config asks for or that is fastest here."""
    name = config.format_name
    chosen = fastest_format() if name == "auto" else NumberFormat(getattr(torch, name), "as asked for")
    tell(str(chosen))
    revision = config.model_revision if model == config.model else None
    loaded, tokenizer = get_model(model, revision, chosen.dtype, config.attn_implementation)
    loaded.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
    return LocalModel(loaded, tokenizer)


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


def _origins(text: str | None, behind_endpoint: bool) -> tuple[Origin, ...]:
    if text is None:
        return ("sampled",) if behind_endpoint else ("sampled", "begun")
    names = {name.strip() for name in text.split(",") if name.strip()}
    if not names or (unknown := sorted(names - set(ORIGINS))):
        told = f"{one_line(unknown[0])!r} is none" if names else "names none"
        raise UserError(f"--origins: {told}; there are {', '.join(ORIGINS)}")
    if behind_endpoint and "begun" in names:
        raise UserError("--origins: begun answers need a model on this machine; leave --endpoint or begun out")
    return tuple(origin for origin in ORIGINS if origin in names)
