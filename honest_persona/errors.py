"""The one exception that means: the user's input is wrong, and the message says where and how to mend it."""

import os
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Bad input from the user. Entry points print the message alone, without a traceback, and exit with code 2."""


def run_entry(main: Callable[[list[str]], None]) -> int:
    """Run an entry point on the command line's arguments; its exit code. Of many ranks, the first one speaks."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0
