"""Exceptions that mean: no defect of the program, and the message says what is wrong, where, and how to mend it."""


class UserError(ValueError):
    """Bad input from the user. Entry points print the message alone, without a traceback, and exit with code 2."""


class RankError(UserError):
    """What one rank of many has met alone (a full disk, a loss that is not a number), so that rank tells it."""
