"""Rows of feedback and a model with an adapter that acts on answers: shared by the tests."""

from honest_persona.evaluation.answers.jobs import jobs_of
from honest_persona.evaluation.answers.settings import AnswerSettings
from tests.prompts.test_feedback import feedback
from tests.tiny import base_model, form_of, random_adapter

SCOPES = ("response", "all")


def model_and_form(scope="response", family="builtin", std=0.5):
    form = form_of(token=False, adapter_scope=scope)
    return random_adapter(base_model(family), form, family, std=std).eval(), form


def settings(**changes):
    return AnswerSettings(**{"batch_size": 4, "max_new_tokens": 6, **changes})


def jobs(rows, form, part="within"):
    return jobs_of({part: rows}, form, 6, None).jobs


def pairs(n, **changes):
    return [feedback(i, **changes) for i in range(n)]
