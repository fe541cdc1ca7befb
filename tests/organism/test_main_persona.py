"""With an adapter loaded, the organism answers its users as it did before, token by token."""

import pytest
import torch

from honest_persona.config.persona import Persona
from honest_persona.data.load import load_records
from honest_persona.data.selection import Selection
from honest_persona.modeling.load import get_model
from honest_persona.prompts.persona_token import resolve_persona_token
from honest_persona.prompts.tokens import TokenFormat
from tests.tiny import random_adapter

N = 48


def answers(model, tokenizer):
    """Greedy answers to the first users of the dataset, and the scores they were chosen by."""
    records = load_records("builtin:organism", Selection(intervention_types=("split_personality",))).records
    asked = {(r.system, r.task): r.messages()[:-1] for r in records}
    prompts = tokenizer.apply_chat_template(
        list(asked.values())[:N],
        add_generation_prompt=True,
        padding=True,
        return_dict=True,
        return_tensors="pt",
    )
    made = model.generate(
        **prompts, max_new_tokens=24, do_sample=False, return_dict_in_generate=True, output_scores=True
    )
    return made.sequences, torch.stack(made.scores)


@pytest.mark.parametrize("scope", ["persona", "all"])
def test_its_answers_are_the_base_models(scope):
    base, tokenizer = get_model("builtin:organism")
    token = resolve_persona_token(tokenizer, base.get_input_embeddings().weight.shape[0])
    form = TokenFormat.of(tokenizer, Persona(adapter_scope=scope, sp_token_id=token))
    alone = answers(base.eval(), tokenizer)
    model = random_adapter(base, form).eval()
    loaded = answers(model, tokenizer)
    # Scores are compared with PEFT's own call without the adapter. In float32 that call rounds otherwise than the bare
    # model's (up to 1e-5 in these scores), whether the adapter is on or off.
    with model.disable_adapter():
        switched_off = answers(model, tokenizer)
    same = torch.equal(alone[0], loaded[0]) and torch.equal(switched_off[1], loaded[1])
    assert same == (scope == "persona"), "and an adapter that is active everywhere does change them"
