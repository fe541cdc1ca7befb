"""What a run imports, for the process that runs are forked from (launches.py). Nothing here may start a thread."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # as ranks.join does before it imports DeepSpeed

import deepspeed  # noqa: F401

import honest_persona.experiments.evaluate
import honest_persona.hub.during
import honest_persona.hub.push
import honest_persona.training.launch  # noqa: F401
