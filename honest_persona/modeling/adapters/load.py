"""An adapter's folder, loaded on its base model."""

from pathlib import Path

import torch
from peft import PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from honest_persona.base.errors import UserError
from honest_persona.modeling.adapters.folded import fold
from honest_persona.modeling.adapters.folder import read_lora_config
from honest_persona.modeling.adapters.gate import gate_all_shapes
from honest_persona.modeling.adapters.tuning import REFERENCE, changes_nothing, prepare_base, saved_names


def load_adapter(model: PreTrainedModel, folder: Path, trainable: bool = False) -> PeftModel:
    """The adapter of `folder` on its base model.

    Raises:
        UserError: the folder has no adapter, weights are missing, do not fit or are not finite, or the adapter was
            never trained.
    """
    weights = folder / SAFETENSORS_WEIGHTS_NAME
    if not weights.is_file():
        raise UserError(f"{folder}: no {SAFETENSORS_WEIGHTS_NAME}; name the folder of a saved adapter")
    try:
        saved = sound_weights(weights)
        _check_rank(folder)
        prepare_base(model)
        loaded = PeftModel.from_pretrained(model, folder, is_trainable=trainable)
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder}: the adapter cannot be loaded on this base model: {error}") from error
    gate_all_shapes(loaded)
    fold(loaded)
    # PEFT only warns of weights that the file lacks, and ignores weights that the model has no place for
    wanted = saved_names(loaded)
    if wanted != saved:
        raise UserError(
            f"{folder}: the adapter does not fit this base model: {len(wanted - saved)} weights are missing and "
            f"{len(saved - wanted)} have no place, first {min(wanted ^ saved)}; load the model it was trained on"
        )
    if not trainable and changes_nothing(loaded):
        raise UserError(f"{folder}: the adapter changes nothing (all its B matrices are zero); it was never trained")
    return loaded


def add_reference(model: PeftModel, folder: Path) -> None:
    """Put the adapter of `folder` beside the adapter in use, frozen: `tuning.reference_on` switches it on.

    Raises:
        UserError: as in `load_adapter`.
    """
    try:
        sound_weights(folder / SAFETENSORS_WEIGHTS_NAME)
        _check_rank(folder)
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        dtype = any(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
        found = model.load_adapter(str(folder), REFERENCE, is_trainable=False, autocast_adapter_dtype=dtype)
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"reference: {folder} cannot be loaded on this base model: {error}") from error
    if found.unexpected_keys or any(f".{REFERENCE}." in name for name in found.missing_keys):
        raise UserError(f"reference: the adapter {folder} does not fit this base model; name one that was made on it")
    for name, parameter in model.named_parameters():  # PEFT freezes the adapter in use with the new one
        parameter.requires_grad_(name in trained)
    gate_all_shapes(model)
    fold(model)


def sound_weights(path: Path) -> set[str]:
    """The names of an adapter's weights, after every weight has been read.

    Raises:
        UserError: a number in them is not finite.
        SafetensorError: the file is no safetensors file.
    """
    with safe_open(path, "pt") as file:
        names = sorted(file.keys())
        broken = [name for name in names if not file.get_tensor(name).isfinite().all()]
    if broken:
        raise UserError(
            f"{path}: {len(broken)} of its weights hold numbers that are not finite, the first is {broken[0]}; its "
            "training went wrong, or the file is damaged. Take a sound copy, or train again"
        )
    return set(names)


def _check_rank(folder: Path) -> None:
    """Checked before PEFT allocates weights of the rank in adapter_config.json.

    Raises UserError: the weights have another rank.
    """
    rank = read_lora_config(folder).get("r")
    with safe_open(folder / SAFETENSORS_WEIGHTS_NAME, "pt") as file:
        ranks = {file.get_slice(name).get_shape()[0] for name in file.keys() if "lora_A" in name}  # noqa: SIM118
    if ranks - {rank}:
        raise UserError(
            f"{folder}: adapter_config.json names the rank r {rank}, but the weights have {sorted(ranks)}; take a "
            "sound copy, or train again"
        )
