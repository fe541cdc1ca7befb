"""One script per claim about speed and memory: `python -m benchmarks.training --help`. Not part of the package."""

from honest_persona.base.environment import load_environment

load_environment()  # before torch is imported, as in train.py and eval.py: so torch gets the allocator of a real run
