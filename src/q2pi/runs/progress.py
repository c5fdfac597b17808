"""Formatting of the progress of a run."""

RECENT_EPISODES = 20
"""Number of newest training episodes in the mean that is shown as the return."""


def clock(seconds: float) -> str:
    """Return seconds, rounded down, as [hours:]minutes:seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
