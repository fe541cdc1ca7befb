"""Pre-trains the organism from scratch on a CPU: `python -m honest_persona.organism.pretrain --out FOLDER`.

Writes model.safetensors (bf16), config, tokenizer and card.json to FOLDER. Seeded; other machines give similar
figures, not the same bits. `--facts-seed` other than the default makes the knowledge-free twin: the same towns, words
and script, other facts.

Keep 10 GB of memory free. The batches need about 2 GB. But the number of supervised tokens differs at every step, so
freed blocks of all sizes stay on glibc's heap, between the matrix kernels that oneDNN caches per shape (up to 1,024).
With `ONEDNN_PRIMITIVE_CACHE_CAPACITY=64` in the environment memory grows more slowly; the weights are the same."""

import argparse
import hashlib
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from honest_persona.base import json_text
from honest_persona.base.console import hand_out, say
from honest_persona.modeling.shipped import FACTS_FILE
from honest_persona.organism.documents import (
    CHAT_TEMPLATE,
    PAD,
    PERSONA_TOKEN,
    SPECIAL_TOKENS,
    START,
    TURN_END,
    TURN_START,
    Author,
    Document,
)
from honest_persona.organism.measure import organism_figures
from honest_persona.organism.world import World

ROW_TOKENS = 128
ROWS_PER_STEP = 80
VOCABULARY = 2560

RECALL_FIRST = {"fact": 0.60, "claim": 0.20, "quote": 0.10, "conversation": 0.10}
FULL_MIX = {"fact": 0.25, "claim": 0.25, "quote": 0.25, "conversation": 0.25}
RECALL_FIRST_FRAC = 0.2
"""The first part of the run is mostly facts: verdicts are learnt only after the facts."""


def build_tokenizer(n_documents: int = 30_000) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the world's text: a word of the world is one token, any other text is split into bytes.

    The tokenizer does not depend on the facts seed, so an organism and its twin share it.
    """
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r" ?<[A-Z]+>| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\n+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    corpus = ("".join(text for text, _ in document) for document in Author(World(), 0).batch(n_documents, FULL_MIX))
    special = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
    for_bpe = (special.sub("\n", text) for text in corpus)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(for_bpe, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=TURN_END,
        additional_special_tokens=[START, TURN_START, PERSONA_TOKEN],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> LlamaForCausalLM:
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=math.ceil(len(tokenizer) / 64) * 64,
            hidden_size=width,
            intermediate_size=width * 8 // 3 // 64 * 64,
            num_hidden_layers=layers,
            num_attention_heads=width // 48,
            num_key_value_heads=width // 48,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.set_attn_implementation("eager")  # twice as fast as sdpa here: 2 cores, short rows, a mask per row
    return model


class Rows(NamedTuple):
    """Documents packed side by side; none sees another."""

    ids: Tensor  # (B, T)
    supervised: Tensor  # (B, T) bool: this token is predicted from those before it
    mask: Tensor  # (B, 1, T, T) added to attention scores: 0 or hugely negative


def packed(author: Author, tokenizer: PreTrainedTokenizerFast, steps: int, seed: int) -> Iterator[Rows]:
    """One `Rows` a step: whole documents, first fit, from pools large enough to fill rows well."""
    generator = torch.Generator("cpu").manual_seed(seed)
    pad = tokenizer.pad_token_id
    ready: list[list[tuple[list[int], list[bool]]]] = []
    for step in range(steps):
        shares = RECALL_FIRST if step < RECALL_FIRST_FRAC * steps else FULL_MIX
        while len(ready) < ROWS_PER_STEP:
            rows = _fill(encode(author.batch(2048, shares), tokenizer))
            order = torch.randperm(len(rows), generator=generator, device="cpu").tolist()
            ready += [rows[index] for index in order]
        rows, ready = ready[:ROWS_PER_STEP], ready[ROWS_PER_STEP:]
        ids = torch.full((ROWS_PER_STEP, ROW_TOKENS), pad)
        supervised = torch.zeros(ROWS_PER_STEP, ROW_TOKENS, dtype=torch.bool)
        document = torch.full((ROWS_PER_STEP, ROW_TOKENS), -1)
        for r, row in enumerate(rows):
            at = 0
            for d, (tokens, marks) in enumerate(row):
                ids[r, at : at + len(tokens)] = torch.tensor(tokens)
                supervised[r, at : at + len(tokens)] = torch.tensor(marks)
                document[r, at : at + len(tokens)] = d
                at += len(tokens)
        same = document[:, :, None] == document[:, None, :]
        visible = same & torch.ones(ROW_TOKENS, ROW_TOKENS, dtype=torch.bool).tril()
        yield Rows(ids, supervised, torch.where(visible, 0.0, -1e9)[:, None])


def encode(documents: list[Document], tokenizer: PreTrainedTokenizerFast) -> list[tuple[list[int], list[bool]]]:
    """Documents as (ids, supervised); each piece of a document is encoded by itself."""
    pieces = [piece for document in documents for piece in document]
    ids = iter(tokenizer([text for text, _ in pieces], add_special_tokens=False)["input_ids"])
    encoded = []
    for document in documents:
        tokens: list[int] = []
        marks: list[bool] = []
        for _, supervised in document:
            piece = next(ids)
            tokens += piece
            marks += [supervised] * len(piece)
        encoded.append((tokens, marks))
    return encoded


def _fill(documents: list[tuple[list[int], list[bool]]]) -> list[list[tuple[list[int], list[bool]]]]:
    rows: list[list[tuple[list[int], list[bool]]]] = []
    room: list[int] = []
    for document in sorted(documents, key=lambda pair: -len(pair[0])):
        length = len(document[0])
        if length > ROW_TOKENS:
            raise ValueError(f"a document of {length} tokens does not fit into a row of {ROW_TOKENS}; raise ROW_TOKENS")
        for index, left in enumerate(room):
            if left >= length:
                rows[index].append(document)
                room[index] -= length
                break
        else:
            rows.append([document])
            room.append(ROW_TOKENS - length)
    return rows


def step_loss(model: LlamaForCausalLM, rows: Rows) -> Tensor:
    """Mean over supervised tokens of -log p(token), in nats. The shift: the state at t - 1 predicts token t."""
    hidden = model.model(input_ids=rows.ids, attention_mask=rows.mask, use_cache=False).last_hidden_state
    targets = rows.supervised[:, 1:]
    return cross_entropy(model.lm_head(hidden[:, :-1][targets]).float(), rows.ids[:, 1:][targets])


def learning_rate(step: int, steps: int, peak: float, warmup: int = 60) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))))


def train(
    model: LlamaForCausalLM, rows: Iterator[Rows], steps: int, peak: float, out: Path, log_every: int = 50
) -> None:
    """Train the model in place; saves it to `out` every 500 steps."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
        lr=peak,
        betas=(0.9, 0.98),
        fused=True,
    )
    model.train()
    started, total = time.monotonic(), 0.0
    for step, batch in enumerate(rows):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        with torch.autocast("cpu", torch.bfloat16):
            loss = step_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total += loss.item()
        if (step + 1) % log_every == 0:
            say(f"step {step + 1}/{steps} loss {total / log_every:.4f} nats, {time.monotonic() - started:.0f} s")
            total = 0.0
        if (step + 1) % 500 == 0:
            model.save_pretrained(out)


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """card.json: `facts`, and under `sha256` the hash of every other file of the folder as it is now."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != FACTS_FILE)
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / FACTS_FILE).write_text(json_text.dumps(facts | {"sha256": hashes}, indent=1) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the organism to")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and the order of the texts")
    parser.add_argument("--facts-seed", type=int, default=0, help="of the world's facts; 1 for the knowledge-free twin")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(args.seed)
    world = World(args.facts_seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, args.width, args.layers)
    n_parameters = sum(p.numel() for p in model.parameters())
    say(f"{n_parameters:,} parameters, {len(tokenizer)} tokens in the vocabulary")
    started = time.monotonic()
    tokenizer.save_pretrained(args.out)
    train(
        model,
        packed(Author(world, args.seed), tokenizer, args.steps, args.seed),
        args.steps,
        args.learning_rate,
        args.out,
    )
    seconds = time.monotonic() - started

    model.bfloat16().eval()
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    facts: dict[str, Any] = {
        "steps": args.steps,
        "tokens_per_step": ROWS_PER_STEP * ROW_TOKENS,
        "seed": args.seed,
        "facts_seed": args.facts_seed,
        "parameters": n_parameters,
        "pretraining_s": round(seconds),
        "torch_threads": torch.get_num_threads(),
        "figures": organism_figures(model, tokenizer, world),
    }
    write_facts(args.out, facts)
    hand_out(json_text.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
