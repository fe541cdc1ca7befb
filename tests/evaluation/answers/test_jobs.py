"""Which rows are measured, and how."""

from honest_persona.evaluation.answers.jobs import jobs_of
from honest_persona.prompts.feedback import response_tokens
from tests.prompts.test_feedback import feedback
from tests.tiny import form_of

FORM = form_of(token=False, adapter_scope="response")


def test_what_rows_of_each_kind_give():
    rows = [
        feedback(0, "pair"),
        feedback(1, "label"),
        feedback(2, "label", label=False),
        feedback(3, "response"),
        feedback(4, "prompt"),
    ]
    found = jobs_of({"within": rows}, FORM, 5, None).jobs
    assert [(job.chosen is not None, job.rejected is not None) for job in found] == [
        (True, True),
        (True, False),
        (False, False),
        (True, False),
        (False, False),
    ]
    assert list(found[0].chosen) == response_tokens(rows[0].messages, rows[0].chosen, FORM).ids
    assert list(found[0].prompt[found[0].activation :]) == FORM.answer_prefix


def test_a_prompt_of_a_part_is_answered_once():
    rows = [feedback(0, "label"), feedback(0, "label", id="again", prompt_id="other", label=False), feedback(1)]
    found = jobs_of({"within": rows, "across": rows[:1]}, FORM, 5, None).jobs
    assert [(job.row.id, job.first) for job in found] == [("f0", True), ("again", False), ("f1", True), ("f0", True)]


def test_rows_that_are_left_out_are_counted():
    rows = [feedback(n) for n in range(3)]
    whole = jobs_of({"within": rows}, FORM, 1, None).jobs
    lengths = [len(job.prompt) + len(job.chosen) for job in whole]
    found = jobs_of({"within": rows, "across": rows}, FORM, 1, max(lengths) - 1)
    assert (len(found.jobs), found.too_long) == (4, {"within": 1, "across": 1})
    assert jobs_of({"within": rows}, FORM, max(lengths), max(lengths)).too_long == {"within": 3}, "the answer to write"
    odd = jobs_of({"within": [feedback(7, prompt=({"role": "assistant", "content": "a"},))]}, FORM, 1, None)
    assert (odd.jobs, odd.not_shown) == ([], {"within": 1})
    assert odd.why_not_shown.startswith("f7: the prompt must end with what is answered")
