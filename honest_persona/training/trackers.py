"""What a heavy log sends to the trackers that a run reports to: figures, tables and plots (wandb, trackio).

The lines of training come from transformers' own callbacks (`report_to`).
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from honest_persona.evaluation.report import rows_of_topics
from honest_persona.evaluation.samples import Sample
from honest_persona.evaluation.suite import Results

_SAMPLE = ("record_id", "topic", "variant", "truth", "flag", "p_fail", "ending", "review")


def track(step: int, scalars: Mapping[str, float], results: Results, samples: Sequence[Sample], plots: Path) -> None:
    """Send a heavy log to every tracker that has a run open in this process.

    Args:
        samples: a few whole ones.
        plots: a folder of PNG files.
    """
    header, *rows = rows_of_topics(results)
    shown = [[getattr(sample, name) for name in _SAMPLE] for sample in samples]
    for tracker in _open():
        content: dict[str, Any] = dict(scalars)
        content["heavy_log/topics"] = tracker.Table(columns=header, data=rows)
        content["heavy_log/samples"] = tracker.Table(columns=list(_SAMPLE), data=shown)
        content |= {f"heavy_log/{path.stem}": tracker.Image(str(path)) for path in sorted(plots.glob("*.png"))}
        if tracker.__name__ == "wandb":  # counts its own steps: transformers names this one beside the figures
            tracker.log({**content, "train/global_step": step})
        else:
            tracker.log(content, step=step)


def _open() -> Iterator[Any]:
    """Trackers that transformers has imported, because `report_to` names them, and has begun a run of."""
    wandb, trackio = sys.modules.get("wandb"), sys.modules.get("trackio")
    if wandb is not None and wandb.run is not None:
        yield wandb
    if trackio is not None and trackio.context_vars.current_run.get() is not None:
        yield trackio
