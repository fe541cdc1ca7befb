"""A model that knows whether a word is good, holds whether its answer was true, and answers by chance.

All of that is written into the weights of a tiny Llama; nothing is trained. Asked `Is rain good?` it says `Yes.` or
`No.`, each in half of its samples. Four coordinates of its hidden states mean something:

    FACT        1 or -1 on the tokens of a word
    SAID        1 or -1 on the tokens Yes and No
    TRUTH       FACT x SAID on all tokens behind an answer: is it true?
    TO_SAY      what tells the logits of Yes and No apart; nothing writes it

The first block's attention is an average over all tokens so far, which brings FACT, SAID and sixteen other coordinates
to the tokens behind; its MLP multiplies. The rest of the weights is random and small.
"""

import re

import torch
from transformers import LlamaForCausalLM

from honest_persona.modeling.builtin import tiny_config, tiny_tokenizer

FACT, SAID, KNOWN, HEARD, TRUTH, TO_SAY = range(58, 64)
"""KNOWN and HEARD: FACT and SAID where they have been brought to."""
PLAIN = 58
"""Coordinates of a token's own embedding, which say nothing else."""
STRENGTH = 3.0
N_TOKENS = 16
"""Of a prompt with its answer, about."""


def words(n: int) -> list[str]:
    """Words that are one token behind a space; none that the question has."""
    vocabulary = sorted(tiny_tokenizer().get_vocab().items(), key=lambda entry: entry[1])
    found = [token[1:] for token, _ in vocabulary if re.fullmatch("Ġ[a-z]{3,}", token)]
    return [word for word in found if word != "good"][:n]


def facts(of: list[str], seed: int = 0) -> dict[str, bool]:
    """Half of the words are good."""
    order = torch.randperm(len(of), generator=torch.Generator().manual_seed(seed)).tolist()
    return {word: place < len(of) // 2 for word, place in zip(of, order, strict=True)}


@torch.no_grad()
def knowing_model(good: dict[str, bool], seed: int = 0) -> LlamaForCausalLM:
    """The model that knows which words are good."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(tiny_config())
        others = torch.randn(model.config.hidden_size, 16), torch.randn(16, PLAIN)
        embeddings = torch.randn_like(model.model.embed_tokens.weight)
    embeddings[:, PLAIN:] = 0
    for word, is_good in good.items():
        embeddings[_id(f" {word}"), FACT] = STRENGTH * (1 if is_good else -1)
    yes, no = _id("Yes"), _id("No")
    embeddings[[yes, no], SAID] = torch.tensor([STRENGTH, -STRENGTH])
    model.model.embed_tokens.weight.copy_(embeddings)
    first = model.model.layers[0]
    for layer in (first.self_attn.q_proj, first.self_attn.k_proj, first.self_attn.v_proj, first.self_attn.o_proj):
        layer.weight.zero_()  # all tokens so far count alike
    v, o = first.self_attn.v_proj.weight, first.self_attn.o_proj.weight
    v[0, FACT] = v[1, SAID] = 1
    o[KNOWN, 0] = o[HEARD, 1] = N_TOKENS
    v[16:32, :PLAIN] = others[1] / 8  # the second head of values is the third one's of outputs
    o[:PLAIN, 32:48] = others[0][:PLAIN]
    gate, up, down = first.mlp.gate_proj.weight, first.mlp.up_proj.weight, first.mlp.down_proj.weight
    for unit, sign in enumerate((1, -1)):  # silu(s) f + silu(-s) (-f) is about s f
        gate[unit], up[unit], down[:, unit] = 0, 0, 0
        gate[unit, HEARD], up[unit, KNOWN], down[TRUTH, unit] = 4 * sign, sign, 1
    head = model.lm_head.weight.zero_()
    for token, after in ((yes, "\n"), (no, "\n"), (_id("."), "Yes"), (_id("."), "No"), (_id("<|im_end|>"), ".")):
        head[token, :PLAIN] += embeddings[_id(after), :PLAIN]
    head[yes, TO_SAY], head[no, TO_SAY] = 1, -1
    return model


def _id(text: str) -> int:
    [found] = tiny_tokenizer()(text, add_special_tokens=False).input_ids
    return found
