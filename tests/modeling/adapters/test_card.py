"""A card may come from anyone: it loads, or a UserError names the place; and what has loaded can be used."""

import json
from dataclasses import asdict, replace

import pytest

from honest_persona.base.errors import UserError
from honest_persona.config.load import load_config
from honest_persona.data.selection import Selection
from honest_persona.hub.staging import on_hub
from honest_persona.modeling.adapters.card import CARD_FILE, AdapterCard, RunSettings
from honest_persona.statistics.threshold import Threshold
from tests.fuzz import fuzz, written
from tests.tiny import form_of

THRESHOLD = asdict(Threshold(0.5, 0.01, 300, 300, 0.0, (0.0, 0.01))) | {"intervention": "Speak.", "data": None}
THRESHOLD["interval"] = [0.0, 0.01]
CARD = AdapterCard(
    form_of().persona,
    "builtin:tiny",
    None,
    "0" * 64,
    "Speak.",
    ["sycophancy"],
    config=load_config(None, ["--model", "builtin:tiny"]).as_dict(),
    versions={"torch": "2.13.0"},
    threshold=THRESHOLD,
)
SOUND = json.loads(CARD.as_text())


def load(folder, content) -> AdapterCard:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / CARD_FILE).write_bytes(raw)
    return AdapterCard.load(folder)


def use(card: AdapterCard) -> None:
    """What the verbs do with a card before they have loaded anything."""
    assert json.loads(card.as_text())["persona"]
    assert isinstance(on_hub(card.base_model), bool)
    settings = RunSettings(card.config).over(train_topics="all", validation_topics=[])
    Selection.of(settings)
    assert settings["validation_batch_size"] + settings["max_new_tokens"] + settings["seq_len"] > 0
    assert 0 < settings["val_item_frac"] < 1
    if card.threshold:
        assert Threshold.from_dict(card.threshold).flags([0.1, 0.9]).shape == (2,)


def test_five_hundred_mutated_cards(tmp_path):
    def check(raw: bytes) -> list[str]:
        try:
            use(load(tmp_path, raw))
        except UserError as error:
            return ["refused" if CARD_FILE in str(error) else f"without its place: {error}"]
        return ["loaded"]

    counts = fuzz(500, written(SOUND), check)
    assert set(counts) == {"examples", "refused", "loaded"}
    assert counts["refused"] > 100
    assert counts["loaded"] > 50


def test_it_is_the_same_after_a_trip_and_an_older_one_loads(tmp_path):
    assert load(tmp_path, SOUND) == CARD
    older = {key: value for key, value in SOUND.items() if key not in ("sealed", "threshold")}
    older["config"] = {**older["config"], "a_key_of_former_times": [1, {"a": 2}]}
    assert load(tmp_path, older) == replace(CARD, threshold=None, config=older["config"])


def test_an_objective_of_another_process_is_no_fault(tmp_path):
    """An adapter of a user's own objective loads where nothing registers that objective, as in eval.py."""
    assert load(tmp_path, {**SOUND, "config": {**SOUND["config"], "objective": "own"}}).config["objective"] == "own"


def deep(n: int):
    value: list = []
    for _ in range(n):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("config.x", deep(100)),
        ("config.validation_batch_size", 0),
        ("config.validation_batch_size", 10**9),
        ("config.max_new_tokens", -1),
        ("config.max_new_tokens", 10**15),
        ("config.seq_len", "2048"),
        ("config.seed", 2.5),
        ("config.val_item_frac", 1),
        ("config.tags_to_filter", 3),
        ("config.dataset", ""),
        ("config.dataset", "a\0b"),
        ("config.bf16", []),
        ("config.objective", 3),
        ("threshold", {}),
        ("threshold.value", 1.5),
        ("threshold.value", "0.5"),
        ("threshold.wanted_fpr", 0),
        ("threshold.n", 0),
        ("threshold.n_clusters", 301),
        ("threshold.interval", [0.5]),
        ("threshold.interval", [0.5, 0.1]),
        ("threshold.intervention", None),
        ("persona.sp_token_id", -1),
        ("persona.sp_token_id", True),
        ("persona.flag_prefix", "\ud800"),
        ("versions.torch", 2),
        ("base_model", "a\0b"),
        ("trained_topics", "sycophancy"),
    ],
)
def test_a_tampered_value_is_named(tmp_path, place, value):
    content = json.loads(json.dumps(SOUND))
    *path, key = place.split(".")
    owner = content
    for part in path:
        owner = owner[part]
    owner[key] = value
    with pytest.raises(UserError, match=rf"{CARD_FILE}: not a card of this package") as told:
        load(tmp_path, content)
    assert place.partition(".")[0] in str(told.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_threshold_that_is_no_number(tmp_path, number):
    raw = json.dumps(SOUND).replace('"value": 0.5', f'"value": {number}').encode()
    with pytest.raises(UserError, match="not a card of this package"):
        load(tmp_path, raw)


def test_endless_nesting_and_endless_files(tmp_path):
    with pytest.raises(UserError, match="nested too deep"):
        load(tmp_path, b"[" * 10**6)
    with (tmp_path / CARD_FILE).open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(UserError, match="1073741824 bytes, which is far more"):
        AdapterCard.load(tmp_path)


def test_a_key_that_is_asked_for_and_missing(tmp_path):
    card = load(tmp_path, {**SOUND, "config": {}})
    with pytest.raises(UserError, match=r"honest_persona\.json: config has no max_new_tokens"):
        card.config["max_new_tokens"]
    with pytest.raises(UserError, match="config has no tags_to_filter"):
        use(card)
