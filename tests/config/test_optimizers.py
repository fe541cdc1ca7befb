"""Every optimizer and schedule that TRL's config class names: told why not, or trained (tests/training)."""

import pytest

from honest_persona.base.errors import UserError
from honest_persona.config import optimizers
from honest_persona.config.load import load_config
from honest_persona.config.trainer_options import options_of
from honest_persona.config.trainer_table import fields_of

FIELDS = fields_of(options_of("persona"))
OPTIMIZERS, SCHEDULES = FIELDS["optim"].choices, FIELDS["lr_scheduler_type"].choices
PLAIN = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}


def test_every_optimizer_of_the_class_is_known():
    known = {*optimizers._PLAIN, *optimizers._PACKAGES, *optimizers._REFUSED}
    assert set(OPTIMIZERS) <= known, "try it: three steps, a checkpoint, a resume; then name it in optimizers.py"
    assert set(SCHEDULES) == {*optimizers._SCHEDULES, "reduce_lr_on_plateau", "greedy"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_without_any_package(name, monkeypatch):
    monkeypatch.setattr(optimizers, "find_spec", lambda _: None)
    if name in PLAIN:
        assert load_config(None, ["--optim", name]).trainer["optim"] == name
        return
    with pytest.raises(UserError) as caught:
        load_config(None, ["--optim", name])
    message = str(caught.value)
    assert message.startswith(f"--optim: {name} ")
    assert message.endswith("take adamw_torch, adafactor or, with bitsandbytes, adamw_8bit")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_with_all_packages(name, monkeypatch):
    monkeypatch.setattr(optimizers, "find_spec", lambda _: "there")
    if optimizers._REFUSED.get(name):
        with pytest.raises(UserError, match=f"--optim: {name} (projects|changes|keeps|trains)"):
            load_config(None, ["--optim", name])
    else:
        load_config(None, ["--optim", name])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["sgd", "momentum"], "must be text as key=value, key=value, got 'momentum'"),
        (["sgd", "momentum=fast"], "momentum must be a number of at least 0, got 'fast'"),
        (["sgd", "momentum=-1"], "momentum must be a number of at least 0, got '-1'"),
        (["sgd", "nesterov=maybe"], "nesterov must be true or false, got 'maybe'"),
        (["sgd", "nesterov=true"], "nesterov needs a momentum above 0"),
        (["sgd", "beta1=0.9"], "sgd does not take beta1; it takes momentum, dampening, nesterov"),
        (["adamw_torch", "beta1=0.9"], "adamw_torch does not take beta1; it takes none; its settings are fields"),
        (["rmsprop", "weight_decay=0.1"], "rmsprop does not take weight_decay"),
    ],
)
def test_optim_args_that_do_not_fit(flags, expected):
    with pytest.raises(UserError, match=f"^--optim_args: {expected}"):
        load_config(None, ["--optim", flags[0], "--optim_args", flags[1]])


def test_optim_args_that_fit():
    for name, text in [("sgd", "momentum=0.9, nesterov=true"), ("rmsprop", "alpha=0.9,centered=false"), ("sgd", "")]:
        assert load_config(None, ["--optim", name, f"--optim_args={text!r}"]).trainer["optim_args"] == text
    with pytest.raises(UserError, match="optim_target_modules: cannot be set; GaLore and APOLLO alone"):
        load_config(None, ["--optim_target_modules", "all-linear"])


SCHEDULE_PROBLEMS = [
    (
        "cosine_with_min_lr",
        None,
        r"needs one of min_lr and min_lr_rate .* as lr_scheduler_kwargs: \{min_lr_rate: 0.1\}",
    ),
    ("cosine_with_min_lr", "{min_lr: 1.0e-6, min_lr_rate: 0.1}", "needs one of min_lr and min_lr_rate"),
    ("cosine_warmup_with_min_lr", "{warmup_lr_rate: 0.1}", "needs one of min_lr and min_lr_rate"),
    ("cosine_with_min_lr", "{min_lr_rate: 2}", "min_lr_rate is a share of learning_rate, so it must be at most 1"),
    ("cosine_with_min_lr", "{min_lr: 1}", r"min_lr must be below learning_rate \(1e-05\), got 1"),
    ("cosine_with_min_lr", "{min_lr: low}", "min_lr must be a number of at least 0, got 'low'"),
    ("cosine", "{min_lr: 1.0e-6}", "cosine does not take min_lr; it takes num_cycles"),
    ("cosine_with_restarts", "{num_cycles: 0.5}", "num_cycles must be a whole number of at least 1"),
    ("linear", "{power: 2}", "linear does not take power; it takes none"),
    ("constant", "{power: 2}", "constant does not take power; it takes none"),
    ("inverse_sqrt", "{timescale: 0}", "timescale must be a whole number of at least 1"),
    ("polynomial", "{lr_end: 1}", "lr_end must be below learning_rate"),
    ("warmup_stable_decay", "{num_decay_steps: 5}", "it is set by warmup_steps, lr_cooldown_frac and lr_min_frac"),
    ("cosine", '"{"', "got text that is no JSON"),
    ("cosine", '"[1]"', "must be a mapping"),
]


@pytest.mark.parametrize(("schedule", "given", "expected"), SCHEDULE_PROBLEMS)
def test_schedules_that_cannot_be_made(schedule, given, expected):
    flags = [] if given is None else ["--lr_scheduler_kwargs", given]
    with pytest.raises(UserError, match=rf"lr_scheduler_kwargs( \(default\))?: .*{expected}"):
        load_config(None, ["--lr_scheduler_type", schedule, *flags])


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_schedules_that_need_an_evaluation(schedule):
    with pytest.raises(UserError, match=f'--lr_scheduler_type: "{schedule}" needs the Trainer\'s own evaluation'):
        load_config(None, ["--lr_scheduler_type", schedule])
    with pytest.raises(UserError, match="polynomial ends at lr_end 1e-07"):
        load_config(None, ["--lr_scheduler_type", "polynomial", "--learning_rate", "1e-8"])
