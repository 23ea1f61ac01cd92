"""The one exception that stands for bad input."""


class InputError(ValueError):
    """Bad input from the user: one line that names the thing and the remedy.

    The command line prints the message without a traceback and exits with code 2; in Python it is an ordinary
    ``ValueError``.
    """
