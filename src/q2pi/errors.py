"""Errors of the user, with messages of one line."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """An invalid option or input: its message is one line that names the value, the bound and the flag.

    The command line prints the message and exits with status 2; from Python it is an ordinary exception.
    """

    def __str__(self) -> str:
        # A space or another library's error in the message may be printed in several lines.
        return " ".join(line.strip() for line in self.text().splitlines())

    def text(self) -> str:
        """Return the message as it was given."""
        return super().__str__()


def suggest(word: str, known: Iterable[str], most: int = 1) -> str:
    """Return " (did you mean 'x'?)" for the known words closest to `word`, ignoring case; "" if none is close.

    Args:
        word: an unknown word.
        known: valid words.
        most: largest number of suggestions.
    """
    spelled = {name.lower(): name for name in known}
    close = [repr(spelled[key]) for key in get_close_matches(word.lower(), spelled, n=most)]
    return f" (did you mean {' or '.join(close)}?)" if close else ""
