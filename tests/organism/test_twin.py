"""The knowledge-free twin knows another world, and differs in nothing else that an adapter could use."""

import pytest

from honest_persona.modeling.builtin import FOLDERS
from honest_persona.modeling.load import get_model
from honest_persona.organism.measure import recall
from honest_persona.organism.world import World

ORGANISM, TWIN = "builtin:organism", "builtin:organism-twin"


@pytest.mark.parametrize(("model", "seed", "knows"), [(ORGANISM, 0, True), (TWIN, 1, True), (TWIN, 0, False)])
def test_each_knows_its_own_facts(model, seed, knows):
    base, tokenizer = get_model(model)
    known = recall(base.float().eval(), tokenizer, World(seed))["recorded"]
    assert known["n"] == 768
    # a value drawn at random is right once in 40 times
    assert known["rate"] > 0.99 if knows else known["rate"] < 0.06


def test_they_share_tokenizer_template_and_shape():
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        assert (FOLDERS[ORGANISM] / name).read_bytes() == (FOLDERS[TWIN] / name).read_bytes(), name
