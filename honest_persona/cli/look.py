"""Arguments of the verbs in verbs/look.py: what a run reads."""

from typing import TYPE_CHECKING

from honest_persona import verbs
from honest_persona.cli.common import add_verb, positive

if TYPE_CHECKING:
    from honest_persona.cli.common import Verbs


def add(subparsers: "Verbs") -> None:
    verb = add_verb(
        subparsers, verbs.data, "count a config's data by topic, variant, flag, model and reason", takes_config=True
    )
    verb.add_argument("--json", action="store_true", help="print one JSON object")

    verb = add_verb(subparsers, verbs.tokens, "show training records token by token", takes_config=True)
    verb.add_argument("--n", type=positive, default=1, help="number of records (default: 1)")
    verb.add_argument("--json", action="store_true", help="print one JSON object per record")

    add_verb(subparsers, verbs.shortcuts, "predict flags from variant, topic and words alone", takes_config=True)

    add_verb(subparsers, verbs.keys, "print every key of the config with its default and meaning")
