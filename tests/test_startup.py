"""What needs no model imports no library of models: help texts, `keys`, `data`, and what is wrong with a config."""

import subprocess
import sys

import pytest

from honest_persona.cli import _parser

HEAVY = ["torch", "transformers", "peft", "trl", "accelerate", "deepspeed", "sklearn", "pandas", "datasets", "scipy"]
HEAVY += ["matplotlib", "wandb", "evaluate"]
RUN = f"""
import runpy, sys

def run(script, *argv):
    sys.argv = [script, *argv]
    try:
        if script == "-m":
            runpy.run_module("honest_persona", run_name="__main__")
        else:
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        loaded = [name for name in {HEAVY} if name in sys.modules]
        print(f"RAN {{' '.join(sys.argv)}}: exit {{end.code}}, imported {{loaded}}")
"""


def runs(root, *commands: list[str]) -> list[str]:
    """One line per command, all run in one process, where what one imports stays for the next."""
    code = RUN + "\n".join(f"run(*{command!r})" for command in commands)
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RAN ")]
    assert len(lines) == len(commands), done.stderr
    return lines


def expected(code: int, *commands: list[str]) -> list[str]:
    return [f"RAN {' '.join(command)}: exit {code}, imported []" for command in commands]


def test_help_and_keys(root):
    (verbs,) = (action.choices for action in _parser()._actions if action.dest == "verb")
    assert len(verbs) > 10
    helps = [["train.py", "--help"], ["eval.py", "--help"], ["-m", "--help"]]
    helps += [["-m", verb, "--help"] for verb in verbs]
    commands = [*helps, ["-m", "keys"]]
    assert runs(root, *commands) == expected(0, *commands)


@pytest.mark.parametrize("dataset", ["builtin:sample", "builtin:organism"])
def test_counting_the_data(root, dataset):
    command = ["-m", "data", "--config", "hp.yaml", "--dataset", dataset, "--validation_topics", "[sycophancy]"]
    assert runs(root, command, [*command, "--json"]) == expected(0, command, [*command, "--json"])


def test_what_is_wrong_with_a_config(root):
    wrong = [
        ["--learning_rat", "1"],
        ["--packing"],
        ["--objective", "magic"],
        ["--objective", "sft", "--beta", "0.1"],
        ["--objective", "simpo", "--reference", "start"],
        ["--objective", "dpo", "--beta", "0"],
        ["--objective", "cdpo", "--label_smoothing", "0.5"],
        ["--objective", "dpo", "--adapter_scope", "persona"],
        ["--objective", "dpo", "--also", "{kto: 1}"],
        ["--lora_r", "x"],
        ["--max_steps", "x"],
        ["--optim", "x"],
        ["--deepspeed", "absent.json"],
        ["--bf16", "--fp16"],
        ["--train_topics", "[nope]"],
        ["--dataset", "absent.jsonl"],
    ]
    with_config = ["--config", "tests/tiny_run.yaml"]
    commands = [["train.py", *with_config, *argv] for argv in wrong]
    for verb in (["data"], ["tokens"], ["shortcuts"], ["organism", "report"], ["sweep", "--follow_up"]):
        commands.append(["-m", *verb, *with_config, "--max_steps", "x"])
    commands += [["-m", "sweep", "--follow_up", *with_config, "--push_to_hub"], ["-m", "report", "absent"]]
    assert runs(root, *commands) == expected(2, *commands)


def test_the_count_sees_what_is_imported(root, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys, wandb\nsys.exit(0)\n")
    (line,) = runs(root, [str(script)])
    assert line.startswith(f"RAN {script}: exit 0, imported ['wandb'")
