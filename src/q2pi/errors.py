"""Mistakes a user can make, answered in one line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what was asked for: its message is one line that names the value, the bound and the flag.

    The command line prints the message and exits with status 2; from Python it is an ordinary exception.
    """


def suggest(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the known word closest to `word`, or "" if none is close."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
