"""As a user does it, in processes of their own: push from the command line, then load what the Hub has."""

import os
import re
import subprocess
import sys

import pytest

from tests.hub.conftest import TOKEN
from tests.hub.test_push import WHOLE

pytestmark = pytest.mark.slow

PEFT_ALONE = """
import torch
from peft import PeftModel
from tests.tiny import base_model
ids = torch.tensor([[5, 6, 7, 8, {token}, 9, 10]])
models = [PeftModel.from_pretrained(base_model(), place) for place in ("user/name", {folder!r})]
pushed, local = (model(ids).logits for model in models)
with models[0].disable_adapter():
    base = models[0](ids).logits
assert torch.equal(pushed, local) and torch.equal(pushed[0, :4], base[0, :4]) and not torch.equal(pushed, base)
print("equal")
"""


@pytest.fixture
def python(hub, root, tmp_path):
    """Runs Python in an empty folder of a machine that knows the loopback Hub alone."""
    away = tmp_path / "away"
    away.mkdir()
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    env |= {"HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": TOKEN, "PYTHONPATH": str(root)}
    env |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}

    def run(*words: object, code: int = 0, **changes: str) -> str:
        command = [sys.executable, *map(str, words)]
        done = subprocess.run(command, cwd=away, env=env | changes, capture_output=True, text=True, timeout=300)
        output = done.stdout + done.stderr
        assert done.returncode == code, output
        assert TOKEN not in output
        assert "Traceback" not in output
        return output

    return run


def test_push_and_load_it_back(hub, python, root, run_folder):
    place = ("--adapter", run_folder, "--repo", "user/name")
    output = python("-m", "honest_persona", "push", *place, "--private", "--license", "mit")
    assert set(hub.files("user/name")) == WHOLE
    assert f"pushed and read back: {hub.url}/user/name/commit/" in output
    assert "training_args.bin" in output, "what was left out"

    (example,) = re.findall(r"```python\n(.+?)```", hub.files("user/name")["README.md"].decode(), re.DOTALL)
    said = python("-c", example).splitlines()[-1]
    assert re.search(r" (0\.\d+|1\.0|[\d.]+e-\d+) (clean|truncated|malformed)$", said), said

    assert "equal" in python("-c", PEFT_ALONE.format(token=3, folder=str(run_folder)))

    python(root / "eval.py", "--adapter", "user/name", "--limit", "1", "--max_new_tokens", "4", "--output", "out")
    output = python(root / "eval.py", "--adapter", "user/none", code=2)
    assert "error: adapter: 'user/none' is neither a folder here nor an adapter of the Hub" in output


def test_a_hub_that_fails_ends_with_a_message(hub, python, run_folder):
    hub.fail("/api/repos/create", 403)
    output = python("-m", "honest_persona", "push", "--adapter", run_folder, "--repo", "user/name", code=2)
    assert "error: push to user/name: " in output
    kept = re.search(r"nothing was uploaded; all files are kept in (\S+),", output)[1]
    assert os.path.isfile(os.path.join(kept, "adapter_model.safetensors"))
    assert "user/name" not in hub.branches


def test_export(python, run_folder):
    place = ("--adapter", run_folder, "--output", "plain")
    assert "exported to plain" in python("-m", "honest_persona", "export", *place, "--format", "lora")
    output = python("-m", "honest_persona", "export", *place, "--format", "lora", code=2)
    assert "plain holds something already" in output
