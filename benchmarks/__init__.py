"""One script per claim about speed and memory: `python -m benchmarks.training --help`. Not part of the package."""

from honest_persona.base.environment import load_environment

load_environment()  # as train.py and eval.py do before torch is there: its allocator is the one of a run
