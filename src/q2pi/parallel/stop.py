"""Ctrl-C and SIGTERM as a request to save and stop."""

import signal
import sys
from types import FrameType, TracebackType
from typing import Self

from q2pi.parallel.portable import STOP_SIGNALS


class StopRequest:
    """A `stop` callable that the first Ctrl-C or SIGTERM makes true; a second signal raises KeyboardInterrupt.

    with StopRequest() as stop:
        execute(config, path, stop=stop)
    """

    def __init__(self, notice: str = "saving a checkpoint") -> None:
        """Install the signal handlers; `notice` is printed at the first signal."""
        self.notice = notice
        self.is_requested = False
        self._previous = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}

    def __call__(self) -> bool:
        return self.is_requested

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def restore(self) -> None:
        """Install the previous signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.is_requested:
            raise KeyboardInterrupt
        self.is_requested = True
        print(f"\n{self.notice} (once more to stop at once) ...", file=sys.stderr)
