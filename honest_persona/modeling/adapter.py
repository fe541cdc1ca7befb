"""The LoRA adapter: made, gated at the activation point, saved with all that is needed to call it, and loaded back.

Scope `persona` is PEFT's activated LoRA (arXiv 2504.12397) with explicit offsets, scope `all` is plain LoRA. The one
place where "active from the activation point on" becomes arguments for a forward call is `activation_arguments`.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from honest_persona.data.segments import AdapterScope, Kind, Persona, Segment
from honest_persona.data.tokens import TokenFormat
from honest_persona.errors import UserError

# PEFT 0.21 reads the old name of a property that transformers 5 renamed
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)

CARD_FILE = "honest_persona.json"
_FORMAT = 1


@dataclass(frozen=True)
class AdapterCard:
    """What `honest_persona.json` says beside the adapter's weights."""

    persona: Persona
    base_model: str
    base_revision: str | None
    base_fingerprint: str
    default_intervention: str
    trained_topics: list[str] = field(default_factory=list)
    validation_topics: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    """The resolved run config, for the record."""
    versions: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        text = json.dumps({"format": _FORMAT, **asdict(self)}, indent=2, ensure_ascii=False)
        (folder / CARD_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "AdapterCard":
        """Raises UserError: the folder has no card, or one that this version cannot read."""
        path = folder / CARD_FILE
        if not path.is_file():
            raise UserError(f"{folder}: no {CARD_FILE}; name the folder of a finished run, or one of its checkpoints")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT:
                raise UserError(f"{path}: written by another version of honest_persona; update the package")
            return cls(**{**content, "persona": Persona(**content["persona"])})
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a card of this package ({error}); save the adapter again") from error


def add_adapter(model: PreTrainedModel, form: TokenFormat, settings: dict[str, Any]) -> PeftModel:
    """A fresh LoRA adapter on the base model.

    Args:
        settings: `r`, `lora_alpha`, `use_rslora`, `lora_dropout`, `target_modules`, and `autocast_adapter_dtype`.

    Raises:
        UserError: the model has none of the target modules.
    """
    settings = dict(settings)
    autocast = settings.pop("autocast_adapter_dtype", True)
    config = LoraConfig(task_type="CAUSAL_LM", alora_invocation_tokens=_invocation_tokens(form), **settings)
    try:
        return get_peft_model(model, config, autocast_adapter_dtype=autocast)
    except ValueError as error:
        raise UserError(f"target_modules: {error}") from error


def _invocation_tokens(form: TokenFormat) -> list[int] | None:
    """What other software (PEFT alone, llama.cpp) looks for to switch the adapter on; we pass exact offsets instead."""
    if form.persona.adapter_scope == "all":
        return None
    if form.persona.sp_token_id is not None:
        return [form.persona.sp_token_id]
    ids, _ = form.encode_text([Segment(Kind.INTERVENTION, form.persona.intervention_prefix)])
    if not ids:
        raise UserError(
            "intervention_prefix: with adapter_scope persona and add_sp_token false, the adapter is found by this "
            "text, so it cannot be empty"
        )
    return ids


def activation_arguments(scope: AdapterScope, activation: torch.Tensor, length: int) -> dict[str, Any]:
    """Arguments that make one forward or generate call use the adapter from each row's activation point on.

    Args:
        activation: (B,), index of the activation point in rows of `length` tokens.
    """
    return {"alora_offsets": (length - activation).tolist()} if scope == "persona" else {}


def load_adapter(model: PreTrainedModel, folder: Path, trainable: bool = False) -> PeftModel:
    """The adapter of `folder` on its base model.

    Raises:
        UserError: the folder has no adapter, weights are missing or do not fit, or the adapter was never trained.
    """
    try:
        loaded = PeftModel.from_pretrained(model, folder, is_trainable=trainable)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: the adapter cannot be loaded on this base model: {error}") from error
    if not trainable and not any(p.any() for name, p in loaded.named_parameters() if "lora_B" in name):
        raise UserError(f"{folder}: the adapter changes nothing (all its B matrices are zero); it was never trained")
    return loaded


@torch.no_grad()
def check_active(model: PeftModel, form: TokenFormat, prompt_ids: list[int], activation: int) -> None:
    """One forward pass with and one without the adapter: it must act on the suffix, and there alone in scope `persona`.

    Raises:
        UserError: the adapter is silently inactive, or active where it must not be.
    """
    ids = torch.tensor([prompt_ids], device=model.device)
    arguments = activation_arguments(form.persona.adapter_scope, torch.tensor([activation]), len(prompt_ids))
    with_adapter = model(ids, **arguments).logits[0]
    with model.disable_adapter():
        base = model(ids).logits[0]
    if torch.equal(with_adapter[activation:], base[activation:]):
        raise UserError(
            "the adapter is inactive: the logits with and without it are the same. "
            "Load it with honest_persona.load_honest_persona, or check that it was trained"
        )
    if form.persona.adapter_scope == "persona" and not torch.equal(with_adapter[:activation], base[:activation]):
        raise UserError("the adapter acts before its activation point; this PEFT version does not gate it")


def base_fingerprint(model: PreTrainedModel) -> str:
    """A hash of the base model's shape and of samples of its weights: another model, or other weights, differ.

    The samples are the first 1,024 values of 16 parameters spread over the model, in bfloat16, so that the dtype a
    model is loaded in does not matter. Under ZeRO-3 each of them is gathered: all ranks must call this.
    """
    digest = hashlib.sha256()
    named = [(clean, p) for name, p in model.named_parameters() if (clean := _base_name(name)) is not None]
    for name, p in named:
        digest.update(f"{name}:{tuple(getattr(p, 'ds_shape', p.shape))};".encode())
    step = max(1, len(named) // 16)
    for _, p in named[::step]:
        with _gathered(p):
            sample = p.detach().flatten()[:1024].to("cpu", torch.bfloat16)
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _base_name(name: str) -> str | None:
    """The parameter's name in the bare base model; None for an adapter's own parameter."""
    if ".lora_" in name:
        return None
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


@contextmanager
def _gathered(parameter: torch.nn.Parameter) -> Iterator[None]:
    if hasattr(parameter, "ds_id"):  # sharded by ZeRO-3
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            yield
    else:
        yield
