"""`python -m honest_persona VERB ...`: look at the data and the tokens of a run, and use a trained honest persona.

    python -m honest_persona data --config hp.yaml --train_topics '[reward_hacks]'
    python -m honest_persona tokens --config hp.yaml --n 1
    python -m honest_persona review --adapter checkpoints/my-run --input conversations.jsonl

`VERB --help` shows the arguments of a verb.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from honest_persona.environment import load_environment
from honest_persona.errors import UserError

if TYPE_CHECKING:
    from honest_persona.data.tokens import TokenFormat

# A new verb is one function here, and one `_add_verb` with its arguments in `_parser`.
#
# The package's other modules are imported inside the verbs: torch and its libraries read the environment when they are
# imported, which must be after `load_environment`.

_ROLES = ("system", "user", "assistant")
_LINE_FIELDS = ("messages", "id", "intervention")


def main(argv: Sequence[str]) -> None:
    parser = _parser()
    args, overrides = parser.parse_known_args(argv)
    if overrides and not args.takes_config:
        parser.error(f"{args.verb}: unknown arguments: {' '.join(overrides)}")
    load_environment()
    try:
        args.run(args, overrides)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (`head`, `less`) has seen enough; nothing is left to flush at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def data(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Print what a config's data holds: what is kept, how it is split, and what is rejected and why."""
    from honest_persona.config import load_config
    from honest_persona.data.inventory import inventory, render
    from honest_persona.data.prepare import load_splits
    from honest_persona.data.sources import check_selection

    def check_names(values: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        # without the seed the check cannot ask whether records are left to train on: the counts will tell why not
        return check_selection({key: values[key] for key in values if key not in ("seed", "use_dummy_data")})

    config = load_config(args.config, overrides, checks=[check_names])
    counts = {"dataset": config.dataset, **inventory(*load_splits(config))}
    print(json.dumps(counts) if args.json else render(counts, width=_width()), end="\n" if args.json else "")


def tokens(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Print training rows token by token, as the collator gets them."""
    from rich.console import Console

    from honest_persona.config import load_config
    from honest_persona.data import show
    from honest_persona.data.prepare import prepare
    from honest_persona.data.sources import check_selection
    from honest_persona.training.launch import token_format

    config = load_config(args.config, overrides, checks=[check_selection])
    # the choice of fewer samples is a part of the choice of more, so these are rows that the run trains on
    n = args.n if config.num_samples is None else min(args.n, config.num_samples)
    form = token_format(config)
    material = prepare(config.model_copy(update={"num_samples": n}), form)
    if material.too_long:
        print(f"left out as longer than seq_len {config.seq_len}: {', '.join(material.too_long)}", file=sys.stderr)
    if args.json:
        for row in material.rows:
            print(json.dumps(show.as_json(row)))
        return
    console = Console(width=_width(), highlight=False)
    console.print(show.legend(), "")
    for row in material.rows:
        console.print(show.render(row, form))


def keys(args: argparse.Namespace, _: Sequence[str]) -> None:
    """Print every key of the config with its default and meaning, as a Markdown table (docs/config.md)."""
    from honest_persona.config_fields import keys_table

    print(keys_table())


def organism(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Measure the honest persona on the embedded model organism, beside the controls that must fail."""
    from honest_persona.config import load_config
    from honest_persona.data.sources import check_selection
    from honest_persona.organism.report import TRAINED, report

    if unknown := set(filter(None, args.only.split(","))) - set(TRAINED):
        raise UserError(f"--only: {', '.join(sorted(unknown))} is no condition; there are {', '.join(TRAINED)}")
    config = load_config(args.config, overrides, checks=[check_selection])
    report(config, seeds=args.seeds, per_topic=args.per_topic, output=Path(args.output), only=args.only)


def review(args: argparse.Namespace, _: Sequence[str]) -> None:
    """Review every conversation of a JSONL file; nothing is loaded or written before all lines are found sound."""
    from honest_persona.data.tokens import TokenFormat
    from honest_persona.evaluation.reviews import Review, load_honest_persona
    from honest_persona.modeling.adapter import AdapterCard
    from honest_persona.modeling.load import load_tokenizer

    if args.intervention is not None and (problems := list(_text_problems("--intervention", args.intervention))):
        raise UserError(problems[0])
    if args.output and (Path(args.output).is_dir() or not Path(args.output).absolute().parent.is_dir()):
        raise UserError(f"--output: {args.output} is a folder, or stands in one that does not exist; name a file")
    folder = Path(args.adapter)
    card = AdapterCard.load(folder)
    form = TokenFormat.of(load_tokenizer(str(folder)), card.persona)
    conversations = _read_conversations(Path(args.input), args.intervention or card.default_intervention, form)

    persona = load_honest_persona(folder)
    reviews: dict[int, Review] = {}
    for intervention in dict.fromkeys(c.intervention for c in conversations):
        chosen = [i for i, c in enumerate(conversations) if c.intervention == intervention]
        written = persona.reviews(
            [conversations[i].messages for i in chosen],
            intervention,
            max_new_tokens=args.max_new_tokens or card.config["max_new_tokens"],
            batch_size=args.batch_size or card.config["validation_batch_size"],
        )
        reviews |= zip(chosen, written, strict=True)
    lines = "".join(_review_line(c.id, reviews[i]) for i, c in enumerate(conversations))
    if args.output:
        Path(args.output).write_text(lines, encoding="utf-8", newline="\n")
    else:
        print(lines, end="")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m honest_persona",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    verb = _add_verb(verbs, data, "count a config's data by topic, variant, flag, model and reason", takes_config=True)
    verb.add_argument("--json", action="store_true", help="print one JSON object")

    verb = _add_verb(verbs, tokens, "show training records token by token", takes_config=True)
    verb.add_argument("--n", type=_positive, default=1, help="number of records (default: 1)")
    verb.add_argument("--json", action="store_true", help="print one JSON object per record")

    _add_verb(verbs, keys, "print every key of the config with its default and meaning")

    verb = _add_verb(verbs, organism, "measure on the embedded model organism, with controls", takes_config=True)
    verb.add_argument("action", choices=["report"])
    verb.add_argument("--seeds", type=_positive, default=3, help="runs of the default condition (default: 3)")
    verb.add_argument("--per_topic", type=_positive, default=208, help="held-out records per topic (default: 208)")
    verb.add_argument("--only", default="", help="conditions, separated by commas (default: all)")
    verb.add_argument("--output", default="results/organism", help="folder (default: results/organism)")

    verb = _add_verb(verbs, review, "let a trained honest persona review conversations")
    verb.add_argument("--adapter", required=True, help="a run's folder, or one of its checkpoints")
    verb.add_argument(
        "--input",
        required=True,
        help='JSON lines {"messages": [{"role", "content"}, ...]}, with "id" and "intervention" where wanted',
    )
    verb.add_argument("--intervention", help="trigger text of lines without their own (default: the adapter's)")
    verb.add_argument("--output", help="JSONL file to write (default: standard output)")
    verb.add_argument("--batch_size", type=_positive, help="conversations per batch (default: as in training)")
    verb.add_argument("--max_new_tokens", type=_positive, help="longest review in tokens (default: as in training)")
    return parser


def _add_verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]",
    run: Callable[[argparse.Namespace, Sequence[str]], None],
    summary: str,
    takes_config: bool = False,
) -> argparse.ArgumentParser:
    note = " Every key of the config is a flag too: --train_topics '[reward_hacks]'" if takes_config else ""
    verb = verbs.add_parser(run.__name__, help=summary, description=f"{run.__doc__}{note}", allow_abbrev=False)
    verb.set_defaults(run=run, takes_config=takes_config)
    if takes_config:
        verb.add_argument("--config", default="hp.yaml", help="a flat YAML or JSON file (default: hp.yaml)")
    return verb


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _width() -> int:
    return shutil.get_terminal_size((120, 24)).columns


@dataclass(frozen=True)
class _Conversation:
    """One line of `review`'s input."""

    id: str | int
    """The line's number where it gives none."""
    messages: list[dict[str, str]]
    intervention: str


def _review_line(conversation_id: str | int, review: Any) -> str:
    content = {"id": conversation_id, "text": review.text, "flag": review.flag, "p_fail": review.p_fail}
    return json.dumps({**content, "ending": str(review.ending)}) + "\n"


def _read_conversations(path: Path, default_intervention: str, form: "TokenFormat") -> list[_Conversation]:
    """Raises UserError: all bad lines in one message, with what the chat template cannot show."""
    from honest_persona.data.tokens import apply_intervention

    try:
        raw_lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise UserError(f"--input: {path} cannot be read: {error.strerror}") from error
    conversations: list[_Conversation] = []
    problems: list[str] = []
    for number, raw in enumerate(raw_lines, start=1):
        if not raw.strip():
            continue
        try:
            line = json.loads(raw.decode("utf-8"))
        except json.JSONDecodeError as error:
            found = [f"not valid JSON (column {error.colno}: {error.msg}); write one object per line"]
        except UnicodeDecodeError as error:
            found = [f"not UTF-8 text (byte {error.start}); save the file as UTF-8"]
        except RecursionError:
            found = ["nested too deep; write one flat object per line"]
        else:
            found = list(_line_problems(line))
        if not found:
            conversation = _Conversation(
                line.get("id", number), line["messages"], line.get("intervention", default_intervention)
            )
            try:
                apply_intervention(conversation.messages, conversation.intervention, form)
            except UserError as error:
                found = [str(error)]
            conversations.append(conversation)
        problems += [f"{path}:{number}: {problem}" for problem in found]
    if problems:
        raise UserError("\n".join([f"{len(problems)} problems in the conversations:", *problems][len(problems) == 1 :]))
    if not conversations:
        raise UserError(f'--input: {path} has no conversation; write lines such as {{"messages": [...]}}')
    return conversations


def _line_problems(line: Any) -> Iterator[str]:
    if not isinstance(line, dict):
        yield 'must be an object, as {"messages": [...]}'
        return
    for name in sorted(line.keys() - set(_LINE_FIELDS)):
        yield f"{name!r} is unknown; use {', '.join(_LINE_FIELDS)}"
    if "id" in line and (isinstance(line["id"], bool) or not isinstance(line["id"], str | int)):
        yield "id: must be text or a whole number; leave it out for the line's number"
    if "intervention" in line:
        yield from _text_problems("intervention", line["intervention"])
    messages = line.get("messages")
    if not isinstance(messages, list) or not messages:
        yield 'messages: must be a list with at least one {"role": ..., "content": ...}'
        return
    for i, message in enumerate(messages):
        place = f"messages[{i}]"
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            yield f"{place}: must be an object with role and content, and nothing else"
            continue
        if message["role"] not in _ROLES:
            yield f"{place}.role: {message['role']!r} is unknown; use {', '.join(_ROLES)}"
        elif message["role"] == "system" and i > 0:
            yield f"{place}.role: a system message can only come first; move it there"
        is_answer = i == len(messages) - 1
        yield from _text_problems(f"{place}.content", message["content"], may_be_empty=not is_answer)
        if is_answer and message["role"] in ("system", "user"):
            yield f"{place}.role: the last message must be the assistant's answer: that is what is reviewed; add it"


def _text_problems(place: str, value: Any, may_be_empty: bool = False) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{place}: must be text; put it in quotes, and join parts of a list into one text"
    elif not may_be_empty and not value.strip():
        yield f"{place}: is empty; write its text, or remove it"
    elif any("\ud800" <= c <= "\udfff" for c in value):
        yield f"{place}: holds lone surrogates (\\ud800 to \\udfff); replace them by real characters"
