"""`review` and `calibrate` load card, tokenizer and base model once, and encode each conversation once."""

import json
from collections import Counter

import pytest

from honest_persona import cli
from honest_persona.modeling import token_format
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.fingerprint import base_fingerprint
from honest_persona.persona import product
from honest_persona.prompts.tokens import TokenFormat
from tests.tiny import base_model, conversation, form_of, random_adapter

CONFIG = {"max_new_tokens": 2, "validation_batch_size": 2}


@pytest.fixture
def adapter(tmp_path):
    form, base = form_of(), base_model()
    fingerprint = base_fingerprint(base)
    random_adapter(base, form, std=0.5).save_pretrained(tmp_path / "run")
    form.tokenizer.save_pretrained(tmp_path / "run")
    AdapterCard(form.persona, "builtin:tiny", None, fingerprint, "Be honest.", config=CONFIG).save(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def calls(monkeypatch):
    made = Counter()

    def count(owner, name):
        before = getattr(owner, name)

        def counted(*args, **options):
            made[name] += 1
            return before(*args, **options)

        monkeypatch.setattr(owner, name, counted)

    count(token_format, "read_tokenizer")
    count(product, "load_base")
    count(AdapterCard, "load")
    count(TokenFormat, "encode")
    return made


@pytest.mark.parametrize("words", [["review"], ["calibrate", "--fpr", "0.5", "--dry_run"]])
def test_nothing_is_done_twice(adapter, calls, tmp_path, words):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"messages": conversation(n)}) + "\n" for n in range(5)))
    cli.main([*words, "--adapter", str(adapter), "--input", str(source), "--dtype", "float32"])
    # encoded too: the greeting on which the adapter is tried
    assert calls == {"load": 1, "read_tokenizer": 1, "load_base": 1, "encode": 5 + 1}
