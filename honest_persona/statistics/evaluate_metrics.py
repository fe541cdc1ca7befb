"""The metrics for Hugging Face's `evaluate`; they need no network.

ScoreMetrics().compute(predictions=p_fail, references=truths)
FlagMetrics().compute(predictions=flags, references=truths)
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from honest_persona.statistics.columns import Columns
from honest_persona.statistics.detection import detect
from honest_persona.statistics.metrics import FPRS, named
from honest_persona.statistics.rates import RATES, count_flags
from honest_persona.statistics.threshold import threshold_for


def _about(what: str, predictions: str, dtype: str) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=f"{what}; FAIL is the positive class.",
        citation="",
        inputs_description=f"predictions: {predictions}; references: PASS or FAIL.",
        features=datasets.Features({"predictions": datasets.Value(dtype), "references": datasets.Value("string")}),
    )


class ScoreMetrics(evaluate.Metric):
    """AUROC, Brier score, calibration error and true positive rates of P(FAIL) against PASS and FAIL.

    `compute(predictions=p_fail, references=truths, benign_scores=..., clusters=...)`; with `clusters` (one name per
    record) it returns `intervals` too.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _about("Detection metrics of P(FAIL)", "P(FAIL) in [0, 1]", "float64")

    def _compute(
        self,
        predictions: Sequence[float],
        references: Sequence[str],
        benign_scores: Sequence[float] | None = None,
        clusters: Sequence[str] | None = None,
        seed: int = 0,
        resamples: int = 1000,
    ) -> dict[str, Any]:
        n = len(references)
        names = [str(i) for i in range(n)] if clusters is None else clusters
        columns = Columns.of(references, [None] * n, predictions, names)
        fixed = [] if benign_scores is None else [threshold_for(benign_scores, fpr) for fpr in FPRS]
        found = detect(columns, fixed, seed, resamples if clusters is not None else 2)
        found = {name: e for name, e in found.items() if (metric := named(name)) and metric.of_scores}
        out: dict[str, Any] = {name: np.nan if e.value is None else e.value for name, e in found.items()}
        if clusters is not None:
            out["intervals"] = {name: estimate.interval for name, estimate in found.items()}
        return out | {"n": n, "notes": {name: e.note for name, e in found.items() if e.note}}


class FlagMetrics(evaluate.Metric):
    """Rates of RATES over string flags; an empty prediction is an unparsable review."""

    def _info(self) -> evaluate.MetricInfo:
        return _about("Detection rates of PASS and FAIL flags", "PASS, FAIL or the empty string", "string")

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        counts = count_flags([p or None for p in predictions], references).sum(0)
        return {name: float(rate(counts)) for name, rate in RATES.items()} | {"n": int(counts.sum())}
