"""Mistakes a user can make, answered in one line."""


class UserError(Exception):
    """A mistake in what was asked for: its message is one line that names the value, the bound and the flag.

    The command line prints the message and exits with status 2; from Python it is an ordinary exception.
    """
