"""Pre-training: packed documents do not see each other, the loss is a mean over marks, card.json knows its files."""

import json
import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from honest_persona.base.errors import UserError
from honest_persona.modeling.shipped import verify_files
from honest_persona.organism.documents import START, TURN_START, Author
from honest_persona.organism.pretrain import (
    ROW_TOKENS,
    ROWS_PER_STEP,
    build_model,
    build_tokenizer,
    learning_rate,
    packed,
    step_loss,
    train,
    write_facts,
)
from honest_persona.organism.world import World


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(500)


@pytest.fixture
def model(tokenizer):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model(tokenizer, width=48, layers=2)


@pytest.fixture(scope="module")
def rows(tokenizer):
    return next(packed(Author(World(0), 0), tokenizer, 5, 0))


def documents_of(rows, r):
    """(first, end) of each document of row `r`, by the mask: a token that sees itself alone begins one."""
    visible = (rows.mask[r, 0] == 0).sum(-1).tolist()
    starts = [at for at, seen in enumerate(visible) if seen == 1]
    return list(zip(starts, [*starts[1:], ROW_TOKENS], strict=True))


def test_rows_are_full_and_documents_apart(rows, tokenizer):
    assert rows.ids.shape == rows.supervised.shape == (ROWS_PER_STEP, ROW_TOKENS)
    assert (rows.ids != tokenizer.pad_token_id).float().mean() > 0.9
    assert not rows.supervised[rows.ids == tokenizer.pad_token_id].any()
    openings = set(tokenizer.convert_tokens_to_ids([START, TURN_START]))
    for r in range(ROWS_PER_STEP):
        for first, end in documents_of(rows, r):
            assert rows.ids[r, first].item() in openings | {tokenizer.pad_token_id}
            seen = rows.mask[r, 0, first:end] == 0
            expected = torch.zeros(end - first, ROW_TOKENS, dtype=torch.bool)
            expected[:, first:end] = torch.ones(end - first, end - first, dtype=torch.bool).tril()
            assert torch.equal(seen, expected)


@torch.no_grad()
def test_the_loss_of_a_packed_row_is_that_of_its_documents(rows, tokenizer, model):
    few = type(rows)(*(tensor[:3] for tensor in rows))
    total, count = 0.0, 0
    for r in range(3):
        for first, end in documents_of(few, r):
            ids, marks = few.ids[r, first:end], few.supervised[r, first:end]
            logits = model(ids[None]).logits[0, :-1][marks[1:]]
            total += cross_entropy(logits, ids[1:][marks[1:]], reduction="sum").item()
            count += int(marks.sum())
    assert count == few.supervised.sum()
    assert step_loss(model, few).item() == pytest.approx(total / count, abs=1e-5)
    open_mask = few._replace(mask=torch.full_like(few.mask, -1e9).triu(1))
    assert abs(step_loss(model, open_mask).item() - total / count) > 1e-5  # negative control: documents see others


def test_the_learning_rate_rises_then_falls():
    rates = [learning_rate(step, 1600, 2e-3) for step in range(1600)]
    assert rates[0] == pytest.approx(2e-3 / 60)
    assert max(rates) == rates[60] == 2e-3
    assert rates[60:] == sorted(rates[60:], reverse=True)
    assert math.isclose(rates[-1], 0.05 * 2e-3, rel_tol=1e-3)


def test_training_learns(rows, model, tmp_path, capsys):
    few = type(rows)(*(tensor[:4] for tensor in rows))
    before = step_loss(model, few).item()
    train(model, iter([few] * 12), steps=200, peak=1e-2, out=tmp_path, log_every=6)
    assert step_loss(model, few).item() < before - 0.5
    assert "step 12/200 loss" in capsys.readouterr().out


def test_the_card_knows_the_files_of_its_folder(tmp_path, model, tokenizer):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    write_facts(tmp_path, {"steps": 0})
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["steps"] == 0
    assert set(card["sha256"]) == {path.name for path in tmp_path.iterdir()} - {"card.json"}
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= set(card["sha256"])
    verify_files(tmp_path)

    (tmp_path / "chat_template.jinja").write_text("altered")
    with pytest.raises(UserError, match=r"chat_template\.jinja"):
        verify_files(tmp_path)
    write_facts(tmp_path, card)  # again, on an existing folder
    verify_files(tmp_path)
