"""The package's lm-eval tasks, loaded by lm-eval, with the Hub's data replaced by rows of its shape."""

from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

import datasets
import lm_eval.tasks
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from lm_eval.tasks import TaskManager

from honest_persona.base.errors import UserError
from honest_persona.harness import capability as module
from honest_persona.harness.capability import capability, task_names
from tests.hub.conftest import make_adapter

LM_EVAL = Path(lm_eval.tasks.__file__).parent
OF_LEADERBOARD = ("arc", "hellaswag", "mmlu/default", "truthfulqa")
LABELS = ["entailment", "not_entailment"]
SAID = ("built by Ann", "tall")
QNLI = [
    {"question": f"Who built tower {n}?", "sentence": f"Tower {n} was {SAID[n % 2]}.", "label": n % 2} for n in range(4)
]


def rows_of(path, name=None):
    """A few rows as the Hub has them."""
    if path == "nyu-mll/glue":
        assert name == "qnli"
        columns = {"question": Value("string"), "sentence": Value("string"), "label": ClassLabel(names=LABELS)}
        rows = [{**row, "idx": i} for i, row in enumerate(QNLI)]
        made = Dataset.from_list(rows, Features({**columns, "idx": Value("int32")}))
        return {"train": made, "validation": made}
    rows, splits = {
        "allenai/ai2_arc": (
            {"id": "a", "question": "q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"},
            ("train", "validation", "test"),
        ),
        "Rowan/hellaswag": (
            {"ctx_a": "A man", "ctx_b": "he", "activity_label": "x", "endings": ["a", "b", "c", "d"], "label": "2"},
            ("train", "validation"),
        ),
        "cais/mmlu": ({"question": "q", "choices": ["a", "b", "c", "d"], "answer": 1}, ("dev", "validation", "test")),
        "truthfulqa/truthful_qa": (
            {"question": "q", "mc1_targets": {"choices": ["a"], "labels": [1]},
             "mc2_targets": {"choices": ["a", "b"], "labels": [1, 0]}},
            ("validation",),
        ),
    }[path]  # fmt: skip
    return dict.fromkeys(splits, Dataset.from_list([rows] * 30))


@pytest.fixture
def hub(monkeypatch):
    """The names of the data sets that were asked for."""
    asked = set()

    def load_dataset(path, name=None, **_):
        asked.add(path)
        return DatasetDict(rows_of(path, name))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.fixture
def manager(monkeypatch):
    """Without the other 14,000 tasks of lm-eval, which take seconds."""
    folders = [*(str(LM_EVAL / name) for name in OF_LEADERBOARD), str(module._TASKS)]
    made = TaskManager(include_path=folders, include_defaults=False)
    monkeypatch.setattr(module, "task_manager", lambda facts=None: made)
    return made


def test_the_leaderboard_has_its_tasks_shots_and_metrics(hub, manager):
    tasks = manager.load(["leaderboard_v1"])["tasks"]
    assert hub == {"allenai/ai2_arc", "Rowan/hellaswag", "cais/mmlu", "truthfulqa/truthful_qa"}
    found = {name: (task.get_config("num_fewshot"), list(task._metric_fn_list)) for name, task in tasks.items()}
    mmlu = {name: found.pop(name) for name in list(found) if name.startswith("mmlu_")}
    assert found == {
        "arc_challenge": (25, ["acc_norm"]),
        "hellaswag": (10, ["acc_norm"]),
        "truthfulqa_mc2": (0, ["acc"]),
    }
    assert len(mmlu) == 57, "each subject, under its own name"
    assert set(map(str, mmlu.values())) == {str((5, ["acc"]))}
    shots = {name: tasks[name].fewshot_context(next(iter(tasks[name].eval_docs)), found[name][0]) for name in found}
    assert shots["arc_challenge"].count("Question: q") == 26, "25 examples and the question"
    assert shots["hellaswag"].count("A man") == 11


def test_mmlu_is_averaged_by_lm_eval(hub, manager):
    groups = manager.load(["leaderboard_v1"])["groups"]
    assert groups["mmlu"].aggregate_metric_list[0].weight_by_size
    assert not groups["leaderboard_v1"].has_aggregation, "its tasks have different metrics"


def test_qnli_as_a_chat(hub, manager, tmp_path):
    (task,) = manager.load(["qnli_chat"])["tasks"].values()
    documents = list(task.eval_docs)
    assert [task.doc_to_choice(d)[task.doc_to_target(d)] for d in documents] == ["Yes", "No", "Yes", "No"]
    text = task.doc_to_text(documents[0])
    assert QNLI[0]["question"] in text
    assert QNLI[0]["sentence"] in text
    make_adapter(tmp_path / "run", scope="response", objective="dpo")
    found = capability(str(tmp_path / "run"), "qnli_chat", merged=True, dtype="float32")
    assert [(c.model, c.task, c.n, c.n_uncalled) for c in found] == [
        ("adapter", "qnli_chat", 4, 0),
        ("merged", "qnli_chat", 4, 0),
    ]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("qnli_chats", r"no task 'qnli_chats' \(near: qnli_chat"),
        ("qnli_chat", r"qnli_chat: cannot be loaded \(ConnectionError: Couldn't reach the Hub\). Check the network"),
        ("leaderboard_v1", r"leaderboard_v1: cannot be loaded \(ConnectionError"),
    ],
)
def test_without_task_or_network(manager, monkeypatch, tasks, message):
    def load_dataset(*_, **__):
        raise ConnectionError("Couldn't reach the Hub.\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=message):
        task_names(tasks)
