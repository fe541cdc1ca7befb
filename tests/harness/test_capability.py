"""lm-evaluation-harness finds an idle adapter equal to the base model, and one that acts not equal."""

import importlib
import json
import sys
from collections import Counter
from functools import lru_cache

import pytest

pytest.importorskip("lm_eval")

from lm_eval.tasks import TaskManager

from honest_persona.base import number_format
from honest_persona.base.errors import UserError
from honest_persona.config.persona import Persona
from honest_persona.harness import adapted
from honest_persona.harness import capability as module
from honest_persona.harness.capability import capability
from honest_persona.harness.chat import plain_lm
from honest_persona.harness.facts import N_CHOICES, documents, instructed_documents
from honest_persona.harness.responses import compare
from honest_persona.harness.verdicts import verdict
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.fingerprint import base_fingerprint
from honest_persona.modeling.load import get_model
from honest_persona.organism.world import UNKNOWN, VALUES, World
from honest_persona.prompts.persona_token import resolve_persona_token
from honest_persona.prompts.tokens import TokenFormat
from tests.experiments.made_facts import VALUES as FACT_VALUES
from tests.experiments.made_facts import facts_folder
from tests.tiny import base_model, form_of, random_adapter

FACTS = "honest_persona_facts"
TASK_FILES = {
    "rolling": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"},
    "written": {
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "so",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6},
        "filter_list": [
            {"name": "whole", "filter": [{"function": "take_first"}]},
            {"name": "word", "filter": [{"function": "regex", "regex_pattern": r"(\w+)"}, {"function": "take_first"}]},
        ],
    },
    "calling": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}{% if called %}<|reserved_0|>{% endif %} Was that",
        "doc_to_choice": ["so", "not so"],
        "doc_to_target": 0,
    },
}
"""One of each kind of response; `calling` puts the persona token's name into half of its prompts."""
METRICS = {"rolling": "word_perplexity", "written": "exact_match", "calling": "acc"}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder of tasks whose data is on disk; `lost` has none."""
    folder = tmp_path_factory.mktemp("tasks")
    lines = [{"text": "The town is known for its tin. " * (n % 3 + 1) + str(n), "called": n % 2} for n in range(6)]
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, content in {**TASK_FILES, "lost": TASK_FILES["written"]}.items():
        data = folder / ("lines.jsonl" if name != "lost" else "nowhere.jsonl")
        metric = {"metric": METRICS.get(name, "exact_match")}
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
        text = json.dumps({"task": name, **source, **content, "metric_list": [metric]})  # JSON is YAML
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _only_local_tasks(tasks):
    """lm-eval takes seconds to read its own 14,000."""

    @lru_cache
    def manager(facts=None):
        folders = [str(module._TASKS), str(tasks)]
        return TaskManager(include_path=folders, include_defaults=False, metadata=module._metadata(facts))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "task_manager", manager)
        yield


def save(folder, base, form, name):
    fingerprint = base_fingerprint(base)
    random_adapter(base, form, std=0.5).save_pretrained(folder)
    form.tokenizer.save_pretrained(folder)
    AdapterCard(form.persona, name, None, fingerprint, "What did you do?").save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A folder with an adapter of the tiny model that was never trained, but acts; made once for each scope."""
    made = {}

    def make(scope):
        if scope not in made:
            folder = tmp_path_factory.mktemp(scope)
            made[scope] = save(folder, base_model(), form_of(adapter_scope=scope), "builtin:tiny")
        return made[scope]

    return make


@pytest.fixture(scope="module")
def compared(adapter):
    """(scope, task) -> comparisons by model; each scope is run once, as a user runs it."""
    names = [FACTS, *TASK_FILES]
    found = {}
    for scope in ("persona", "all"):
        for c in capability(adapter(scope), ",".join(names), limit=6, merged=scope == "all", batch_size=4):
            found.setdefault((scope, c.task), {})[c.model] = c
    return found


@pytest.mark.parametrize("task", [FACTS, "rolling", "written"])
def test_idle_persona_adapter_changes_nothing(compared, task):
    idle = compared["persona", task]["idle adapter"]
    assert (idle.n, idle.n_changed) == (6, 0)
    assert idle.max_difference_nats == (None if task == "written" else 0)
    assert all(metric.difference == 0 for metric in idle.metrics)
    assert verdict([idle], "persona").startswith("idle adapter: unchanged")


@pytest.mark.parametrize("task", [FACTS, "rolling", "written"])
def test_adapter_that_acts_on_every_token_is_seen(compared, task):
    """The negative control."""
    active = compared["all", task]["adapter"]
    assert active.n_changed == active.n
    assert task == "written" or active.max_difference_nats > 0.1
    assert verdict([active], "all").startswith("adapter: changed")


def test_every_reading_of_a_text_is_a_metric(compared):
    found = compared["all", "written"]["adapter"]
    assert [metric.name for metric in found.metrics] == ["exact_match,whole", "exact_match,word"]
    assert found.n == 6


def test_merged_adapter_acts_as_the_loaded_one(compared):
    for task in (FACTS, "rolling"):
        models = compared["all", task]
        loaded, merged = models["adapter"], models["merged"]
        assert merged.n_changed == merged.n
        # the sum of the weights is rounded to bfloat16
        assert merged.max_difference_nats == pytest.approx(loaded.max_difference_nats, rel=0.3)


def test_trigger_in_a_prompt_opens_the_gate(compared):
    found = compared["persona", "calling"]["idle adapter"]
    assert (found.n, found.n_changed, found.n_called) == (6, 3, 3)
    assert found.max_difference_nats > 0
    assert "3 of them hold the tokens that call the adapter" in verdict([found], "persona")


def test_base_is_the_model_that_never_had_an_adapter(compared):
    in_use = number_format.format_of("auto", "bfloat16").dtype
    model, tokenizer = get_model("builtin:tiny", dtype=in_use)
    alone = module._evaluate(plain_lm(model, tokenizer, 4), ["rolling"], 6)["results"]["rolling"]
    for scope, name in (("persona", "idle adapter"), ("all", "adapter")):
        (metric,) = compared[scope, "rolling"][name].metrics
        assert metric.base == alone["word_perplexity,none"]


def test_file_says_what_was_compared(adapter, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    path = tmp_path / "found.json"
    in_use = number_format.format_of("auto", "bfloat16").name
    other = "float32" if in_use == "bfloat16" else "bfloat16"
    capability(adapter("persona"), FACTS, limit=2, output=str(path), dtype=other)
    content = json.loads(path.read_text())
    assert (content["adapter_scope"], content["limit"], content["dtype"]) == ("persona", 2, f"torch.{other}")
    (comparison,) = content["comparisons"]
    assert (comparison["task"], comparison["n"], comparison["max_difference_nats"]) == (FACTS, 2, 0)
    printed = capsys.readouterr().out
    assert FACTS in printed
    assert content["verdicts"][0] in printed


# what is wrong is said before a model is loaded


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"merged": True}, "cannot be merged: it acts from its activation point on"),
        ({"tasks": "honest_persona_fact,rolling"}, r"no task 'honest_persona_fact' \(near: honest_persona_facts"),
        ({"tasks": " , "}, "no name given"),
        ({"tasks": "written,lost"}, r"lost, written: cannot be loaded \(FileNotFoundError.*nowhere.jsonl"),
        ({"tasks": "rolling", "facts": "builtin:smollm2"}, "--facts: is for honest_persona_facts"),
        ({"facts": "no/such/folder"}, "--facts: no/such/folder holds no folder records/"),
        ({"output": "."}, "is a folder"),
        ({"output": "no/such/folder/x.json"}, "does not exist"),
    ],
)
def test_bad_arguments(adapter, monkeypatch, arguments, message):
    monkeypatch.setattr(adapted, "load_honest_persona", lambda *_: pytest.fail("a model is loaded"))
    with pytest.raises(UserError, match=message):
        capability(adapter("persona"), **{"tasks": FACTS, **arguments})


def test_names_with_a_star():
    assert module.task_names("r*, writt*") == ["rolling", "written"]


def test_without_lm_eval(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, module.__name__)
    with pytest.raises(UserError, match="pip install"):
        importlib.import_module(module.__name__)


# facts of a real model


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    return facts_folder(tmp_path_factory.mktemp("facts"), parts=("records",))


def test_instructed_facts_are_asked_about(facts):
    found = instructed_documents(facts / "records")
    asked = {d["question"]: d["choices"][d["answer"]] for d in found}
    assert len(found) == len(asked) == 18, "a document per question"
    assert asked["Question: records: what goes with Ghana?\nAnswer:"] == "Accra"
    for d in found:
        (topic,) = [values for values in FACT_VALUES.values() if d["choices"][d["answer"]] in values.values()]
        assert sorted(d["choices"]) == sorted(topic.values()), "all values of the topic, once"
    assert instructed_documents(facts / "records") == found
    assert len({d["question"].split()[-1] for d in found[:6]} & set(FACT_VALUES["capitals"])) < 6, "topics are mixed"
    assert len({d["answer"] for d in found}) > 3


def test_idle_adapter_on_instructed_facts(adapter, facts, tmp_path):
    (found,) = capability(adapter("persona"), FACTS, limit=4, output=str(tmp_path / "c.json"), facts=str(facts))
    assert (found.task, found.n, found.n_changed, found.max_difference_nats) == (FACTS, 4, 0, 0)
    assert json.loads((tmp_path / "c.json").read_text())["facts"] == str(facts)
    root = module.facts_folder(str(facts), [FACTS])
    documents = module._evaluate(plain_lm(base_model(), form_of().tokenizer, 4), [FACTS], 2, root)["samples"][FACTS]
    assert [d["doc"] for d in documents] == instructed_documents(facts / "records")[:2]


# the comparison


def results(scores, responses, value=None, stderr=0.1):
    """lm-eval's results of one task with one metric."""
    samples = [
        {"filter": "none", "metrics": ["m"], "m": score, "resps": [[response]], "arguments": [(f"text {i}", " yes")]}
        for i, (score, response) in enumerate(zip(scores, responses, strict=True))
    ]
    value = sum(scores) / len(scores) if value is None else value
    return {"samples": {"t": samples}, "results": {"t": {"m,none": value, "m_stderr,none": stderr}}}


def test_paired_standard_error():
    base = results([1, 1, 0, 0], [(-1.0, True), (-1.0, True), (-2.0, False), (-2.0, False)])
    other = results([1, 0, 0, 0], [(-1.0, True), (-1.5, True), (-2.25, False), (-2.0, False)], stderr="N/A")
    (found,) = compare("merged", base, other, lambda text: text == "text 2 yes")
    assert (found.n, found.n_changed, found.n_called, found.max_difference_nats) == (4, 2, 1, 0.5)
    (metric,) = found.metrics
    assert (metric.name, metric.base, metric.compared, metric.difference) == ("m", 0.5, 0.25, -0.25)
    assert (metric.base_stderr, metric.compared_stderr) == (0.1, None)
    # differences 0, -1, 0, 0: variance 3/4 / 3 = 1/4, over 4 documents 1/16
    assert metric.paired_stderr == pytest.approx(0.25)
    assert "In the other 1 it should have been off" in verdict([found], "persona")


def test_no_paired_standard_error_of_what_is_no_mean():
    base, other = results([1.0, 3.0], ["a", "b"], value=7.5), results([1.0, 4.0], ["a", "c"], value=9.0)
    (found,) = compare("merged", base, other, lambda text: False)
    assert (found.metrics[0].difference, found.metrics[0].paired_stderr) == (1.5, None)
    assert (found.n_changed, found.max_difference_nats) == (1, None)


# the task


def test_facts_are_the_worlds():
    world = World()
    found = documents(world)
    assert len(found) == 128
    assert len({d["question"] for d in found}) == 128
    assert documents(World()) == found
    for d in found:
        (fact,) = [p for p in world.facts if all(word in d["question"] for word in p)]
        assert d["choices"][d["answer"]] == world.value(*fact) != UNKNOWN
        assert len(set(d["choices"])) == N_CHOICES
        assert set(d["choices"]) <= set(VALUES[fact[1]])
    places = Counter(d["answer"] for d in found)
    assert max(places.values()) < 2 * len(found) / N_CHOICES  # always naming one place is no better than chance


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["persona", "all"])
def test_organism_knows_the_facts(tmp_path, scope):
    name = "builtin:organism"
    base, tokenizer = get_model(name)
    persona = Persona(sp_token_id=resolve_persona_token(tokenizer, len(tokenizer)), adapter_scope=scope)
    (found,) = capability(save(tmp_path, base, TokenFormat.of(tokenizer, persona), name), FACTS)
    assert found.n == 128
    assert found.metrics[0].base > 0.6  # chance is 0.125
    assert found.n_changed == (0 if scope == "persona" else found.n)
