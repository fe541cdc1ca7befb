"""How train.py, eval.py and `python -m honest_persona` begin and end: checks before, and what a failure prints.

No access key comes out: not from the command line, and not in a traceback.
"""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from honest_persona.base.errors import RankError, UserError
from honest_persona.base.interrupts import EXIT_CODE, second_ends_at_once


def run_entry(main: Callable[[list[str]], None]) -> int:
    """Run an entry point on the command line's arguments; its exit code. Of many ranks, the first one tells bad input.

    The environment is filled from env.json first, so that whatever `main` imports finds it.
    """
    try:
        with second_ends_at_once():
            return _run(main)
    except KeyboardInterrupt as interrupt:
        if os.environ.get("RANK", "0") == "0":
            sys.stderr.write(f"\ninterrupted: {str(interrupt) or 'nothing was written'}\n")
        return EXIT_CODE


def _run(main: Callable[[list[str]], None]) -> int:
    # imported only here, so that Ctrl-C while they load is told as at any other moment
    from honest_persona.base.console import prepare_streams, tell
    from honest_persona.base.environment import load_environment, redact
    from honest_persona.base.progress import begin_command
    from honest_persona.base.versions import check_versions

    prepare_streams()
    try:
        check_versions()
        load_environment()
        begin_command()
        check_arguments(sys.argv[1:])
        main(sys.argv[1:])
    except UserError as error:
        if os.environ.get("RANK", "0") == "0" or isinstance(error, RankError):
            tell(f"error: {redact(str(error))}")
        return 2
    # Any error: libraries put what they were given into their messages. An excepthook would not do, as wandb sets its
    # own, which prints the traceback as it is. `sys.exit` is what tells wandb that the run has failed.
    except Exception as error:
        if isinstance(error, OSError) and (reason := _not_written(error)):
            if error.errno != errno.ENAMETOOLONG:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to flush at exit
            tell(f"error: {redact(reason)}")
            return 2
        tell(redact("".join(traceback.format_exception(error))).rstrip())
        sys.exit(1)
    return 0


def _not_written(error: OSError) -> str | None:
    """What to do about an output that takes no more; None for other errors."""
    if isinstance(error, BrokenPipeError):
        return "ended early, as the reader of standard output has gone; write into a file in its place: > out.txt"
    if error.errno == errno.ENAMETOOLONG:
        return f"{str(error.filename)[:60]}...: no file or folder can have so long a name; give another one"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    what = error.filename or "standard output, or a file"
    return f"{what} cannot be written to its end ({error.strerror}); make room on that disk, or name another place"


def check_arguments(argv: Sequence[str]) -> None:
    """Refuse access keys on the command line, which wandb, process lists and the shell's history all keep.

    Raises:
        UserError: every argument that looks like a key, or holds one of this process, by the name of its flag.
    """
    from honest_persona.base.environment import is_secret_value
    from honest_persona.config.parsing import COMMIT_KEYS, SECRET_MESSAGE

    found = []
    flag = ""
    for word in argv:
        name, _, value = word.partition("=") if word.startswith("--") else (flag, "", word)
        is_commit = name.removeprefix("--").replace("-", "_") in COMMIT_KEYS and not is_secret_value(f"commit {value}")
        if is_secret_value(name) or (is_secret_value(value) and not is_commit):
            found.append("command line" if is_secret_value(name) or not name else name)
        flag = word if word.startswith("--") and "=" not in word else ""
    if found:
        raise UserError("\n".join(f"{place}: {SECRET_MESSAGE}" for place in dict.fromkeys(found)))
