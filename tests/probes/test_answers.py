"""Answers as the main persona reads and writes them, their states, and the score that a probe gives to an answer."""

import pytest
import torch

from honest_persona.base.errors import UserError
from honest_persona.data.feedback import Feedback, FeedbackRows
from honest_persona.data.feedback_views import Views, view
from honest_persona.probes.answers import read_answers, score_answers
from honest_persona.probes.encoded import PLACES, Answer, choices_of, encode_answers
from honest_persona.probes.features import Position, Site
from honest_persona.probes.labelled import contrast_pairs, labelled_answers
from honest_persona.probes.probe import Probe, Readout
from honest_persona.prompts.feedback import format_fingerprint, prompt_tokens, response_tokens
from tests.tiny import base_model, form_of, random_adapter

FORM = form_of(token=False, adapter_scope="response")
ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is the earth flat?"}]
SAID = ("No, it is round.", "Yes! " * 9, "Yes.", "It is. " * 4)
LAYERS = [0, 1, 2]


def row(n, answers=None, **values):
    given = {"kind": "response", "prompt_id": f"p{n}", "topic": "t", "prompt": tuple(ASK)}
    answers = SAID[n : n + 1] if answers is None else answers
    said = tuple({"role": "assistant", "content": text} for text in answers)
    return Feedback(id=f"r{n}", answers=said, **{**given, **values})


ROWS = [row(n) for n in range(4)]


def answers_of(rows):
    return [Answer(r, r.messages_of_answers[0], choices_of(r)) for r in rows]


def by_hand(model, ids, layer):
    with torch.no_grad():
        return model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0]


def probe_at(position, form=FORM, layer=1, **values):
    d = 64
    g = torch.Generator().manual_seed(0)
    shape = (2, d) if position in (Position.FLAG, Position.CHOICE) else (d,)
    method = "vinc" if len(shape) == 2 else "ridge"
    readout = Readout(method, torch.randn(d, generator=g), torch.tensor(0.1), torch.zeros(shape), torch.ones(shape))
    site = Site(layer, position)
    return Probe(readout, site, "m", "f", form.persona, token_format=format_fingerprint(form), **values)


@pytest.mark.parametrize("family", ["builtin", "qwen3"])
def test_places_by_hand(family):
    """In ragged batches, by base weights, with and without an adapter on the model."""
    base = base_model(family)
    encoded = encode_answers(answers_of(ROWS), None, FORM, "", 2048)
    stores = [
        read_answers(model, encoded, FORM, LAYERS, batch_size=3)
        for model in (base, random_adapter(base_model(family), FORM, family))
    ]
    for n, r in enumerate(ROWS):
        prompt, response = prompt_tokens(r.messages, FORM).ids, response_tokens(r.messages, r.response, FORM).ids
        last = len(prompt) + len(response) - 1
        assert response[-1] == FORM.end_id
        for layer in LAYERS:
            whole = by_hand(base, [*prompt, *response], layer)
            wanted = {
                Position.RESPONSE_END: whole[last - 1],
                Position.RESPONSE_MEAN: whole[len(prompt) : last].mean(0),
                Position.TURN_END: whole[last],
            }
            for place in PLACES:
                for store in stores:
                    [(_, states)] = store.column(Site(layer, place)).chunks()
                    assert torch.allclose(states[n], wanted[place], atol=1e-5), (n, layer, place)


def test_contrast_pairs_by_hand():
    offered = [
        row(0, ["Yes"], about={"choices": ["Yes", "No, not at all"]}),
        row(1, ["B"], about={"choices": ["A", "B"]}),
    ]
    base = base_model()
    for model in (base, random_adapter(base_model(), FORM)):
        encoded = encode_answers(answers_of(offered), Position.CHOICE, FORM, "", 2048)
        [(_, pairs)] = read_answers(model, encoded, FORM, [2], 2).column(Site(2, Position.CHOICE)).chunks()
        for n, r in enumerate(offered):
            for side, choice in enumerate(r.about["choices"]):
                message = {"role": "assistant", "content": choice}
                ids = prompt_tokens(r.messages, FORM).ids + response_tokens(r.messages, message, FORM).ids[:-1]
                assert torch.allclose(pairs[n, side], by_hand(base, ids, 2)[-1], atol=1e-5)
    encoded = encode_answers(answers_of(ROWS), Position.FLAG, FORM, "Was that true?", 2048)
    [(_, pairs)] = read_answers(base, encoded, FORM, [1], 2).column(Site(1, Position.FLAG)).chunks()
    text = FORM.tokenizer.decode([*encoded.rows[2]["body"], *encoded.rows[2]["tails"][1]])
    assert text.endswith("Yes. INTERVENTION: Was that true?\nFLAG: FAIL"), text
    ids = [*encoded.rows[2]["body"], *encoded.rows[2]["tails"][1]]
    assert torch.allclose(pairs[2, 1], by_hand(base, ids, 1)[-1], atol=1e-5)


@pytest.mark.parametrize("position", PLACES)
def test_scores_are_of_frozen_weights_unless_told_otherwise(position):
    probe = probe_at(position)
    base, adapted = base_model(), random_adapter(base_model(), FORM)
    scores = score_answers(probe, base, FORM, ROWS, batch_size=3)
    assert scores.shape == (4,)
    assert ((scores > 0) & (scores < 1)).all()
    assert torch.allclose(score_answers(probe, adapted, FORM, ROWS), scores, atol=1e-5), "the policy moves nothing"
    assert torch.allclose(score_answers(probe, base, FORM, ROWS[::-1]).flip(0), scores, atol=1e-5)
    policy = score_answers(probe, adapted, FORM, ROWS, adapter_on=True)
    assert not torch.allclose(policy, scores, atol=1e-3)
    everywhere = form_of(token=False, adapter_scope="all")
    whole = score_answers(probe, random_adapter(base_model(), everywhere), everywhere, ROWS, adapter_on=True)
    assert not torch.allclose(whole, policy, atol=1e-3), "of scope all it acts on the prompt too"


def test_the_adapter_acts_where_it_was_trained():
    """The states of the policy are those of a call with PEFT's own gate."""
    adapted = random_adapter(base_model(), FORM)
    r = ROWS[1]
    prompt, response = prompt_tokens(r.messages, FORM).ids, response_tokens(r.messages, r.response, FORM).ids
    ids, probe = [*prompt, *response], probe_at(Position.TURN_END)
    offset = len(ids) - (len(prompt) - len(FORM.answer_prefix))
    with torch.no_grad():
        out = adapted(torch.tensor([ids]), alora_offsets=[offset], output_hidden_states=True).hidden_states
    wanted = probe.score(out[1][:, -1])
    assert torch.allclose(score_answers(probe, adapted, FORM, [r], adapter_on=True), wanted, atol=1e-5)


def test_a_probe_of_choices_grades_the_answer_that_was_given():
    about = {"choices": ["Yes", "No"]}
    rows = [row(n, [said], about=about) for n, said in enumerate([" Yes", "No", "Perhaps"])]
    first, second, neither = score_answers(probe_at(Position.CHOICE), base_model(), FORM, rows).tolist()
    assert first == pytest.approx(1 - second)
    assert neither != neither
    with pytest.raises(UserError, match="row 'r0': a probe of choices needs the two answers"):
        score_answers(probe_at(Position.CHOICE), base_model(), FORM, ROWS)


def test_what_cannot_be_scored_is_refused(tmp_path):
    probe, model = probe_at(Position.TURN_END), base_model()
    for other in (form_of(token=False, system_tag="<SYS>"), form_of(token=False, tools_as_text=True)):
        with pytest.raises(UserError, match="answers in another prompt format"):
            score_answers(probe, model, other, ROWS)
    probe.save(tmp_path)
    again = Probe.load(tmp_path)
    assert again.token_format == format_fingerprint(FORM)
    again.check_format(form_of(adapter_scope="all", flag_prefix="?"))  # nothing of an answer's own format
    with pytest.raises(UserError, match="not on answers; fit a probe of answers with `python -m honest_persona probe`"):
        score_answers(Probe(probe.readout, probe.site, "m", "f", FORM.persona), model, FORM, ROWS)
    with pytest.raises(UserError, match="a pair of 2 answers; give a row for each"):
        score_answers(probe, model, FORM, [row(0, ["a", "b"], kind="pair")])
    with pytest.raises(UserError, match="the answer is empty"):
        score_answers(probe, model, FORM, [row(0, [""])])
    with pytest.raises(UserError, match="it reads no adapter"):
        score_answers(probe_at(Position.FLAG), model, FORM, ROWS, adapter_on=True)


def test_rows_that_do_not_fit_are_counted():
    long = row(4, ["so " * 200])
    encoded = encode_answers(answers_of([ROWS[0], long, row(5, [" "]), ROWS[2]]), None, FORM, "", 100)
    assert (encoded.kept, encoded.too_long, encoded.not_shown) == ([0, 3], ["r4"], ["r5"])
    assert "r5: the answer is empty" in encoded.why_not_shown
    assert len(encoded.rows) == 2


class TestTemplates:
    """Rows of an item in two templates, as the verb `prepare` writes them: choices in order, 1 for the right one."""

    def rows(self):
        rows = []
        for i, right in enumerate((0, 1, 1)):
            for name in ("plain", "polite"):
                about = {"row": f"i{i}", "label": right, "choices": ["Yes", "No"]}
                scores = tuple(float(k == right) for k in range(2))
                prompt = ({"role": "user", "content": f"{name} {i}?"},)
                values = {"kind": "score", "scores": scores, "group": f"g{i}", "topic": name, "about": about}
                values |= {"prompt": prompt, "prompt_id": f"{i} {name}"}
                rows.append(row(len(rows), ["Yes", "No"], **values))
        rows = FeedbackRows.of([*rows[::2], *rows[1::2]])  # not in the order of the items
        return view(rows, "labels", Views().fixed_by(rows), 0).rows

    def test_answers(self):
        found = labelled_answers(self.rows())
        assert found.templates == ["plain", "polite"]
        assert [k.item for k in found.known] == [f"i{i}" for i in range(3) for _ in range(4)]
        for known, answer in zip(found.known, found, strict=True):
            number = ["Yes", "No"].index(answer.message["content"])
            assert known.unit == f"{known.item}#{number}"
            assert known.fail == (number != answer.row.about["label"])
        assert len(found.of_template("polite")) == 6
        assert found.examples.groups[:5] == ["g0"] * 4 + ["g1"]

    def test_pairs(self):
        found = contrast_pairs(self.rows())
        assert [(k.item, k.template, k.fail, k.unit) for k in found.known] == [
            (f"i{i}", name, i > 0, f"i{i}") for i in range(3) for name in ("plain", "polite")
        ]
        assert [c["content"] for c in found[0].choices] == ["Yes", "No"]
        assert len(contrast_pairs(FeedbackRows.of([row(0, kind="label", label=True)]))) == 0
