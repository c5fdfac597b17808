"""The moments of one episode as they were shown: pictures and numbers, ready to be shown again."""

from collections import deque
from dataclasses import dataclass
from typing import Any

MAX_BYTES = 64 << 20
"""Bytes of pictures that are kept; after that the oldest moments are dropped."""


@dataclass(frozen=True)
class Shown:
    """One moment of every panel."""

    panels: list[dict[str, Any]]
    pictures: dict[str, tuple[str, bytes]]
    """Name -> (media type, bytes)."""
    values: list[float | None]
    """Value of each panel."""

    @property
    def size(self) -> int:
        """Bytes of the pictures."""
        return sum(len(data) for _, data in self.pictures.values())


class Timeline:
    """The moments 0, 1, ... of an episode; the newest are kept within `max_bytes`, the values of all."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.values: list[list[float | None]] = []
        self._kept: deque[Shown] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.values)

    @property
    def first(self) -> int:
        """Index of the oldest moment that is kept."""
        return len(self.values) - len(self._kept)

    def append(self, shown: Shown) -> None:
        """Add a moment; drop the oldest ones if the bound is exceeded, but never the newest."""
        self.values.append(shown.values)
        self._kept.append(shown)
        self._bytes += shown.size
        while self._bytes > self.max_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popleft().size

    def replace_last(self, shown: Shown) -> None:
        """Replace the newest moment."""
        self._bytes += shown.size - self._kept.pop().size
        self._kept.append(shown)
        self.values[-1] = shown.values

    def cut(self, length: int) -> None:
        """Forget the moments from index `length` on."""
        while len(self.values) > length:
            self.values.pop()
            if self._kept:
                self._bytes -= self._kept.pop().size

    def __getitem__(self, index: int) -> Shown:
        """Return the moment `index`, or the oldest that is kept if it was dropped."""
        return self._kept[max(0, index - self.first)]
