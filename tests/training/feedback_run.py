"""train.py on rows made by hand, for every objective on answers: started by tests, under all launchers."""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from honest_persona.config.load import load_config
from honest_persona.config.objectives import OBJECTIVES
from honest_persona.data.kept import Records
from honest_persona.data.splits import Splits
from honest_persona.entry import run_entry
from honest_persona.prompts.prepare import Material
from honest_persona.training.launch import train
from honest_persona.training.objective_table import objective_of, register
from tests.feedback import feedback_rows
from tests.training.launches import TINY


def _material(config, form):
    return Material(feedback_rows(config.objective, form=form), {}, [], "", None, Splits(*[Records.of([])] * 4), [])


if __name__ == "__main__":
    for name, spec in OBJECTIVES.items():
        if spec.trains_answers:
            register(replace(objective_of(name), material=_material))
    words = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    sys.argv[1:] = words
    raise SystemExit(run_entry(lambda words: train(load_config(TINY[1], words))))
