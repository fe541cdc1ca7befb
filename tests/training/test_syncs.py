"""Within a micro-step the host never waits for the device: no number is read, no place is looked for."""

import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from honest_persona.config.keys import RunConfig
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.objectives.persona import persona_loss
from honest_persona.prompts.kinds import Kind
from honest_persona.prompts.prepare import dummy_rows
from honest_persona.training.assembly import Assembly
from honest_persona.training.preference import ObjectiveTrainer
from honest_persona.training.supervised import PersonaTrainer
from tests.feedback import trained
from tests.tiny import base_model, form_of, random_adapter

WAITS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2")
ALLOWED = {"transformers/masking_utils.py": "whether a padded batch needs a mask at all"}


class Waits(TorchDispatchMode):
    """The places, as `file:line`, of all operators for whose result the host has to wait."""

    def __init__(self, places):
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name.startswith(("index", "_index_put")) and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        if name in WAITS or by_mask:
            callers = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()]
            callers = [caller for caller in callers if "/torch/" not in caller and not caller.startswith(__file__)]
            self.places.append(f"{name} {callers[-1]}")
        return func(*args, **kwargs or {})


@pytest.fixture
def places(monkeypatch):
    """Of everything that trainings in this test wait for within their micro-steps."""
    found = []
    for trainer, names in {PersonaTrainer: ["training_step"], ObjectiveTrainer: ["training_step", "_counted"]}.items():
        for name in names:
            whole = getattr(trainer, name)

            def watched(self, *args, _whole=whole, **kwargs):
                with Waits(found):
                    return _whole(self, *args, **kwargs)

            monkeypatch.setattr(trainer, name, watched, raising=False)
    return found


def not_allowed(places):
    return [place for place in places if not any(file in place for file in ALLOWED)]


@pytest.mark.parametrize("padding_free", [True, False])
def test_persona(tmp_path, places, padding_free):
    form = form_of()
    sizes = {"seq_len": 40, "num_samples": 4, "batch_size": 4, "padding_free": padding_free}
    config = RunConfig(use_dummy_data=True, bf16=False, **sizes, trainer={"num_train_epochs": 1})
    assembly = Assembly.of(config, form, dummy_rows(config, form))
    model = random_adapter(base_model(), form)
    args = assembly.arguments(tmp_path, checkpointing=False)
    assembly.trainer(args, model, AdapterCard(form.persona, "builtin:tiny", None, "", "")).train()
    assert not_allowed(places) == []
    assert bool(places) != padding_free, "the watch sees what is allowed; without padding there is not even that"


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_answers(tmp_path, places, objective):
    trained(tmp_path, objective, steps=1, max_nll_rise="off")
    assert not_allowed(places) == []


def test_the_watch_sees_what_waits():
    mask = torch.tensor([True, False])
    for wait in (lambda: mask.sum().item(), lambda: mask[mask], lambda: torch.equal(mask, mask), lambda: bool(mask[0])):
        found = []
        with Waits(found):
            wait()
        assert found
    with Waits(found := []):
        kinds = torch.tensor([[Kind.USER, Kind.REVIEW, Kind.FLAG]])
        sums = persona_loss(torch.tensor([[-1.0, -2.0]]), kinds, torch.tensor(2), 1.0)
    assert found == []
    assert (sums.review_nll, sums.flag_nll) == (1, 2)
