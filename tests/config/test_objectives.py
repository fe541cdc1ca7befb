"""What objectives declare: defaults, owners, mixtures, and what a config says about all of these."""

import pytest

from honest_persona.base.errors import UserError
from honest_persona.config import objectives
from honest_persona.config.keys import RunConfig
from honest_persona.config.load import load_config
from honest_persona.config.objective_spec import ObjectiveSpec
from honest_persona.config.objectives import OBJECTIVES, declare, loss_keys, owners, spec_of
from honest_persona.config.state_keys import layers_in
from honest_persona.config.trainer_options import options_of

ON_ANSWERS = [name for name, spec in OBJECTIVES.items() if spec.trains_answers and not spec.writes_answers]


def load(*words):
    return load_config(None, words)


def problem(*words):
    with pytest.raises(UserError) as caught:
        load(*words)
    (line,) = str(caught.value).splitlines()
    return line


def test_a_run_has_the_defaults_of_its_objective_and_null_for_keys_of_others():
    config = load("--objective", "cdpo")
    assert (config.beta, config.label_smoothing, config.tau, config.flag_loss_multiplier) == (0.1, 0.1, None, None)
    assert (config.reference, config.reference_logprobs, config.max_nll_rise) == ("start", "auto", 0.4)
    assert load("--objective", "simpo").beta == 2.0
    assert load("--objective", "simpo").reference is None
    persona = RunConfig()
    assert persona.flag_loss_multiplier == 1.0
    assert {getattr(persona, key) for key in (*loss_keys(), "reference", "max_nll_rise")} == {1.0, None}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_stored_config_loads_as_it_was(name, tmp_path):
    config = load("--objective", name)
    assert config.adapter_scope == {"persona": "persona", "reward": "all"}.get(name, "response")
    path = tmp_path / "resolved.json"
    path.write_text(config.to_json())
    assert load_config(str(path)) == config == RunConfig(objective=name)


def test_null_is_the_default_and_a_value_is_kept():
    assert load("--objective", "dpo", "--beta", "null").beta == 0.1
    config = load("--objective", "dpo", "--beta", "3", "--max_nll_rise", "off", "--adapter_scope", "all")
    assert (config.beta, config.max_nll_rise, config.adapter_scope) == (3, "off", "all")
    assert load("--objective", "dpo", "--adapter_scope", "null").adapter_scope == "response"


def test_the_name_of_a_run_tells_its_objective():
    assert load("--objective", "dpo", "--model", "org/Main-1B").run_name == "Main-1B-dpo-response"
    assert load("--model", "org/Main-1B").run_name == "Main-1B-hp-persona"


def test_terms_of_a_mixture_have_weights_and_arguments():
    config = load("--objective", "kto", "--also", "{sft: 0.25}", "--beta", "0.2")
    (kto, weight, given), (sft, sft_weight, nothing) = config.loss_terms
    assert (kto, weight) == (OBJECTIVES["kto"], 1.0)
    assert given == {"beta": 0.2, "desirable_weight": 1.0, "undesirable_weight": 1.0}
    assert (sft, sft_weight, nothing) == (OBJECTIVES["sft"], 0.25, {})


def test_a_reward_model_of_the_organisms_pairs_has_no_judge():
    assert load("--objective", "reward", "--dataset", "builtin:organism-pairs").judge is None
    assert load("--objective", "ppo_offline", "--dataset", "builtin:organism-pairs").judge == "organism"


def test_a_mixture_reads_the_keys_of_all_its_losses():
    config = load("--objective", "sft", *("--model", "m")), load("--objective", "slic", "--also", "{dpo: 1, ipo: 2}")
    assert config[0].reference is None
    assert (config[1].beta, config[1].tau, config[1].delta, config[1].reference) == (0.1, 0.1, 1.0, "start")
    terms = {term.spec.name: dict(term.arguments) for term in config[1].loss_terms}
    assert terms == {"slic": {"delta": 1.0, "nll_weight": 0.1}, "dpo": {"beta": 0.1}, "ipo": {"tau": 0.1}}
    beta = load("--objective", "dpo", "--also", "{simpo: 1}").beta
    assert beta == 0.1, "of two defaults, the objective's own"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--objective sft --beta 0.1",
            "--beta: objective sft does not read this key, which belongs to dpo, cdpo, simpo, kto, "
            "grpo_offline, ppo_offline, repr_mse, repr_direction, repr_rank, grpo, rloo; remove it",
        ),
        (
            "--objective simpo --reference start",
            "--reference: objective simpo does not read this key, which belongs to dpo, cdpo, ipo, kto, grpo_offline, "
            "ppo_offline, repr_mse, repr_direction, repr_rank; remove it",
        ),
        (
            "--objective dpo --repr_layers 3",
            "--repr_layers: objective dpo does not read this key, which belongs to repr",
        ),
        ("--objective repr_rank --repr_schedule linear", "--repr_schedule: objective repr_rank does not read this key"),
        ("--objective repr_mse --repr_layers 3:x", "--repr_layers: must be a layer (3; -1: the last one), a share of"),
        ("--objective repr_mse --repr_layers []", "--repr_layers: must be a layer"),
        ("--objective repr_mse --repr_layers 1.5", "--repr_layers: must be a layer"),
        ("--objective repr_mse --repr_layers true", "--repr_layers: must be a layer"),
        ("--objective repr_mse --repr_sink_filter 0.5", "--repr_sink_filter: must be at least 1"),
        (
            "--objective repr_mse --repr_transform svd --repr_states side_channels",
            "--repr_transform: svd is of the output layer, which reads the residual stream",
        ),
        (
            "--objective dpo --also {repr_mse:&1} --reference_logprobs cached",
            "--reference_logprobs: objective repr_mse reads hidden states, the reference's too",
        ),
        (
            "--objective repr_mse --repr_grad_projection 0.5 --deepspeed ds_configs/zero2.json",
            "--deepspeed: repr_grad_projection changes whole gradients",
        ),
        ("--objective repr_mse --repr_grad_projection 1.5", "--repr_grad_projection: must be at most 1"),
        ("--objective repr_mse --torch_compile true", "--torch_compile: objective repr_mse reads hidden states"),
        (
            "--objective repr_mse --activation_checkpointing_kwargs {use_reentrant:&true}",
            "--activation_checkpointing_kwargs: objective repr_mse reads hidden states",
        ),
        ("--label_smoothing 0.1", "--label_smoothing: objective persona does not read this key, which belongs to cdpo"),
        ("--objective dpo --flag_loss_multiplier 2", "--flag_loss_multiplier: objective dpo does not read this key"),
        ("--also {sft:&0.1}", "--also: objective persona does not read this key, which belongs to sft, csft, dpo"),
        ("--max_nll_rise 2", "--max_nll_rise: objective persona does not read this key"),
        ("--objective dpo --beta 0", "--beta: must be above 0, got 0"),
        ("--objective ipo --tau -1", "--tau: must be above 0, got -1"),
        ("--objective cdpo --label_smoothing 0.5", "--label_smoothing: must be below 0.5, got 0.5"),
        ("--objective cdpo --label_smoothing -0.1", "--label_smoothing: must be at least 0, got -0.1"),
        ("--objective dpo --reference_logprobs disk", "--reference_logprobs: must be one of auto, live, cached"),
        ("--objective grpo_offline --beta 0", "--beta: must be above 0, got 0"),
        ("--objective ppo_offline --clip_range 0", "--clip_range: must be above 0, got 0"),
        ("--objective ppo_offline --gae_lambda 1.1", "--gae_lambda: must be at most 1, got 1.1"),
        ("--objective ppo_offline --discount 0", "--discount: must be above 0, got 0"),
        ("--objective grpo_offline --discount 0.9", "--discount: objective grpo_offline does not read this key, which"),
        ("--objective grpo_offline --also {sft:&1}", "--also: objective grpo_offline does not read this key, which"),
        ("--objective dpo --also {ppo_offline:&1}", "--also: ppo_offline: must be one of sft, csft, dpo"),
        (
            "--objective ppo_offline --tuning full",
            "--tuning: objective ppo_offline trains a head beside an adapter, and",
        ),
        ("--objective ppo_offline --adapter_scope persona", "--adapter_scope: objective ppo_offline: no token of an"),
        ("--objective reward --reference start", "--reference: objective reward does not read this key, which belongs"),
        ("--objective reward --beta 0.1", "--beta: objective reward does not read this key, which belongs to dpo"),
        ("--objective reward --judge none", "--judge: objective reward does not read this key, which belongs to sft"),
        (
            "--objective reward --tuning full",
            "--tuning: objective reward trains a head beside an adapter, and full",
        ),
        ("--objective reward --center_rewards_coefficient -1", "--center_rewards_coefficient: must be at least 0"),
        (
            "--objective reward --adapter_scope response",
            "--adapter_scope: objective reward: a reward model reads the whole conversation; use all, the default",
        ),
        ("--objective dpo --max_nll_rise 0", "--max_nll_rise: must be above 0, got 0"),
        (
            "--objective dpo --adapter_scope persona",
            "--adapter_scope: objective dpo: no token of an answer would be trained; use response (the default) or all",
        ),
        (
            "--adapter_scope response",
            "--adapter_scope: objective persona: reviews have no answer's first token; use persona (the",
        ),
        ("--objective dpo --also {kto:&1}", "--also: kto trains on labels, and dpo on pairs; remove it"),
        (
            "--objective sft --also {dpo:&1}",
            "--also: dpo trains on pairs, and sft on responses; use objective: dpo with also: {sft: WEIGHT}",
        ),
        ("--objective dpo --also {dpo:&1}", "--also: dpo is the objective itself; remove it from also"),
        ("--objective kto --also {csft:&1}", "--also: csft has rows of its own and cannot be mixed"),
        ("--objective csft --also {sft:&1}", "--also: csft has rows of its own and cannot be mixed"),
        ("--objective dpo --also {persona:&1}", "--also: persona: must be one of sft, csft, dpo"),
        ("--objective dpo --also {sft:&0}", "--also: sft: the weight must be a number above 0"),
        ("--objective dpo --also {sft:&much}", "--also: sft: the weight must be a number above 0"),
        ("--objective dpo --also sft", "--also: must be a mapping of objectives to weights, as {sft: 0.1}"),
        ("--objective dpo --augment longer_answer", "--augment: objective dpo trains answers, and this key is about"),
        ("--objective kto --elicitation_type up", "--elicitation_type: objective kto trains answers"),
        ("--objective dpo --loss_type nll", "--loss_type: cannot be set; the loss is the objective's; use objective"),
        (
            "--objective csft --desirable_token_id 5 --undesirable_token_id 5",
            "--undesirable_token_id: must differ from desirable_token_id, got 5 twice",
        ),
    ],
)
def test_one_clear_error(words, message):
    assert problem(*(word.replace("&", " ") for word in words.split())).startswith(message)


def test_the_place_of_a_default_in_the_file_is_named(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("objective: dpo\nbeta: 0.1\n")
    assert load_config(str(path)).beta == 0.1
    with pytest.raises(UserError, match=r"run\.yaml:2: beta: objective slic does not read this key"):
        load_config(str(path), ["--objective", "slic"])


def test_a_reference_is_looked_for_beside_the_config_and_its_words_are_not_paths(tmp_path, monkeypatch):
    (tmp_path / "ref").mkdir()
    (tmp_path / "start").mkdir()
    path = tmp_path / "run.yaml"
    for value, found in {"ref": str(tmp_path / "ref"), "start": "start", "base": "base"}.items():
        path.write_text(f"objective: dpo\nreference: {value}\n")
        assert load_config(str(path)).reference == found


@pytest.mark.parametrize("name", ON_ANSWERS)
def test_the_trainer_of_answers_takes_the_same_fields_as_the_personas(name):
    mine, personas = options_of(name), options_of("persona")
    assert mine.defaults == {**personas.defaults, "logging_first_step": True}
    unused = {"ddp_find_unused_parameters"} if OBJECTIVES[name].has_head else set()
    assert mine.refused.keys() == personas.refused.keys() | unused
    assert mine.fixed == personas.fixed | dict.fromkeys(unused, False), "DDP sees a head in no output"
    assert not any("review" in why or "trigger" in why for why in mine.refused.values())


def test_declarations_are_whole():
    for name, spec in OBJECTIVES.items():
        assert spec.name == name
        assert all(key in RunConfig.model_fields for key in spec.keys)
        assert all(spec.name in owners(key) for key in spec.keys)
    assert owners("model") == ()


@pytest.fixture
def own():
    spec = ObjectiveSpec("own", "labels", True, "rows", "a loss of my own", {"beta": 0.5})
    declare(spec)
    yield spec
    del objectives.OBJECTIVES["own"]


def test_a_declared_objective_is_one_like_the_others(own):
    config = load("--objective", "own")
    assert (config.beta, config.reference, config.adapter_scope) == (0.5, "start", "response")
    assert "own" in problem("--objective", "sft", "--beta", "1")
    assert problem("--objective", "own", "--tau", "1").startswith("--tau: objective own does not read this key")


def test_what_cannot_be_declared(own):
    with pytest.raises(ValueError, match="own is declared already"):
        declare(own)
    with pytest.raises(ValueError, match="objective other: zeta is not one of flag_loss_multiplier, desirable"):
        declare(ObjectiveSpec("other", "pairs", False, "pairs", "", {"zeta": 1.0}))


def test_an_objective_that_is_registered_alone_has_the_personas_rows_and_keys():
    assert spec_of("unheard").own_keys == ("flag_loss_multiplier",)
    assert spec_of("unheard").rows == "records"


def test_only_the_honest_persona_tags_system_prompts_by_itself():
    """A model that was trained on answers is asked by people who write no tag."""
    assert load_config(None).system_tag == "<SYSTEM> "
    assert {load_config(None, ["--objective", name]).system_tag for name in OBJECTIVES if name != "persona"} == {""}
    for given in ('"<SYSTEM> "', "<SYSTEM> "):  # YAML by itself drops the space of the second
        assert load_config(None, ["--objective", "dpo", "--system_tag", given]).system_tag == "<SYSTEM> "
    assert load_config(None, ["--seed", " 7 "]).seed == 7


@pytest.mark.parametrize(
    ("layers", "n", "found"),
    [
        ("0.3:-2", 32, list(range(10, 32))),
        ("0.3:-2", 2, [1]),
        (":", 3, [1, 2, 3]),
        ("2:", 3, [2, 3]),
        (":0.5", 4, [1, 2]),
        (0.5, 6, [3]),
        (0.01, 6, [1]),
        (-1, 6, [6]),
        ((1, -1, 0.5, 3), 6, [1, 3, 6]),
    ],
)
def test_layers_by_index_share_and_range(layers, n, found):
    assert layers_in(layers, n) == found


@pytest.mark.parametrize("layers", [7, 0, -7, "2:1", (1, 9), "0:2"])
def test_layers_that_a_model_does_not_have(layers):
    with pytest.raises(ValueError, match=r"names (no layer|layer .*this model has 1 to 4)"):
        layers_in(layers, 4)
