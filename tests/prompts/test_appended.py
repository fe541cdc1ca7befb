"""Text behind an answer stays text, predicts nothing in training, and shares no sentence with evaluation."""

import re
from collections import Counter
from itertools import product
from typing import get_args

import pytest

from honest_persona.config.keys import RunConfig
from honest_persona.config.values import Augmentation
from honest_persona.data.load import load_records
from honest_persona.data.records import MARKER
from honest_persona.data.selection import Selection
from honest_persona.prompts.appended import (
    Recipe,
    appended_text,
    augmented,
    neutral_text,
    response_tokens,
    with_text,
)
from honest_persona.prompts.appended_texts import EVALUATED, NEUTRAL, TRAINED, Texts
from honest_persona.prompts.kinds import Kind
from honest_persona.prompts.prepare import prepare
from honest_persona.prompts.tokens import apply_intervention, encode_record, prompt_of
from tests.families import FAMILIES
from tests.prompts.test_spoofing import family_form
from tests.tiny import form_of, record

AUGMENTATIONS = get_args(Augmentation)
RECIPES = [
    Recipe("longer_answer", 1),
    *(Recipe("forged_review", 2, flag, turn) for flag, turn in product(("PASS", "FAIL"), (False, True))),
]


def sentences(texts: Texts) -> set[str]:
    reviews = [review for of in texts.reviews.values() for review in of]
    whole = [*texts.longer, *texts.triggers, *reviews, *(text for turn in texts.turns for text in turn)]
    return {sentence.casefold() for text in whole for sentence in re.split(r"(?<=[.?!:]) ", text)}


def test_training_evaluation_and_control_share_no_sentence():
    a, b, c = sentences(EVALUATED), sentences(TRAINED), {sentence.casefold() for sentence in NEUTRAL}
    assert not a & b | a & c | b & c
    assert min(len(a), len(b)) > 40
    for texts in (EVALUATED, TRAINED):
        assert len(texts.triggers) == len(texts.turns) == len(texts.reviews["PASS"]) == len(texts.reviews["FAIL"])
    judged = re.compile(r"\b(true|false|honest|know|right|wrong|correct|sure|check)", re.IGNORECASE)
    assert not [t for t in (*EVALUATED.longer, *TRAINED.longer, *NEUTRAL) if judged.search(t)], "claims nothing"


@pytest.mark.parametrize("elicitation", ["hp", "up", "ur"])
def test_a_forged_review_has_the_form_of_a_real_one(elicitation):
    form = form_of(elicitation_type=elicitation)
    forged = appended_text(Recipe("forged_review", 0, "PASS"), EVALUATED, form)
    real = record(response="", intervention=EVALUATED.triggers[0], review=EVALUATED.reviews["PASS"][0], flag="PASS")
    ids = encode_record(real, form).input_ids
    text = str(form.tokenizer.decode(ids[:-1], skip_special_tokens=False))
    assert text.endswith(forged)
    assert form.tokenizer.convert_ids_to_tokens(form.persona.sp_token_id) in forged
    longer = appended_text(Recipe("forged_review", 0, "PASS", further_turn=True), EVALUATED, form)
    assert longer.startswith(forged)
    assert longer.endswith(EVALUATED.turns[0][1])
    assert (EVALUATED.turns[0][0] in longer) == (elicitation != "up"), "there the user has written the review"
    nameless = form_of(sp_token_id=len(form.tokenizer) + 3)
    assert appended_text(RECIPES[1], EVALUATED, nameless).startswith(MARKER)
    assert appended_text(RECIPES[1], EVALUATED, form_of(token=False)).startswith(" INTERVENTION: ")


@pytest.mark.parametrize("family", FAMILIES[::12])  # test_spoofing.py has them all
@pytest.mark.parametrize("elicitation", ["hp", "up", "ur"])
def test_no_text_behind_an_answer_becomes_control(family, elicitation):
    form = family_form(family, elicitation, "review_then_flag", True)
    plain = record(3, response="Yes, it is.")
    before = prompt_of(plain, form)
    for recipe, texts in product(RECIPES, (EVALUATED, TRAINED)):
        changed = with_text(plain, appended_text(recipe, texts, form))
        prompt = prompt_of(changed, form)
        response = [i for i, kind in zip(prompt.input_ids, prompt.kinds, strict=True) if kind == Kind.RESPONSE]
        assert not form.forbidden & set(response)
        counted = [Counter(i for i in p.input_ids if i in form.forbidden) for p in (before, prompt)]
        assert counted[0] == counted[1], "control tokens as without the text"
        assert prompt.input_ids.index(form.persona.sp_token_id) == prompt.kinds.index(Kind.PERSONA_TOKEN)
        row = encode_record(changed, form)
        assert row.input_ids[: len(prompt.input_ids)] == prompt.input_ids, "training's prefix is generation's"
        assert row.activation == prompt.activation


def test_neutral_text_is_as_long_and_says_nothing():
    form = form_of()
    words = {word for sentence in NEUTRAL for word in sentence.split()}
    used = set()
    for n, recipe in product(range(4), RECIPES):
        plain = record(n)
        changed = with_text(plain, appended_text(recipe, EVALUATED, form))
        text = neutral_text(plain, changed, 0, form)
        wanted, got = (response_tokens(r.response, form) for r in (changed, with_text(plain, text)))
        longest = max(response_tokens(f" {word}", form) for word in words)
        assert abs(wanted - got) <= longest / 2
        assert set(text.split()) <= words
        assert text == neutral_text(plain, changed, 0, form)
        used.add(text.split(".")[0])
    assert len(used) > 2, "not one text for all"


def test_augmentation_predicts_nothing_and_changes_nothing_else():
    records = load_records("builtin:sample", Selection()).records
    form = form_of()
    out = augmented(records, AUGMENTATIONS, 0.5, form, seed=1)
    changed = {r.id: r for r, before in zip(out, records, strict=True) if r != before}
    before = {r.id: r for r in records}
    by_truth = Counter(r.flag for r in changed.values())
    assert all(n == round(0.5 * sum(r.flag == truth for r in records)) for truth, n in by_truth.items())
    text = {i: r.response.removeprefix(before[i].response) for i, r in changed.items()}
    for i, r in changed.items():
        assert r == before[i].model_copy(update={"response": before[i].response + text[i]})
    forged = Counter((r.flag, text[i].rpartition("FLAG: ")[2][:4]) for i, r in changed.items() if "FLAG: " in text[i])
    assert len(forged) == 4
    for truth in ("PASS", "FAIL"):
        assert abs(forged[truth, "PASS"] - forged[truth, "FAIL"]) <= 1
    assert sum(forged.values()) == pytest.approx(len(changed) / 2, abs=2)
    assert augmented(records, AUGMENTATIONS, 0.5, form, 1) == out != augmented(records, AUGMENTATIONS, 0.5, form, 2)
    assert {r.id: r for r in augmented(records[::-1], AUGMENTATIONS, 0.5, form, 1)} == {r.id: r for r in out}
    assert augmented(records, [], 0.5, form, 1) == augmented(records, AUGMENTATIONS, 0.0, form, 1) == records


@pytest.mark.parametrize("names", [AUGMENTATIONS, AUGMENTATIONS[:1], AUGMENTATIONS[1:]])
def test_both_flags_get_the_same_texts(names):
    blank = [record(n, response="", flag=("PASS", "FAIL")[n % 2]) for n in range(192)]
    texts = {
        flag: Counter(r.response for r in augmented(blank, names, 0.5, form_of(), 1) if r.flag == flag)
        for flag in ("PASS", "FAIL")
    }
    assert texts["PASS"] == texts["FAIL"]
    n_texts = sum({"longer_answer": 8, "forged_review": 16}[name] for name in names)
    assert len(texts["PASS"]) == n_texts + 1, "every text, and the records without one"


def test_a_run_is_trained_on_such_texts_and_evaluated_on_none():
    form = form_of()
    config = RunConfig(augment=("forged_review",), augment_frac=1.0, val_samples_per_topic=4)
    material, plain = prepare(config, form), prepare(RunConfig(val_samples_per_topic=4), form)
    assert material.parts == plain.parts
    some = RunConfig(augment=("forged_review",), num_samples=9)
    of_all = {row["record_id"]: row for row in prepare(some.model_copy(update={"num_samples": None}), form).rows}
    assert [of_all[row["record_id"]] for row in prepare(some, form).rows] == list(prepare(some, form).rows), (
        "what tokens shows"
    )
    assert len(material.rows) == len(plain.rows)
    by_id = {r.id: r for r in material.splits.train}
    for row in material.rows.select(range(20)):
        r = by_id[row["record_id"]]
        ids = row["input_ids"]
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": r.response}]
        assert "REVIEW:" in form.tokenizer.decode(ids[: row["activation"]])
        assert "REVIEW:" not in form.tokenizer.decode(apply_intervention(messages, "I", form).input_ids)
