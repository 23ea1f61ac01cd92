"""What stands for bad input."""


class InputError(ValueError):
    """Bad input from the user: one line that names the thing and the remedy.

    The command line prints the message without a traceback and exits with code 2; in Python it is an ordinary
    ``ValueError``.
    """


class Unavailable(InputError):
    """A model that has an ability in general does not have it as it is configured: the line says why.

    Any method of a protocol in :mod:`lightning_gen.core.protocols` may raise it. Who asked on their own account goes on
    without the ability; where a user asked for it by name, the line is the answer.
    """
