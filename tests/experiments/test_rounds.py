"""Rounds of answers, rewards and trainings: killed and resumed, refused, ended early, and what they leave."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from honest_persona.base.errors import UserError
from honest_persona.base.words import WITHIN
from honest_persona.config.load import load_config
from honest_persona.data.check import load_run_config
from honest_persona.evaluation.answers.folder import AnswersFolder
from honest_persona.evaluation.answers.held_out import held_out_feedback, held_out_prompts
from honest_persona.evaluation.answers.jobs import jobs_of
from honest_persona.evaluation.answers.likelihood import likelihoods
from honest_persona.evaluation.answers.samples import BASE, TRAINED
from honest_persona.evaluation.answers.settings import AnswerSettings
from honest_persona.evaluation.audit.run_reward import ROUND_GATES, run_reward
from honest_persona.experiments import round_result, round_stages, rounds
from honest_persona.experiments.round_stages import AllTrue, of_training
from honest_persona.experiments.sweep import sweep
from honest_persona.experiments.train_any import train_any
from honest_persona.hub.answers_card import answers_context
from honest_persona.labelling import answer_file
from honest_persona.labelling.training_rows import rows_of_kind
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.modes import evaluating
from honest_persona.training import reward_gate
from honest_persona.training.launch import train
from honest_persona.training.resumable import ResumableRun

REWARDS = """
def right(conversations, rows):
    return [float(row["about"]["truth"] in said[-1]["content"]) for said, row in zip(conversations, rows)]


def constant(conversations, rows):
    return [1.0 for _ in rows]
"""
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "rewards.py"
    path.write_text(REWARDS)
    return path


@pytest.fixture(scope="module", autouse=True)
def _small_gate():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reward_gate, "MOST", 60)
        yield


@pytest.fixture(scope="module")
def config(file):
    given = {
        "model": "builtin:organism",
        "dataset": "builtin:organism-prompts",
        "validation_topics": "[reward_hacks]",
        "objective": "dpo",
        "system_tag": '"<SYSTEM> "',
        "bf16": "false",
        "lora_r": "4",
        "learning_rate": "1e-3",
        "batch_size": "16",
        "per_device_train_batch_size": "16",
        "max_steps": "2",
        "save_steps": "1",
        "activation_checkpointing": "false",
        "num_samples": "24",
        "num_generations": "2",
        "max_answer_tokens": "24",
        "validation_batch_size": "64",
        "val_samples_per_topic": "0",
        "run_name": "run",
        "rounds": "2",
    }

    def of(reward="right", **more):
        named = {"reward": f"[python:{file}:{reward}]", **given, **more}
        words = [word for key, value in named.items() if value is not None for word in (f"--{key}", value)]
        return load_config(None, words)

    return of


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The folder of a run that nobody disturbed."""
    return train_any(config(), tmp_path_factory.mktemp("whole"))


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_leaves_its_last_adapter_and_all_that_its_rounds_made(whole):
    assert (whole / WEIGHTS).read_bytes() == (whole / "rounds" / "2" / WEIGHTS).read_bytes()
    assert (whole / WEIGHTS).read_bytes() != (whole / "rounds" / "1" / WEIGHTS).read_bytes()
    for number in (1, 2):
        place = whole / "rounds" / str(number)
        samples, scored, rows = (lines_of(place / f"{name}.jsonl") for name in ("samples", "scored", "rows"))
        assert len(samples) == len(scored) == 48
        assert {line["split"] for line in samples} == {"train"}
        pairs = [row for row in rows if row["split"] == "train"]
        assert pairs
        assert all(row["margin"] == 1 and row["chosen"] != row["rejected"] for row in pairs)
        assert {line["model"] for line in samples} == {
            "builtin:organism" if number == 1 else str(whole / "rounds" / "1")
        }
        assert {row["topic"] for row in rows if row["split"] == "validation"} >= {"reward_hacks", "influence_seeking"}
    first, second = ({line["response"] for line in lines_of(whole / "rounds" / n / "samples.jsonl")} for n in "12")
    assert first != second
    card = AdapterCard.load(whole)
    assert (card.config["rounds"], card.config["dataset"], card.config["run_name"]) == (
        2,
        "builtin:organism-prompts",
        "run",
    )
    assert [gate["verdict"] for gate in card.config[ROUND_GATES]] == ["passed", "passed"]
    assert card.config["gate"]["judge"] == "organism"
    metrics = lines_of(whole / "metrics.jsonl")
    assert [(line["round"], line["step"]) for line in metrics if "loss" in line] == [(1, 1), (1, 2), (2, 3), (2, 4)]


def test_what_comes_after_a_run_finds_reward_and_prompts(whole, file):
    """An audit asks the card for the reward, an evaluation for the held-out prompts of the run's own data."""
    card = AdapterCard.load(whole)
    reward = run_reward(card, [f"python:{file}:right"])
    assert (reward.reads, reward.invalid, reward.weights) == ("base", -1.0, None)
    assert file.name in str(reward.settings), "the file by its content"
    trained = {line["prompt_id"] for line in lines_of(whole / "rounds" / "1" / "samples.jsonl")}
    held_out = held_out_prompts(card, card.config["dataset"])
    assert held_out
    assert not trained & {row.prompt_id for row in held_out}
    assert held_out_feedback(card, "builtin:organism-pairs", limit=4).parts["within"][0].kind == "pair"
    context = answers_context(card, [], {})
    assert context["settings"]["rounds"] == 2
    assert [line.partition(",")[0] for line in context["rounds"]] == [f"reward: by python:{file}:right"] * 2


def test_each_round_goes_on_with_the_adapter_before_and_with_the_first_reference(whole):
    cards = [AdapterCard.load(whole / "rounds" / n) for n in "12"]
    assert [card.config["adapter"] for card in cards] == [None, str(whole / "rounds" / "1")]
    assert [card.config["reference"] for card in cards] == ["base", "base"]
    assert len({card.base_fingerprint for card in cards}) == 1


def first_rewards(folder):
    """Of the first step, as its run logged them."""
    return next(line["chosen_reward"] for line in lines_of(folder / "metrics.jsonl") if "loss" in line)


def test_the_log_ratios_of_a_later_round_are_taken_against_the_model_before_the_first(whole):
    """At a round's first step the policy is the adapter of the round before: its log-ratio to the base is known."""
    of = AnswersFolder.read(whole / "rounds" / "1")
    model = of.load(torch.float32)
    pairs = load_config(None, ["--objective", "dpo", "--dataset", str(whole / "rounds" / "2" / "rows.jsonl")])
    rows = list(round_stages.load_feedback_parts(pairs)[1].views.train.rows)
    assert len(rows) <= 16, "all of them make the first step"
    jobs = jobs_of({WITHIN: rows}, of.form, 1, 2048).jobs
    with evaluating(model):
        found = likelihoods(model, jobs, of.form, AnswerSettings(64, 1), (TRAINED, BASE))
    ratios = [one[BASE].chosen_nll - one[TRAINED].chosen_nll for one in found]
    first = next(line for line in lines_of(whole / "rounds" / "2" / "metrics.jsonl") if "loss" in line)
    assert first["chosen_reward"] == pytest.approx(0.1 * sum(ratios) / len(ratios), abs=2e-5)
    assert abs(first["chosen_reward"]) > 1e-3, "negative control: the policy has moved"


def test_the_reference_of_a_round(config, tmp_path):
    def references(**keys):
        return [of_training(config(**keys), tmp_path, number).reference for number in (1, 2, 3)]

    assert references() == ["base"] * 3, "the policy before the first round has no adapter"
    assert references(adapter="start") == ["start"] * 3, "a path: the adapter that the run continues"
    assert references(rounds_reference="previous") == ["start"] * 3, "the word: the policy before the training"
    assert references(reference="base") == ["base"] * 3
    assert references(objective="sft") == [None] * 3
    adapters = [of_training(config(), tmp_path, number).adapter for number in (1, 2)]
    assert adapters == [None, str(tmp_path / "rounds" / "1")]


class Killed(BaseException):
    """What nothing catches, as no process catches SIGKILL."""


def killed(*_):
    raise Killed


def kill_at(patch, where, name, after):
    """Each call of `where.name` works (or not), and then all is over."""
    real = getattr(where, name)

    def last_call(*args, **kwargs):
        if after:
            real(*args, **kwargs)
        raise Killed(name)

    patch.setattr(where, name, last_call)


PLACES = [
    ("begun", rounds, "write", True),
    ("within the first answers", answer_file.os, "fsync", True),
    ("answered", round_stages, "label_answers", False),
    ("labelled", round_stages, "write_text", False),
    ("rows made", rounds, "train", False),
    ("in the training, after a checkpoint", ResumableRun, "_save_checkpoint", True),
    ("trained", rounds, "write_metrics", False),
    ("round noted", rounds, "write", True),
    ("while the result comes into place", round_result, "seal_folder", False),
]


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_adapter(whole, config, tmp_path, monkeypatch):
    died = []
    for i, (_, where, name, after) in enumerate(PLACES):
        with monkeypatch.context() as patch:
            kill_at(patch, where, name, after)
            try:
                train_any(config(resume="true" if i else "false"), tmp_path)
            except Killed as stop:
                died.append(stop.args[0])
    assert died == [name for *_, name, _ in PLACES]
    run = train_any(config(resume="true"), tmp_path)
    assert (run / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert (run / "rounds" / "1" / "rows.jsonl").read_bytes() == (whole / "rounds" / "1" / "rows.jsonl").read_bytes()
    mine, theirs = (lines_of(folder / "rounds" / "2" / "scored.jsonl") for folder in (run, whole))
    assert [line["response"] for line in mine] == [line["response"] for line in theirs]
    assert [line.get("loss") for line in lines_of(run / "metrics.jsonl")] == [
        line.get("loss") for line in lines_of(whole / "metrics.jsonl")
    ]


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path


@pytest.fixture
def one_round(copy):
    """The same of a run whose second round was not begun."""
    run = copy / "run"
    state = json.loads((run / "rounds.json").read_text())
    (run / "rounds.json").write_text(json.dumps({**state, "rounds": state["rounds"][:1]}))
    shutil.rmtree(run / "rounds" / "2")
    for path in run.iterdir():
        if path.is_file() and path.name not in ("rounds.json", "metrics.jsonl"):
            path.unlink()
    return copy


def test_a_finished_run_has_nothing_to_do(config, copy, capsys):
    before = (copy / "run" / WEIGHTS).read_bytes()
    assert train_any(config(resume="true"), copy) == copy / "run"
    assert "is finished, nothing to do: 2 of 2 rounds" in capsys.readouterr().out
    train_any(config(resume="true", rounds="1"), copy)
    assert (copy / "run" / WEIGHTS).read_bytes() == before
    with pytest.raises(UserError, match=r"already holds a run; continue it with --resume"):
        train_any(config(), copy)
    plain = load_run_config(
        None, ["--objective", "dpo", "--dataset", "builtin:organism-pairs", "--run_name", "run", "--resume"]
    )
    with pytest.raises(UserError, match=r"holds a run with rounds; continue it with --rounds N --resume"):
        train(plain, copy)
    with pytest.raises(UserError, match=r"no run with rounds"):
        train_any(config(resume="true", run_name="other"), copy)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": "7"}, r"seed: 42 there, 7 here"),
        ({"learning_rate": "1e-4"}, r"learning_rate: 0\.001 there, 0\.0001 here"),
        ({"rounds_reference": "previous"}, r'rounds_reference: "first" there, "previous" here'),
        (
            {"reward_invalid": "0", "num_samples": "25"},
            r"reward_invalid: -1\.0 there, 0\.0 here; num_samples: 24 there, 25 here",
        ),
    ],
)
def test_another_config_is_not_resumed(config, copy, changes, told):
    with pytest.raises(UserError, match=told):
        train_any(config(resume="true", rounds="3", **changes), copy)


def test_what_does_not_decide_what_is_learned_may_differ(config, copy):
    other = config(resume="true", per_device_train_batch_size="8", accept_weak_reward="true", save_steps="2")
    assert train_any(other, copy) == copy / "run"


def test_prompts_in_another_order_are_other_data(config, tmp_path, monkeypatch):
    rows = [
        {"prompt": f"Is door {i} open?", "group": f"g{i}", "topic": "doors", "about": {"truth": str(i)}}
        for i in range(40)
    ]
    data = tmp_path / "prompts.jsonl"
    own = {"dataset": str(data), "validation_topics": "[]", "judge": "none", "accept_weak_reward": "true"}
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(rounds, "_run", killed)
    with pytest.raises(Killed):
        train_any(config(**own, num_samples=None), tmp_path)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows[::-1]))
    with pytest.raises(UserError, match=r'belongs to another run: data: "\w+\.* there, '):
        train_any(config(**own, num_samples=None, resume="true"), tmp_path)


def without(key):
    return lambda state: {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda state: {**state, "format": 9}, r"another format"),
        (without("config"), r"config: Field required"),
        (lambda state: {**state, "config": []}, r"config: Input should be an object"),
        (lambda state: {**state, "rounds": state["rounds"][1:]}, r"its rounds are not 1, 2"),
        (lambda state: {**state, "rounds": state["rounds"] * 2}, r"its rounds are not 1, 2"),
        (lambda state: {**state, "rounds": [{**state["rounds"][0], "steps": "two"}]}, r"steps: .* valid integer"),
        (lambda state: {**state, "rounds": [{**state["rounds"][0], "adapter": "0"}]}, r"not the one that round 1"),
        (lambda state: {**state, "config": {}}, r"belongs to another run"),
    ],
)
def test_an_edited_state_is_told(config, copy, edit, told):
    path = copy / "run" / "rounds.json"
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    before = (copy / "run" / WEIGHTS).read_bytes()
    with pytest.raises(UserError, match=told):
        train_any(config(resume="true", rounds="3"), copy)
    assert (copy / "run" / WEIGHTS).read_bytes() == before


def test_edited_prompts_come_back_as_they_were(config, copy, monkeypatch):
    path = copy / "run" / "rounds" / "prompts.jsonl"
    before = path.read_bytes()
    path.write_bytes(before.splitlines(keepends=True)[0])
    monkeypatch.setattr(rounds, "_run", killed)
    with pytest.raises(Killed):
        train_any(config(resume="true", rounds="3"), copy)
    assert path.read_bytes() == before


def test_what_a_round_made_is_read_with_care(copy):
    run = copy / "run"
    made = run / "rounds" / "2" / "round.json"
    made.write_text(json.dumps(without("gate")(json.loads(made.read_text()))))
    with pytest.raises(UserError, match=r"round\.json: not what a round writes .* remove it to make the rows again"):
        round_stages.made_of(run, 2)
    (run / "rounds" / "1" / "rows.jsonl").write_text("")
    with pytest.raises(UserError, match=r"rows\.jsonl was changed since its round made it"):
        round_stages.made_of(run, 1)
    with (run / "rounds" / "2" / "metrics.jsonl").open("a") as file:
        file.write('{"loss": ')
    with pytest.raises(UserError, match=r"rounds/2/metrics\.jsonl: line \d+ is no line of a log"):
        round_result.write_metrics(run, 2, 2)


def test_an_adapter_that_was_exchanged_is_told(config, copy):
    shutil.copy(copy / "run" / "rounds" / "1" / WEIGHTS, copy / "run" / "rounds" / "2" / WEIGHTS)
    with pytest.raises(UserError, match=r"the adapter in .*rounds/2 is not the one that round 2 ended with"):
        train_any(config(resume="true", rounds="3"), copy)


def test_a_round_without_a_row_ends_and_the_round_before_can_be_the_last(config, one_round, monkeypatch):
    def none(scored, kind, config):
        return rows_of_kind(scored, kind, config)._replace(lines=[], reasons="all alike: 24")

    monkeypatch.setattr(round_stages, "rows_of_kind", none)
    monkeypatch.setattr(round_stages, "gate_figures", lambda *_, **__: figures("passed", 0.99))
    without = r"round 2: 48 scored answers in .* give no pair to train on \(all alike: 24\)"
    with pytest.raises(UserError, match=without) as told:
        train_any(config(resume="true"), one_round)
    assert "to end with it: --rounds 1 --resume" in str(told.value)
    run = train_any(config(rounds="1", resume="true"), one_round)
    assert (run / WEIGHTS).read_bytes() == (run / "rounds" / "1" / WEIGHTS).read_bytes()
    assert AdapterCard.load(run).config["rounds"] == 1
    assert train_any(config(rounds="1", resume="true"), one_round) == run, "nothing is left to do"


def test_labels_that_are_all_the_same_end_the_round(config, tmp_path, monkeypatch):
    monkeypatch.setattr(round_stages, "_gate", lambda *_: {"verdict": "not asked", "why": "a test"})
    with pytest.raises(UserError, match=r"round 1: 48 scored answers in .*: all 48 answers to train on are desirable"):
        train_any(config("constant", objective="kto"), tmp_path)
    scored = tmp_path / "run" / "rounds" / "1" / "scored.jsonl"
    with pytest.raises(UserError, match=r"48 scored answers in .* give no pair to train on \(.*: 24\)\. Raise temp"):
        round_stages._rows(config(), scored)
    assert len(round_stages._rows(config(objective="sft"), scored)[0]) == 48, "all of them are the best ones"


def test_a_model_that_writes_nothing_well_formed_is_told_at_the_gate(config, tmp_path):
    with pytest.raises(UserError, match=r"round 1: gate: the judge can read none of the held-out answers"):
        train_any(config(model="builtin:tiny", max_answer_tokens="2"), tmp_path)
    assert not list(tmp_path.rglob("checkpoint-*"))


def figures(verdict, auroc, n_false=9):
    return {"verdict": verdict, "auroc": [auroc, [0.3, 1.0]], "n": 60, "n_false": n_false, "reward": "right"}


@pytest.mark.parametrize(
    ("found", "accept", "refusal"),
    [
        (figures("passed", 0.99), "false", None),
        (figures("blind", 0.97, 3), "false", None),
        (figures("weak", 0.7), "false", r"does not tell this policy's true answers .* or set accept_weak_reward: true"),
        (figures("weak", 0.7), "true", None),
        (figures("blind", 0.4), "true", r"take another reward in a new run$"),
        (AllTrue("all 60 are true"), "false", None),
        (UserError("gate: all 60 held-out answers are false"), "false", r"are false"),
    ],
)
def test_a_later_gate_refuses_what_speaks_against_the_reward(config, tmp_path, monkeypatch, found, accept, refusal):
    def asked(config, place, judge, refuses):
        assert not refuses
        if isinstance(found, UserError):
            raise found
        return found

    monkeypatch.setattr(round_stages, "gate_figures", asked)
    settings = config(accept_weak_reward=accept)
    if refusal is None:
        gate = round_stages._gate(settings, tmp_path, 2, judge=object())
        assert gate == found or gate["why"].startswith("all held-out answers")
    else:
        with pytest.raises(UserError, match=refusal):
            round_stages._gate(settings, tmp_path, 2, judge=object())


def test_a_reward_that_is_refused_later_leaves_the_round_before(config, one_round, monkeypatch):
    monkeypatch.setattr(round_stages, "gate_figures", lambda *_, **__: figures("blind", 0.4))
    with pytest.raises(UserError, match=r"(?s)round 2: gate: .*The adapter of round 1 is whole in .*rounds/1"):
        train_any(config(resume="true"), one_round)
    AdapterCard.load(one_round / "run" / "rounds" / "1")
    state = json.loads((one_round / "run" / "rounds.json").read_text())
    assert [done["round"] for done in state["rounds"]] == [1]


def test_a_sweep_takes_no_rounds(config, tmp_path):
    with pytest.raises(UserError, match=r"--topic_matrix: .* trains answers; take --grid"):
        sweep(config(), "topic_matrix", output=tmp_path / "sweep")


def test_only_train_py_goes_through_rounds(config, tmp_path):
    with pytest.raises(UserError, match=r"rounds: train\.py alone goes through rounds, and here"):
        train(config(), tmp_path)
    assert not list(tmp_path.iterdir())
