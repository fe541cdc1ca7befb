"""A fitted probe: frozen, scores hidden states without a model, saved as safetensors with a JSON file beside it.

probe = Probe.load(folder)
probe.check_model(model)                         # another base model is an error
probe.check_format(form)                         # of a probe of answers: another prompt format is an error
p_fail = probe.score(states[probe.site])         # needs no model, trainer or config: a baseline, or a reward
"""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from honest_persona.base import json_text
from honest_persona.base.errors import UserError
from honest_persona.base.files import moved_into, write_text
from honest_persona.base.manifest import MANIFEST, Damaged, check, seal
from honest_persona.config.persona import Persona
from honest_persona.modeling.fingerprint import base_fingerprint
from honest_persona.probes.features import PAIRS, Model, Position, Site
from honest_persona.prompts.feedback import format_fingerprint
from honest_persona.prompts.tokens import TokenFormat

Method = Literal["ridge", "logistic", "ccs", "vinc", "inlp"]
ALL_METHODS: tuple[Method, ...] = get_args(Method)
METHODS: tuple[Method, ...] = ("ridge", "logistic", "ccs", "vinc")
"""Those that are fitted on records with all states in memory (selection.py); layers.py fits all."""

WEIGHTS_FILE, PROBE_FILE = "probe.safetensors", "probe.json"
_FORMAT = 1


@dataclass(frozen=True)
class Readout:
    """From states to P(FAIL): `z = normalised states @ weight + bias`, then a formula that depends on the method.

    - ridge, logistic, inlp: states (n, d); P = sigmoid(z).
    - ccs: states (n, 2, d); P = (p(FAIL side) + 1 - p(PASS side)) / 2 with p = sigmoid(z). Burns et al. 2022,
      arXiv 2212.03827, section 2.2.
    - vinc: states (n, 2, d); P = sigmoid((z(FAIL side) - z(PASS side)) / 2), bias added once: the elk library's
      prediction on a contrast pair.
    """

    method: Method
    weight: Tensor
    """(d,) float32"""
    bias: Tensor
    """() float32"""
    mean: Tensor
    """(d,), or (2, d) for pairs: subtracted from the states"""
    scale: Tensor
    """Same shape: the states are then divided by it"""

    def score(self, states: Tensor) -> Tensor:
        """P(FAIL), (n,) float32, for states (n, d) or pairs (n, 2, d).

        Raises:
            ValueError: states of another shape.
        """
        if self.method != "ccs":
            return torch.sigmoid(self.margin(states))
        p = torch.sigmoid(self._side_margins(states))
        return (p[:, 1] + 1 - p[:, 0]) / 2

    def margin(self, states: Tensor) -> Tensor:
        """Log odds of FAIL, (n,) float32; for CCS the mean of the two sides' log odds."""
        z = self._side_margins(states)
        if self.method not in ("ccs", "vinc"):
            return z
        half_difference = (z[:, 1] - z[:, 0]) / 2
        return half_difference + self.bias if self.method == "vinc" else half_difference

    def _side_margins(self, states: Tensor) -> Tensor:
        if states.shape[1:] != self.mean.shape:
            wanted = tuple(self.mean.shape)
            raise ValueError(f"a {self.method} probe reads states of shape (n, {wanted}), got {tuple(states.shape)}")
        return ((states.float() - self.mean) / self.scale) @ self.weight + self.bias

    def scaled(self, slope: float, intercept: float) -> "Readout":
        """The readout whose margin is `slope * margin + intercept`."""
        return replace(self, weight=self.weight * slope, bias=self.bias * slope + intercept)

    def signed(self, states: Tensor, fail: Tensor) -> "Readout":
        """This readout or its opposite: the one that ranks these *training* states better."""
        return self if auroc(self.score(states), fail) >= 0.5 else self.scaled(-1.0, 0.0)


@dataclass(frozen=True)
class Probe:
    """A readout with all facts needed to use it in the same way again."""

    readout: Readout
    site: Site
    base_model: str
    base_fingerprint: str
    persona: Persona
    """How the transcripts were shown."""
    about: dict[str, Any] = field(default_factory=dict)
    """How the probe was fitted: numbers of records, regularisation, cross-validation. Nothing reads these values."""
    token_format: str | None = None
    """Of a probe of answers: `prompts.feedback.format_fingerprint` of the format in which they were shown."""
    wording: str | None = None
    """Of a probe of answers at the flags: the trigger's text behind each answer."""

    def score(self, states: Tensor) -> Tensor:
        """P(FAIL), (n,), from states of `self.site`: `Readout.score`."""
        return self.readout.score(states)

    def check_model(self, model: Model) -> None:
        """Raises UserError: the probe was fitted on another base model, or on other weights of it."""
        fingerprint = base_fingerprint(model)
        if fingerprint != self.base_fingerprint:
            raise UserError(
                f"probe: fitted on {self.base_model!r} (fingerprint {self.base_fingerprint[:12]}), but this model has "
                f"{fingerprint[:12]}; load that base model, or fit the probe again"
            )

    def check_format(self, form: TokenFormat) -> None:
        """Raises UserError: the probe was fitted on prompts and answers in another format, or not on answers."""
        if self.token_format is None:
            raise UserError(
                "probe: fitted on records with a trigger, and not on answers; fit a probe of answers with "
                "`python -m honest_persona probe`"
            )
        if (found := format_fingerprint(form)) != self.token_format:
            raise UserError(
                f"probe: fitted on answers in another prompt format (fingerprint {self.token_format[:12]}, and this "
                f"one has {found[:12]}): the chat template, the tokenizer, system_tag or tools_as_text differs. Show "
                "answers as the probe saw them, or fit the probe again"
            )

    def save(self, folder: Path) -> None:
        """Into a folder of its own, with a manifest. Raises UserError: the folder is an adapter's or a checkpoint's."""
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / MANIFEST).exists() and not (folder / PROBE_FILE).exists():
            raise UserError(f"{folder} holds something else that has a manifest; name a folder of the probe's own")
        tensors = {name: getattr(self.readout, name).contiguous() for name in _TENSORS}
        with moved_into(folder / WEIGHTS_FILE) as part:
            save_file(tensors, part)
        saved = _Saved(
            self.readout.method,
            *self.site,
            self.base_model,
            self.base_fingerprint,
            self.persona,
            self.about,
            self.token_format,
            self.wording,
        )
        content = {"format": _FORMAT, **_SAVED.dump_python(saved)}
        write_text(folder / PROBE_FILE, json_text.dumps(content, indent=2, ensure_ascii=False) + "\n")
        seal(folder, {}, [PROBE_FILE, WEIGHTS_FILE])

    @classmethod
    def load(cls, folder: Path) -> "Probe":
        """Raises UserError: no probe there, one that is not what was saved, or one that this version cannot read."""
        if (folder / MANIFEST).exists():  # older versions wrote none
            try:
                check(folder)
            except Damaged as damage:
                raise UserError(f"{folder}: {damage}; fit the probe again") from damage
        if missing := [name for name in (PROBE_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]:
            raise UserError(f"{folder}: no {missing[0]}; name the folder of a saved probe")
        try:
            saved = json_text.loads((folder / PROBE_FILE).read_text(encoding="utf-8"))
            if saved.pop("format") != _FORMAT:
                raise UserError(f"{folder / PROBE_FILE}: written by another version of honest_persona; update it")
            saved = _SAVED.validate_json(json_text.dumps(saved), strict=True)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, UserError):
                raise
            first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise UserError(f"{folder / PROBE_FILE}: not a probe of this package ({first}); fit it again") from error
        try:
            tensors = load_file(folder / WEIGHTS_FILE)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{folder / WEIGHTS_FILE}: cannot be read ({error}); fit the probe again") from error
        _check_tensors(tensors, saved.position, folder / WEIGHTS_FILE)
        return cls(
            Readout(saved.method, **tensors),
            Site(saved.layer, saved.position),
            saved.base_model,
            saved.base_fingerprint,
            saved.persona,
            saved.about,
            saved.token_format,
            saved.wording,
        )


_TENSORS = tuple(f.name for f in fields(Readout) if f.name != "method")


@dataclass(frozen=True)
class _Saved:
    """What probe.json holds beside its format."""

    method: Method
    layer: int
    position: Position
    base_model: str
    base_fingerprint: str
    persona: Persona
    about: dict[str, Any]
    token_format: str | None = None
    wording: str | None = None


_SAVED = TypeAdapter(_Saved)


def _check_tensors(tensors: dict[str, Tensor], position: Position, path: Path) -> None:
    d = tensors["weight"].shape[-1:] if "weight" in tensors else ()
    states = (2, *d) if position in PAIRS else tuple(d)
    wanted = {"weight": tuple(d), "bias": (), "mean": states, "scale": states}
    if {name: tuple(t.shape) for name, t in tensors.items()} != wanted:
        raise UserError(f"{path}: its tensors are not those of a probe at {position}; fit the probe again")
    if any(t.dtype != torch.float32 or not t.isfinite().all() for t in tensors.values()):
        raise UserError(f"{path}: its weights are not finite numbers in float32; fit the probe again")


def auroc(scores: Tensor, fail: Tensor) -> float:
    """Area under the ROC curve; `fail` (n,) bool, of both kinds."""
    return float(roc_auc_score(fail.numpy(), scores.numpy()))


def platt(margins: Tensor, fail: Tensor) -> tuple[float, float]:
    """Slope (never negative) and intercept that turn margins into log odds: Platt scaling, one logistic regression.

    Args:
        margins: (n,), of states that the readout was not fitted on; on others the margins are too good.
    """
    spread = float(margins.std()) or 1.0
    regression = LogisticRegression(C=100.0).fit(np.asarray(margins / spread)[:, None], fail.numpy())
    slope = max(float(regression.coef_[0, 0]) / spread, 0.0)
    return slope, float(regression.intercept_[0])
