"""One module knows which weights are an adapter's: the names agree with PEFT's files, and nobody else looks."""

from safetensors import safe_open

from honest_persona.modeling.adapters.tuning import (
    base_name,
    changes_nothing,
    gate_of,
    save_weights,
    saved_names,
    ungated,
)
from tests.tiny import base_model, form_of, random_adapter

KNOWS = "modeling/adapters"


def test_names_are_those_of_the_file_and_of_the_base_model(tmp_path):
    bare = [name for name, _ in base_model().named_parameters()]
    model = random_adapter(base_model(), form_of())
    assert [name for own, _ in model.named_parameters() if (name := base_name(own)) is not None] == bare
    own = {name: p for name, p in model.named_parameters() if base_name(name) is None}
    assert list(own) == [name for name, p in model.named_parameters() if p.requires_grad]
    gate = gate_of(model)
    with ungated(model):
        assert gate_of(model) is None
        save_weights(model, tmp_path, own, gate)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert set(file.keys()) == saved_names(model)
    assert f'"alora_invocation_tokens": [\n    {gate[0]}\n  ]' in (tmp_path / "adapter_config.json").read_text()
    assert not changes_nothing(model)
    assert changes_nothing(random_adapter(base_model(), form_of(), std=0))


def test_saving_asks_nobody_about_the_base_model(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *of: asked.append(of))
    model = random_adapter(base_model(), form_of())
    model.peft_config["default"].base_model_name_or_path = "checkpoints/my-run"  # a folder's name reads like a repo's
    save_weights(model, tmp_path / "ours", {n: p for n, p in model.named_parameters() if p.requires_grad}, None)
    assert not asked
    model.save_pretrained(tmp_path / "pefts")
    assert asked == [("checkpoints/my-run", "config.json")], "negative control: PEFT by itself"


def test_nobody_else_tells_weights_by_their_names(root):
    package = root / "honest_persona"
    texts = {path.relative_to(package).as_posix(): path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    said = {name for name, text in texts.items() if any(word in text for word in ("lora_A", "lora_B", '".lora_'))}
    assert {name for name in said if not name.startswith(KNOWS)} == set()
    assert f"{KNOWS}/tuning.py" in said
