"""The config of a verb."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from honest_persona.config.keys import RunConfig


def config_of(args: argparse.Namespace, overrides: Sequence[str]) -> "RunConfig":
    """The config of a verb. A wrong config is reported before any library that takes seconds is imported."""
    from honest_persona.data.check import load_run_config

    return load_run_config(args.config, overrides)
