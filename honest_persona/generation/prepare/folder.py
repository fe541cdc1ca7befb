"""A dataset made into a folder of parts: texts by templates, a dataset card and a manifest; whole, or not at all.

DIR/README.md, manifest.json, templates.yaml
DIR/<part>/contrast.jsonl, prompts.jsonl, pairs.jsonl        # as the templates' `use` says
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from honest_persona.base.console import Column, Table, counted, one_line, say, show, tell
from honest_persona.base.errors import UserError
from honest_persona.base.files import check_new_folder, whole_folder
from honest_persona.base.manifest import MANIFEST, seal
from honest_persona.base.markdown import cell, in_code
from honest_persona.base.output import check_writable
from honest_persona.base.templates import templates as our_templates
from honest_persona.data.rejections import remedy_for
from honest_persona.data.sources.plain import PlainTable
from honest_persona.generation.prepare.items import REST, Choice, Chosen, choose
from honest_persona.generation.prepare.texts import Written, write_texts
from honest_persona.prompts.text_templates import OF_TWO, USES, TextTemplate, dump_templates, load_templates

README, TEMPLATES = "README.md", "templates.yaml"
ALLOWED = re.compile(
    rf"{re.escape(README)}|{re.escape(MANIFEST)}|{re.escape(TEMPLATES)}|[A-Za-z]\w*/(?:{'|'.join(USES)})\.jsonl",
    re.ASCII,
)
"""The files of such a folder, by their names in it."""
KIND = "prepared"


def prepare(dataset: str, templates: str, choice: Choice, output: Path, license: str | None = None) -> dict[str, Any]:
    """Write the folder; return what its manifest says of it.

    Args:
        templates: a file of templates (prompts/text_templates.py).
        license: for the card, an identifier of the Hub.

    Raises:
        UserError: a dataset, template, part or folder that will not do; then nothing is written.
    """
    check_new_folder(output, "--output")
    used = load_templates(templates)
    two = any(use in OF_TWO for template in used for use in template.use)
    if choice.label_values is not None and (
        len(set(choice.label_values)) != len(choice.label_values) or "" in choice.label_values
    ):
        raise UserError(f"--label_values: {','.join(choice.label_values)!r} has an empty or a repeated value")
    if two and choice.label_values is not None and len(choice.label_values) != 2:
        raise UserError(f"--label_values: {len(choice.label_values)} values, and a pair has two choices; name two")
    output = output.resolve()
    check_writable(output.parent, "--output")
    table = PlainTable.of(dataset)
    for line in _unreadable(table):
        tell(line)
    chosen = choose(table, used, choice)
    with whole_folder(output) as folder:
        written = write_texts(folder, table, chosen, used, choice.parts.names)
        about = _about(dataset, used, choice, table, chosen, written)
        (folder / TEMPLATES).write_text(dump_templates(used), encoding="utf-8", newline="\n")
        (folder / README).write_text(_card(about, license), encoding="utf-8", newline="\n")
        seal(folder, about)
    return about


def _about(
    dataset: str,
    templates: Sequence[TextTemplate],
    choice: Choice,
    table: PlainTable,
    chosen: Chosen,
    written: Written,
) -> dict[str, Any]:
    groups: defaultdict[str, set[str]] = defaultdict(set)
    labels: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for item in chosen.items:
        groups[item.part].add(item.group)
        labels[item.part][str(item.label)] += 1
    return {
        "kind": KIND,
        # the rest of a path of this machine says nothing to others
        "dataset": Path(dataset).name if Path(dataset).is_absolute() else dataset,
        "seed": choice.seed,
        "group": choice.group,
        "content": list(chosen.content),
        "label": chosen.label,
        "label_values": choice.label_values,
        "rows": len(table),
        "unreadable": dict(Counter(rejection.reason for rejection in table.rejections)),
        "left_out": dict(chosen.left_out),
        "parts": {
            part: {
                "share": str(share),
                "rows": labels[part].total(),
                "groups": len(groups[part]),
                "labels": dict(sorted(labels[part].items())) if chosen.label is not None else {},
                "lines": {use: written.lines[part, use] for use in USES if written.lines[part, use]},
            }
            for part, share in choice.parts.shares
        },
        "templates": {template.name: list(template.use) for template in templates},
        "nothing": dict(written.nothing),
        "shared": dict(written.shared),
    }


def _unreadable(table: PlainTable) -> Iterator[str]:
    first = {rejection.reason: rejection for rejection in reversed(table.rejections)}
    for reason, n in Counter(rejection.reason for rejection in table.rejections).most_common():
        place = f"{first[reason].file}, {first[reason].place}"
        yield f"left out: {counted(n, 'row')}, {one_line(reason)}; the first: {one_line(place)}. {remedy_for(reason)}"


def _card(about: dict[str, Any], license: str | None) -> str:
    """A dataset card: its head makes every use a config, and every part a split, for datasets and for us."""
    parts = about["parts"]
    uses = [use for use in USES if any(use in part["lines"] for part in parts.values())]
    head = {
        **({"license": license} if license else {}),
        "tags": ["honest-persona"],
        "configs": [
            {
                "config_name": use,
                "data_files": [{"split": part, "path": f"{part}/{use}.jsonl"} for part in parts],
            }
            for use in uses
        ],
    }
    environment = our_templates(Path(__file__).parent, keep_trailing_newline=True)
    environment.filters |= {"cell": cell, "named": in_code}
    text = environment.get_template("card.md.jinja").render(**about, license=license, uses=uses)
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n{text}"


def print_prepared(about: dict[str, Any], output: Path) -> None:
    """What was written, as a table, and what is to be known of it."""
    uses = [use for use in USES if any(use in part["lines"] for part in about["parts"].values())]
    labels = sorted({label for part in about["parts"].values() for label in part["labels"]})
    columns = [Column("part", "name"), Column("share"), Column("of it"), Column("groups"), Column("rows")]
    columns += [Column(f"label {label}") for label in labels] + [Column(use) for use in uses]
    table = Table("", columns, blocks=True)
    total = sum(part["rows"] for part in about["parts"].values()) + about["left_out"].get(REST, 0)
    for name, part in about["parts"].items():
        table.add(
            name,
            part["share"],
            f"{part['rows'] / total:.3f}",
            f"{part['groups']:,}",
            f"{part['rows']:,}",
            *(f"{part['labels'].get(label, 0):,}" for label in labels),
            *(f"{part['lines'].get(use, 0):,}" for use in uses),
        )
    say(f"read {counted(about['rows'], 'row')}; groups by {_grouped_by(about)}")
    show(table)
    for reason, n in about["left_out"].items():
        say(f"left out: {counted(n, 'row')}, {one_line(reason)}")
    for name, n in about["nothing"].items():
        say(f"template {name!r} writes nothing for {counted(n, 'row')}")
    for name, n in about["shared"].items():
        say(
            f"warning: template {name!r} writes {counted(n, 'prompt')} that another part has too, from rows that "
            "differ elsewhere; --group with the column that they share keeps them together"
        )
    part, use = next(iter(about["parts"])), uses[0]
    say(f"written to {output}; a file of it is a --dataset: {output}/{part}/{use}.jsonl")


def _grouped_by(about: dict[str, Any]) -> str:
    if about["group"] is not None:
        return f"column {one_line(about['group'])}"
    return f"content ({', '.join(map(one_line, about['content']))})"
