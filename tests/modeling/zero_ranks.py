"""Run by test_zero.py on two ranks: trains under ZeRO-3, evaluates between the steps, and writes what it saw."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

from honest_persona.evaluation import suite
from honest_persona.evaluation.settings import EvalSettings
from honest_persona.modeling import zero
from honest_persona.training.ranks import join
from tests.modeling.test_zero import NEW_TOKENS, WAYS, evaluated_records, loss_of, model_and_form

CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "zero_allow_untested_optimizer": True,
    "gradient_clipping": 0.0,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 100},
}


def hooks_of(model):
    return [list(hooks.items()) for m in model.modules() for hooks in (m._forward_pre_hooks, m._forward_hooks)]


def available(model):
    return {p.ds_status == ZeroParamStatus.AVAILABLE for p in model.parameters() if p.ds_numel > 100}


def main(output: Path) -> None:
    join(use_deepspeed=True)
    model, form = model_and_form()
    trained = [p for p in model.parameters() if p.requires_grad]
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.SGD(trained, lr=0.1), config=CONFIG)
    engine.train()
    seen = {"losses": [], "evaluations": {}, "whole": [], "hooks_are_back": [], "sharded_again": []}
    before = hooks_of(model)

    each_review = suite.each_review

    def look_and_write(model, batches, *how):
        """When a batch is asked for: whether the weights are whole, and stay so."""

        def looked():
            for batch in batches:
                seen["whole"].append(available(model) == {True} and not zero.is_sharded(model))
                yield batch

        return each_review(model, looked(), *how)

    suite.each_review = look_and_write
    for name, gather in WAYS.items():
        loss = loss_of(engine, form)
        engine.backward(loss)
        engine.step()
        seen["losses"].append(loss.item())
        if name == "too large":
            zero.free_memory = lambda _: dist.get_rank() * 1e12  # it fits on one rank of two
        settings = EvalSettings(2, NEW_TOKENS, gather=gather)
        results = suite.evaluate_records(model, {"within": evaluated_records()}, form, settings)
        seen["evaluations"][name] = [[s.review, s.p_fail] for s in results.samples]
        seen["hooks_are_back"].append(hooks_of(model) == before)
        seen["sharded_again"].append(available(model) == {False})
    try:
        with zero.gathered(model, True) as whole:
            seen["whole"].append(whole)
            raise RuntimeError("out of memory")
    except RuntimeError as error:
        seen["error"] = str(error)
    seen["hooks_are_back"].append(hooks_of(model) == before)
    seen["sharded_again"].append(available(model) == {False})
    seen["losses"].append(loss_of(engine, form).item())
    if dist.get_rank() == 1:
        output.write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[-1]))
