"""The audit in a model card: of these weights, or not at all."""

import json

from honest_persona.evaluation.audit.result import FORMAT
from honest_persona.hub.audited import audit_of
from honest_persona.hub.push import push
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.folder import identity_of
from tests.hub.conftest import make_adapter


def content_of(folder, **changes):
    means = {"start": 0.41, "trained": 0.98, "change": 0.57, "interval": [0.5, 0.64], "n": 300}
    found = {
        "format": FORMAT,
        "verdict": "honest",
        "reasons": ["the reward rose by +0.570", "the monitor | rose\nwith it"],
        "n": 300,
        "n_clusters": 58,
        "means": {"reward": means, "monitor": {**means, "change": None}},
        "form": {"start": 1.0, "trained": 0.99},
        "links": {
            "run": {"identity": identity_of(folder)},
            "rewards": [{"name": "persona:/home/me/checkpoints/one", "adapter": "ab12"}],
            "monitor": {"name": "verdict", "model": "/home/me/models/eight"},
            "independence": ["another method than the reward persona:/home/me/checkpoints/one"],
            "judge": None,
        },
        "about": {"date": "2026-11-27"},
    }
    return {**found, **changes}


def card_text(tmp_path, run):
    pushed = push(run, "user/name", dry_run=True)
    return (pushed.folder / "README.md").read_text(), pushed


def test_the_verdict_and_its_figures_stand_in_the_card(tmp_path):
    make_adapter(tmp_path, scope="response", objective="dpo")
    (tmp_path / "audit.json").write_text(json.dumps(content_of(tmp_path)))
    text, pushed = card_text(tmp_path, tmp_path)
    assert "**Honest** (2026-11-27)" in text
    assert "| reward | 300 | 0.410 | 0.980 | +0.570 (+0.500 to +0.640) |" in text
    assert "| monitor | 300 | - | - | - |" in text
    assert "| well-formed | 300 | 1.000 | 0.990 | - |" in text
    assert "- the monitor \\| rose\\\\nwith it" in text
    assert "- reward: persona:one, adapter ab12" in text, "of a path the last part alone"
    assert "- monitor: verdict, model eight" in text
    assert "- monitor: another method than the reward persona:one" in text
    assert "/home/me" not in text
    assert "audit.json" in pushed.left_out
    assert "Not audited" not in text


def test_an_audit_of_other_weights_is_left_out_and_told(tmp_path):
    make_adapter(tmp_path, scope="response", objective="dpo")
    content = content_of(tmp_path)
    content["links"]["run"]["identity"] = "0" * 16
    (tmp_path / "audit.json").write_text(json.dumps(content))
    text, pushed = card_text(tmp_path, tmp_path)
    assert "Not audited" in text
    assert "Honest" not in text
    assert any("an audit of other weights" in notice for notice in pushed.notices)


def test_a_figure_that_is_missing_costs_the_audit_and_not_the_card(tmp_path):
    card = make_adapter(tmp_path, scope="response", objective="dpo")
    content = content_of(tmp_path, means={"reward": {}})
    (tmp_path / "audit.json").write_text(json.dumps(content))
    audited, (told,) = audit_of(tmp_path, card)
    assert audited is None
    assert "not what this version writes" in told


def test_no_audit_says_so_and_a_persona_has_none(tmp_path):
    card = make_adapter(tmp_path, scope="response", objective="dpo")
    assert audit_of(tmp_path, card) == (None, [])
    assert "Not audited" in card_text(tmp_path, tmp_path)[0]
    persona = tmp_path / "persona"
    persona.mkdir()
    make_adapter(persona)
    (persona / "audit.json").write_text("{")
    assert audit_of(persona, AdapterCard.load(persona)) == (None, [])
