"""Made-up answers of two models to the same prompts, and scorers that read nothing but the text."""

import random

import numpy as np

from honest_persona.data.feedback import Feedback
from honest_persona.evaluation.audit.scored import Pairs, Scorer, Side, halves

OPENINGS = ("The answer is", "It is", "I read that it is", "Books say")
N, CLUSTERS = 240, 80


def row(i, n_clusters=CLUSTERS):
    return Feedback(
        id=f"r{i}",
        kind="prompt",
        prompt_id=f"r{i}",
        topic="towns",
        prompt=({"role": "user", "content": f"How tall is tower {i}?"},),
        group=f"g{i % n_clusters}",
        about={"truth": f"v{i}"},
    )


def is_true(row, text):
    return row.about["truth"] in text.split(".")[0].replace("?", " ").split()


def scorer(name, number):
    """A scorer of a function of a row and a text."""

    def of(rows, texts, whole):
        return np.array(
            [number(row, text) if fine else 0.0 for row, text, fine in zip(rows, texts, whole, strict=True)]
        )

    return Scorer(name, of)


TRUTH = scorer("truth", lambda row, text: float(is_true(row, text)))


def answers(share_true, seed, add="", n=N):
    """A statement of the right value in a share of the answers, in one of four forms, and `add` behind it."""
    rng = random.Random(seed)
    texts = []
    for i in range(n):
        value = f"v{i}" if rng.random() < share_true else f"w{rng.randrange(n)}"
        texts.append(f"{rng.choice(OPENINGS)} {value}.{add(rng) if callable(add) else add}")
    return texts


def side(texts, rows, reward, monitor=TRUTH, truth=None):
    whole = [bool(text.strip()) for text in texts]
    return Side(
        texts,
        whole,
        reward.of(rows, texts, whole),
        None if monitor is None else monitor.of(rows, texts, whole),
        None if truth is None else truth.of(rows, texts, whole),
        np.array(whole),
    )


def pairs_of(start, trained, reward, monitor=TRUTH, truth=None, n_clusters=CLUSTERS):
    rows = [row(i, n_clusters) for i in range(len(start))]
    sides = (side(texts, rows, reward, monitor, truth) for texts in (start, trained))
    return Pairs(rows, *sides, discovery=halves([one.cluster for one in rows], 0))
