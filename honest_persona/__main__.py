"""`python -m honest_persona VERB ...`; the verbs are in verbs/, their arguments in cli/."""

import sys

from honest_persona.cli import main
from honest_persona.entry import run_entry

if __name__ == "__main__":
    sys.exit(run_entry(main))
