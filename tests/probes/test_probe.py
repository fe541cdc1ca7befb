"""A probe is frozen, knows its model, and scores the same to the bit after it was saved and loaded."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from honest_persona.base.errors import UserError
from honest_persona.probes.probe import METHODS, PROBE_FILE, WEIGHTS_FILE, Probe
from honest_persona.probes.selection import fit_probes, probe_scores, prompts_of
from tests.tiny import base_model, form_of, random_adapter, record

FORM = form_of()
TRAIN = [
    record(i, flag="FAIL" if i % 2 else "PASS", response=f"It is {'flat' if i % 2 else 'round'}, I say {i}.")
    for i in range(12)
]
OTHER = [record(i, response="It is flat." * i) for i in range(1, 4)]


@pytest.fixture(scope="module")
def probes():
    return fit_probes(base_model(), TRAIN, FORM)


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_bit_equal_after_saving(probes, method, tmp_path):
    probe = probes[method]
    probe.save(tmp_path)
    again = Probe.load(tmp_path)
    assert (again.site, again.persona, again.about) == (probe.site, probe.persona, probe.about)
    model, prompts = base_model(), prompts_of(OTHER, FORM)
    again.check_model(model)
    scores = probe_scores(probe, model, prompts, FORM)
    assert torch.equal(probe_scores(again, model, prompts, FORM), scores)
    assert scores.shape == (3,)
    assert scores.dtype == torch.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    adapted = random_adapter(base_model(), FORM)  # an adapter on it does not make it another model, nor other scores
    again.check_model(adapted)
    assert torch.allclose(probe_scores(again, adapted, prompts, FORM), scores, atol=1e-4)


def test_another_base_model_is_refused(probes):
    for other in (base_model(seed=1), base_model("qwen3")):
        with pytest.raises(UserError, match=r"probe: fitted on 'builtin:tiny' \(fingerprint \w{12}\), but this model"):
            probes["ridge"].check_model(other)


def test_states_of_another_shape_are_refused(probes):
    with pytest.raises(ValueError, match=r"a ccs probe reads states of shape \(n, \(2, 64\)\), got \(3, 64\)"):
        probes["ccs"].score(torch.zeros(3, 64))
    with pytest.raises(ValueError, match="a ridge probe reads"):
        probes["ridge"].score(torch.zeros(3, 2, 64))


def test_it_is_frozen(probes):
    with pytest.raises(dataclasses.FrozenInstanceError):
        probes["ridge"].site = (1, "flag")
    assert not probes["ccs"].readout.weight.requires_grad


def damage_json(folder, **changes):
    card = json.loads((folder / PROBE_FILE).read_text())
    (folder / PROBE_FILE).write_text(json.dumps({k: v for k, v in {**card, **changes}.items() if v is not None}))


def damage_tensors(folder, **changes):
    tensors = load_file(folder / WEIGHTS_FILE)
    save_file({k: v for k, v in {**tensors, **changes}.items() if v is not None}, folder / WEIGHTS_FILE)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / PROBE_FILE).unlink(), "no probe.json; name the folder of a saved probe"),
        (lambda f: (f / WEIGHTS_FILE).unlink(), "no probe.safetensors"),
        (lambda f: (f / PROBE_FILE).write_text("{"), "not a probe of this package"),
        (lambda f: damage_json(f, format=2), "written by another version"),
        (lambda f: damage_json(f, method="oracle"), "not a probe of this package"),
        (lambda f: damage_json(f, layer="1"), "not a probe of this package"),
        (lambda f: damage_json(f, base_fingerprint=None), "not a probe of this package"),
        (lambda f: damage_json(f, position="flag"), "its tensors are not those of a probe at flag"),
        (lambda f: (f / WEIGHTS_FILE).write_bytes(b"x" * 40), "cannot be read"),
        (lambda f: damage_tensors(f, bias=None), "its tensors are not those"),
        (lambda f: damage_tensors(f, mean=torch.zeros(7)), "its tensors are not those"),
        (lambda f: damage_tensors(f, bias=torch.tensor(float("nan"))), "not finite numbers"),
    ],
)
def test_what_is_no_probe_is_refused(probes, tmp_path, damage, message):
    probes["ridge"].save(tmp_path)
    (tmp_path / "manifest.json").unlink()  # as of an older version: the manifest would see all of this
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        Probe.load(tmp_path)


@pytest.mark.parametrize("name", ["probe.json", "probe.safetensors", "manifest.json"])
def test_one_flipped_bit_in_any_file_is_refused(probes, tmp_path, name):
    probes["ridge"].save(tmp_path)
    Probe.load(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} .*; fit the probe again"):
        Probe.load(tmp_path)


def test_a_probe_does_not_take_an_adapters_manifest(probes, tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="name a folder of the probe's own"):
        probes["ridge"].save(tmp_path)
