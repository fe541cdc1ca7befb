"""One script per claim about speed and memory: `python -m benchmarks.training --help`. Not part of the package."""
