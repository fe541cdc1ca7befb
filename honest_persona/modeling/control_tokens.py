"""Whether a model can tell the two control tokens of conditional SFT apart.

An adapter leaves embeddings as they are, and rows that pre-training never used are often equal to each other. To such a
model the two tokens are one, so that a training on them teaches nothing.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from honest_persona.base.errors import UserError
from honest_persona.modeling.token_format import named_ids
from honest_persona.modeling.zero import gathered_one
from honest_persona.prompts.persona_token import safe_ids
from honest_persona.prompts.tokens import TokenFormat

MOST_COMPARED = 512
"""Free ids among which two that differ are looked for."""
NEARLY_EQUAL = 0.99999
"""From this cosine on, two embeddings count as equal: the norm in front of a layer leaves of a row its direction."""


def check_told_apart(model: PreTrainedModel, form: TokenFormat) -> None:
    """Nothing for a form without control tokens. Under ZeRO-3 all ranks must call this.

    Raises:
        UserError: the two embeddings have one direction.
    """
    if form.control is None:
        return
    embedding: Any = model.get_input_embeddings()
    rows = model.config.get_text_config().vocab_size
    spare = safe_ids(form.tokenizer, rows, {*named_ids(model.config.to_dict())})[:MOST_COMPARED]
    with gathered_one(embedding.weight):
        cosines = _cosines(embedding.weight.detach()[[*form.control, *spare]])
    if cosines[0, 1] < NEARLY_EQUAL:
        return
    among = cosines[2:, 2:]
    remedy = "no two free ids differ more; use objective: kto"
    if among.min() < NEARLY_EQUAL:
        a, b = (spare[i] for i in divmod(int(among.argmin()), len(spare)))
        remedy = f"set desirable_token_id: {a} and undesirable_token_id: {b}, which differ most; or use objective: kto"
    good, bad = form.control
    raise UserError(
        f"objective: csft: ids {good} and {bad}, the control tokens, have the same embedding in this model, and "
        f"embeddings are not trained, so it could not tell good answers from bad ones: {remedy}"
    )


def _cosines(rows: Tensor) -> Tensor:
    """(n, n), between all rows (n, width); a row of zeros has the cosine 1 with a row of zeros, and 0 with others."""
    rows = rows.float()
    zero = (rows.norm(dim=1) == 0).float()
    unit = normalize(rows, dim=1)
    return (unit @ unit.T + torch.outer(zero, zero)).cpu()
