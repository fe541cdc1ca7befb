"""What torch's default device is changes nothing: a notebook may have set it to its GPU.

Here it is `meta`, which every machine has: a tensor that is made there by mistake has no numbers.
"""

import pytest
import torch

from honest_persona.config.keys import RunConfig
from honest_persona.modeling.adapters.active import check_active
from honest_persona.modeling.load import load_base
from honest_persona.objectives.persona import persona_loss
from honest_persona.organism.dataset import generate
from honest_persona.persona.answering import write_reviews
from honest_persona.probes.ccs import fit_ccs
from honest_persona.probes.features import contrast_states, read_states
from honest_persona.probes.linear import fit_logistic, fit_ridge
from honest_persona.probes.selection import prompts_of
from honest_persona.probes.vinc import fit_vinc
from honest_persona.prompts.collator import PersonaCollator, SplitCollator
from honest_persona.prompts.prepare import dummy_rows
from honest_persona.training.assembly import make_batches
from honest_persona.training.batching.lengths import Lengths
from honest_persona.training.memory import Shape, saved_bytes
from honest_persona.training.run_state import _generators, _set_generators
from tests.probes.planted import planted
from tests.tiny import base_model, form_of, random_adapter, record

CPU = torch.device("cpu")
FORM = form_of()
RECORDS = [record(n) for n in range(4)]
CONFIG = RunConfig(
    use_dummy_data=True,
    seq_len=40,
    num_samples=6,
    batch_size=2,
    trainer={"per_device_train_batch_size": 2, "num_train_epochs": 1},
)


def loaded(model):
    return dict(load_base("builtin:tiny").state_dict())


def collated(model):
    rows = dummy_rows(CONFIG, FORM)
    return [make(FORM.pad_id, FORM.persona.sp_token_id)(rows) for make in (PersonaCollator, SplitCollator)]


def planned(model):
    batches = make_batches(CONFIG, Lengths.split(dummy_rows(CONFIG, FORM)))
    return [batches.step_rows(epoch) for epoch in range(3)]


def trained_on(model):
    batch = collated(model)[0]
    return persona_loss(-batch["input_ids"][:, 1:] / 100, batch["kinds"], 7)


def reviewed(model):
    prompts = prompts_of(RECORDS, FORM)
    return [write_reviews(model, prompts, FORM, 6, frozen_prefix) for frozen_prefix in (True, False)]


def probed(model):
    prompts = prompts_of(RECORDS, FORM)
    return read_states(model, prompts, FORM, [1, 2]), contrast_states(model, prompts, FORM, [2])


def fitted(model):
    states, pairs, examples, _ = PLANTED
    fits = [fit_ridge(states, examples.fail, 1.0), fit_ridge(states[:8], examples.fail[:8], 1.0)]
    fits += [fit_logistic(states, examples.fail, 1.0), fit_vinc(pairs, examples.fail, examples.transcripts, 0.5)]
    fits += [fit_ccs(pairs, examples.fail, restarts=2, steps=5, most_pairs=50)]
    return [[fit.weight, fit.bias] for fit in fits]


def checked(model):
    [prompt] = prompts_of(RECORDS[:1], FORM)
    return check_active(model, FORM, prompt.input_ids, prompt.activation)


def continued(model):
    return generate(BASE, FORM.tokenizer, [[5, 6, 7], [8]], max_new_tokens=4, sample_seed=1)


def foreseen(model):
    return saved_bytes(model, Shape(2, 8, 1, 6), CPU)


def drawn_again(model):
    state = _generators(CPU)
    first = torch.rand(3, device="cpu")
    _set_generators(state, CPU)
    return torch.equal(first, torch.rand(3, device="cpu"))


PLANTED, BASE = planted(), base_model().eval()
WAYS = (loaded, collated, planned, trained_on, reviewed, probed, fitted, checked, continued, foreseen, drawn_again)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_default_device_changes_nothing(way):
    model = random_adapter(base_model(), FORM).eval()
    expected = way(model)
    with torch.device("meta"):
        found = way(model)
    torch.testing.assert_close(_plain(found), _plain(expected), rtol=0, atol=0)


def _plain(value):
    """What `assert_close` cannot compare by itself, in words."""
    if isinstance(value, dict):
        return {str(key): _plain(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(of) for of in value]
    return value if torch.is_tensor(value) else torch.frombuffer(bytearray(repr(value), "utf-8"), dtype=torch.uint8)
