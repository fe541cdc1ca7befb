"""Questions with given choices: their figures by hand, from plain forward passes, on one rank and on several."""

import math

import pytest

from honest_persona.base.errors import UserError
from honest_persona.config.ood import ood_entries
from honest_persona.data.choices.genies import GENIES
from honest_persona.data.choices.model_written import MODEL_WRITTEN
from honest_persona.data.choices.question import ChoiceSet
from honest_persona.data.choices.read import read_ood
from honest_persona.data.choices.truthful_qa import TRUTHFUL_QA
from honest_persona.evaluation import shares
from honest_persona.evaluation.answers import choices, suite
from honest_persona.evaluation.answers.choices import ask, figures
from honest_persona.evaluation.answers.likelihood import Likelihood
from honest_persona.evaluation.answers.samples import BASE, TRAINED, read_answers_file
from honest_persona.evaluation.answers.suite import evaluate_answers
from honest_persona.evaluation.sets import ANSWERS_FILE, NewSet
from honest_persona.prompts.kinds import Kind
from tests.data.choices.files import written
from tests.data.choices.test_caa import ROW as CAA
from tests.data.choices.test_model_written import WORDS
from tests.evaluation.answers.rows import SCOPES, model_and_form, pairs, settings
from tests.evaluation.answers.test_likelihood import log_prob
from tests.evaluation.ranks import Ranks

TARGETS = {"It is flat.": 0, "It is round, and more.": 1, "A ball.": 1, "It is a cube.": 0}
MC = {"question": "What form has it?", "mc1_targets": dict(list(TARGETS.items())[:2]), "mc2_targets": TARGETS}


def sets(folder, n=3):
    rows = [{"prompt": f"Is it safe?{' Well?' * i}", "responses": {"Yes.": 0, "I do not know.": 1}} for i in range(n)]
    files = {
        "genies": written(folder / "pairs.json", rows),
        "truthful_qa": written(folder / "mc.json", [MC]),
        "model_written": written(folder / "persona.jsonl", [WORDS]),
        "caa": written(folder / "letters.json", [CAA]),
    }
    return read_ood(ood_entries([f"{form}:{path}" for form, path in files.items()]))


def likelihoods_of(nats, tokens):
    return [Likelihood(-x, n, None) for x, n in zip(nats, tokens, strict=True)]


def question(form, row):
    return form.read(row)


def test_figures_by_hand():
    pair = question(GENIES, {"prompt": "?", "responses": {"a": 1, "b": 0, "c": 0}})
    found = figures(GENIES, pair, likelihoods_of([-4.0, -3.0, -9.0], [4, 2, 3]))
    assert found["accuracy"] is False, "-4 is less than -3"
    assert found["accuracy_per_token"] is True, "-1 a token is more than -1.5"
    assert (found["right_nll"], found["right_tokens"]) == (4.0, 4)
    assert "preference_gain" not in found
    beside = figures(
        GENIES, pair, likelihoods_of([-4.0, -3.0, -9.0], [4, 2, 3]), likelihoods_of([-5.0, -3.0, -9.0], [4, 2, 3])
    )
    assert beside["preference_gain"] == pytest.approx(1.0), "the right one has become likelier by 1 nat"
    tie = figures(GENIES, pair, likelihoods_of([-3.0, -3.0, -9.0], [1, 1, 1]))
    assert tie["accuracy"] is False, "equal is not likelier"

    several = question(TRUTHFUL_QA, MC)
    nats = {"It is flat.": -3.0, "It is round, and more.": -2.0, "A ball.": -5.0, "It is a cube.": -1.0}
    texts = [choice["content"] for choice in several.choices]
    found = figures(TRUTHFUL_QA, several, likelihoods_of([nats[text] for text in texts], [2] * 4))
    assert found["mc1"] is True, "the cube is not among mc1's choices"
    right, wrong = math.exp(-2) + math.exp(-5), math.exp(-3) + math.exp(-1)
    assert found["mc2"] == pytest.approx(right / (right + wrong))
    assert (found["right_nll"], found["right_tokens"]) == (7.0, 4)

    apart = {"question": "?", "mc1_targets": {"a": 1, "b": 0}, "mc2_targets": {"a": 1, "c": 0}}
    of = question(TRUTHFUL_QA, apart)
    at = {"a": -2.0, "b": -1.0, "c": -3.0}
    found = figures(TRUTHFUL_QA, of, likelihoods_of([at[choice["content"]] for choice in of.choices], [1] * 3))
    assert (found["mc1"], found["mc2"]) == (False, pytest.approx(1 / (1 + math.exp(-1)))), "each of its own list"

    behaviour = question(MODEL_WRITTEN, WORDS)
    found = figures(MODEL_WRITTEN, behaviour, likelihoods_of([-1.0, -3.0], [1, 1]))
    assert found["matching"] is True
    assert found["matching_probability"] == pytest.approx(1 / (1 + math.exp(-2)))
    assert "accuracy" not in found, "whether the behaviour is wanted is not asked"


@pytest.mark.parametrize("scope", SCOPES)
def test_likelihoods_are_those_of_a_forward_pass(tmp_path, scope):
    model, form = model_and_form(scope)
    asked = ask(sets(tmp_path), form, None)
    results = evaluate_answers(model, {}, form, settings(batch_size=3), asked=asked)
    samples = {(s.policy, s.part, s.record_id): s for s in results.samples}
    assert len(samples) == 2 * 6
    jobs = iter(asked.jobs)
    for part, _, of in asked.questions:
        for choice, text in enumerate(of.choices):
            job = next(jobs)
            for policy in (TRAINED, BASE):
                its = samples[policy, part, of.record_id].choices[choice]
                assert its["text"] == text["content"]
                assert its["nats"] == pytest.approx(log_prob(model, form, job, job.chosen, policy == BASE), abs=1e-3)
                assert its["tokens"] == len(job.chosen)
    row, base = results.row("ood/pairs"), results.row("ood/pairs", policy=BASE)
    assert (row.n, row.n_clusters) == (3, 3)
    assert {n for name, n in row.ns.items() if row.rates[name] is not None} == {3}
    assert row.changes["accuracy"].a == base.rates["accuracy"]
    assert row.rates["preference_gain"] is not None
    assert base.rates["preference_gain"] is None
    gains = [
        (1 if choice["right"] else -1) * (-1 if its.policy == BASE else 1) * choice["nats"] / 3
        for its in results.samples
        if its.part == "ood/pairs"
        for choice in its.choices
    ]
    assert row.rates["preference_gain"] == pytest.approx(sum(gains), abs=1e-9)
    assert abs(sum(gains)) > 1e-6, "the adapter does something"
    assert {r.topic for r in results.rows} == {"all"}, "files without topics have no row of their only topic"
    assert "ood/mc/all/mc1" in results.scalars()
    assert "ood/mc/all/accuracy" not in results.scalars()


def test_the_end_of_the_turn_is_an_answers_where_the_format_has_it_so(tmp_path):
    _, form = model_and_form()
    end = form.chat.end_token("assistant")
    by_part = {}
    for job in ask(sets(tmp_path), form, None).jobs:
        by_part.setdefault(job.part, set()).add(end in job.chosen)
    assert by_part == {"ood/pairs": {True}, "ood/mc": {False}, "ood/persona": {False}, "ood/letters": {False}}


def test_choices_that_a_tokenizer_does_not_tell_apart(tmp_path, monkeypatch):
    _, form = model_and_form()
    found = sets(tmp_path, n=1)[:1]
    monkeypatch.setattr(choices, "response_tokens", lambda *_: ([7, 8], [Kind.RESPONSE] * 2))
    with pytest.raises(
        UserError, match=r"ood/pairs: the question 'Is it safe\?': two of its choices have the same tokens"
    ):
        ask(found, form, None)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_give_what_one_gives(monkeypatch, tmp_path, world):
    _, form = model_and_form()
    found = ask(sets(tmp_path), form, None)

    def weigh(model, jobs, form, settings, policies):
        return [
            {p: Likelihood(float(sum(job.chosen) + (p == BASE)), len(job.chosen), None) for p in policies}
            for job in jobs
        ]

    monkeypatch.setattr(suite, "likelihoods", weigh)
    model, _ = model_and_form()

    def work():
        return evaluate_answers(model, {}, form, settings(batch_size=2), asked=found)

    alone = work()
    ranks = Ranks(world)
    ranks.patch(monkeypatch, suite, shares)
    assert ranks.run(work) == [alone] * world


def test_lines_are_read_back_beside_written_answers(tmp_path):
    model, form = model_and_form()
    asked = ask(sets(tmp_path), form, None)
    whole = evaluate_answers(model, {"within": pairs(2)}, form, settings(), asked=asked)
    new = NewSet("an id", tmp_path / "eval")
    lean = evaluate_answers(model, {"within": pairs(2)}, form, settings(), into=new, asked=asked)
    assert lean.rows == whole.rows
    assert read_answers_file(new.folder / ANSWERS_FILE) == whole.samples
    assert {sample.choices for sample in lean.samples} == {()}
    assert whole.row("within").rates["accuracy"] is None
    assert [r for r in whole.rows if r.part == "within"] == evaluate_answers(
        model, {"within": pairs(2)}, form, settings()
    ).rows, "questions with choices change nothing else"


def test_questions_that_are_too_long(tmp_path):
    _, form = model_and_form()
    found = sets(tmp_path, n=3)[:1]
    short = len(ask(found, form, None).jobs[0].prompt) + 20
    asked = ask(found, form, short)
    assert (asked.too_long, asked.parts) == ({}, {"ood/pairs": 3})
    most = max(len(job.prompt) + len(job.chosen) for job in asked.jobs)
    assert not ask(found, form, most).too_long
    assert ask(found, form, most - 1).too_long == {"ood/pairs": 1}, "of the question that has the longest choice"
    longest = [
        ChoiceSet(
            "ood/x",
            GENIES,
            [found[0].questions[0], question(GENIES, {"prompt": "a " * 300, "responses": {"a": 1, "b": 0}})],
        )
    ]
    asked = ask(longest, form, short)
    assert (asked.too_long, asked.parts, len(asked.jobs)) == ({"ood/x": 1}, {"ood/x": 1}, 2)
    with pytest.raises(UserError, match=rf"ood/x: 1 question of 2 are longer than seq_len {short} with a choice"):
        ask(longest, form, short, "error")
    with pytest.raises(UserError, match="ood/pairs: 3 questions of 3 are longer than seq_len 9"):
        ask(found, form, 9)
