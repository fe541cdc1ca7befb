"""The kinds of rewards by name. Another kind is one call:

register("brevity", lambda what, reading: Brevity(int(what)), "brevity:N")
"""

from collections.abc import Callable

from honest_persona.base.errors import UserError
from honest_persona.config.reward_keys import FORMS
from honest_persona.rewards.classifier import Classifier
from honest_persona.rewards.column import Column
from honest_persona.rewards.endpoint import EndpointVerdict
from honest_persona.rewards.persona import PersonaReward
from honest_persona.rewards.probe import ProbeReward
from honest_persona.rewards.python_function import PythonFunction
from honest_persona.rewards.reward import Reading, Reward
from honest_persona.rewards.verdict import Verdict

Make = Callable[[str, Reading], Reward]
KINDS: dict[str, Make] = {}


def reward_from(text: str, reading: Reading | None = None) -> Reward:
    """The reward that `kind:what` names, or `kind` alone where it needs no more.

    Raises:
        UserError: an unknown kind, or a kind that cannot find its `what`.
    """
    kind, _, what = text.partition(":")
    if kind not in KINDS:
        raise UserError(f"reward {text!r} is of no known kind; write one of {', '.join(FORMS.values())}")
    return KINDS[kind](what, reading or Reading())


def register(kind: str, make: Make, form: str) -> None:
    """Add a kind for this process.

    Args:
        make: gets the text after `kind:` and what is read; raises UserError where the text is wrong.
        form: how the kind is written, for messages.
    """
    assert kind not in KINDS, f"{kind!r} is taken"
    KINDS[kind], FORMS[kind] = make, form


register("persona", PersonaReward, FORMS["persona"])
register("probe", ProbeReward, FORMS["probe"])
register("verdict", Verdict, FORMS["verdict"])
register("endpoint", EndpointVerdict, FORMS["endpoint"])
register("model", Classifier, FORMS["model"])
register("column", Column.of, FORMS["column"])
register("python", PythonFunction.of, FORMS["python"])
