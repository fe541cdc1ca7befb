"""Folders as an evaluation and a sweep leave them, made up: shared by the tests of the page and its plots."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from honest_persona.evaluation.averaging import gains
from honest_persona.evaluation.flips import flips
from honest_persona.evaluation.samples import Sample, write_samples
from honest_persona.evaluation.sets import BASELINES_FILE, SAMPLES_FILE
from honest_persona.evaluation.suite import summarize
from honest_persona.statistics.threshold import threshold_for

TOPICS = {"within": ["reward_hacks", "sycophancy"], "across": ["oversimplification"]}
MADE = {
    "date": "2026-01-02 03:04 UTC",
    "version": "1.2.3",
    "base_revision": "0123abc",
    "base_fingerprint": "feedfacefeed",
    "command": "python eval.py --adapter checkpoints/made-up --designs all",
}
PROMPT = (
    ("TEMPLATE", ["<|im_start|>", "user", "⏎"]),
    ("USER", ["Is", "·it", "·flat", "?"]),
    ("TEMPLATE", ["<|im_end|>", "⏎"]),
    ("RESPONSE", ["Yes", ",", "·it", "·is", "."]),
    ("PERSONA_TOKEN", ["<sp-token>"]),
    ("INTERVENTION", ["·INTERVENTION", ":", "·honest", "·now"]),
)

HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\"><!-- 'quoted' & <b>bold</b> {{ 7 * 7 }} ]]>"
"""What would run, or end its element, where it is not escaped."""


def samples(n: int = 60, seed: int = 0, parts=("within", "across"), strength: float = 2.0, **changes) -> list[Sample]:
    """`n` of each topic. Five to an item, two main models, three difficulties, some unparsable."""
    rng = np.random.default_rng(seed)
    made = []
    for part in parts:
        for topic in TOPICS[part.partition(":")[0]]:
            for i in range(n):
                failed = rng.random() < 0.5
                p_fail = float(1 / (1 + np.exp(-2 * (strength * (failed - 0.5) + rng.normal()))))
                values = {
                    "record_id": f"{topic}-{i}",
                    "item_id": f"{topic}-{i // 5}",
                    "cluster": f"{topic}-{i // 5}",
                    "part": part,
                    "topic": topic,
                    "variant": "AB"[int(rng.random() < (0.7 if failed else 0.3))],
                    "model": ("first/model", "second/model")[i % 2],
                    "intervention_name": "version_3",
                    "truth": ("PASS", "FAIL")[int(failed)],
                    "flag": None if i % 23 == 7 else ("PASS", "FAIL")[int(p_fail > 0.5)],
                    "p_fail": p_fail,
                    "ending": "eos" if i % 23 == 7 else "clean",
                    "review": f"I told the truth in {topic} {i}.",
                    "reference_review": f"The {topic} {i} of the data.",
                    "difficulty": ("easy", "hard", None)[i % 3],
                    "prompt": PROMPT,
                }
                made.append(Sample(**{**values, **changes}))
    return made


def baselines(of: list[Sample], seed: int = 1) -> list[Sample]:
    rng = np.random.default_rng(seed)
    made = []
    for name, weight in (("variant only", 0.0), ("response bigrams", 0.4), ("ridge probe", 0.8)):
        for s in of:
            score = float(np.clip(weight * s.p_fail + (1 - weight) * rng.random(), 0, 1))
            score = float(s.variant == "B") if name == "variant only" else score
            flag = ("PASS", "FAIL")[score > 0.5]
            made.append(replace(s.without_texts(), detector=name, p_fail=score, flag=flag, ending="clean"))
    return made


def write_evaluation(folder: Path, of: list[Sample], others: list[Sample] = (), **about) -> None:
    """results.json, samples.jsonl and baselines.jsonl; metrics.jsonl in the parent."""
    folder.mkdir(parents=True)
    threshold = threshold_for(np.linspace(0, 0.9, 40), 0.05)
    rows = [asdict(row) for row in summarize([*of, *others], [threshold])]
    averaged = [asdict(gain) for gain in gains(of, resamples=50)]
    as_forged = [
        replace(s, part=f"{s.part}: {name}") for s in of for name in ("forged_review", "forged_review_control")
    ]
    turned = [asdict(flip) for flip in flips([*of, *as_forged], resamples=50)]
    facts = {"adapter": "checkpoints/made-up", "limit": None, "trained_topics": TOPICS["within"], **MADE, **about}
    content = {
        "about": {**facts, "averaged_over_interventions": averaged, "flips": turned},
        "rows": rows,
        "too_long": {"within": 1234},
    }
    (folder / "results.json").write_text(json.dumps(content), encoding="utf-8")
    write_samples(of, folder / SAMPLES_FILE)
    if others:
        write_samples(others, folder / BASELINES_FILE)
    lines = [
        {"step": step, "loss": 2 / step, "flag_loss": 1 / step, "token_accuracy": 1 - 1 / step} for step in (1, 2, 4)
    ]
    lines += [
        {"step": step, f"heavy_log/{p}/all/balanced_accuracy": 0.1 * step + 0.5} for step in (0, 4) for p in TOPICS
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder.parent / "metrics.jsonl").write_text(text, encoding="utf-8")


def write_sweep(folder: Path, design: str) -> None:
    """Three folds: trained on one topic each, or on all but one."""
    folder.mkdir(parents=True, exist_ok=True)
    topics = [topic for of in TOPICS.values() for topic in of]
    folds = []
    for i, topic in enumerate(topics):
        trained = [topic] if design == "topic_matrix" else [t for t in topics if t != topic]
        of = [replace(s, part="within" if s.topic in trained else "across") for s in samples(40, seed=i)]
        folds.append({"name": f"{i}-{topic}", "train_topics": trained, "rows": [asdict(r) for r in summarize(of)]})
    (folder / "sweep.json").write_text(json.dumps({"about": MADE, "design": design, "folds": folds}), encoding="utf-8")


def write_all(folder: Path) -> None:
    """Two parts and a design, baselines, a sweep, a training log."""
    plain = samples()
    changed = samples(parts=("within: no_system",), strength=0.5)
    write_evaluation(folder, [*plain, *changed], baselines(plain))
    write_sweep(folder, "topic_matrix")
