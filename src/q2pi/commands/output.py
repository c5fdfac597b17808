"""Standard output for `--json`, JSON and nothing else whatever an environment prints; tracebacks of environments."""

import atexit
import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from q2pi.envs.errors import EnvError
from q2pi.errors import UserError
from q2pi.parallel.portable import flush_c_output

OUT, ERR = 1, 2
"""File descriptors of standard output and standard error."""
PLAIN_SECONDS = 10.0
"""Least seconds between two lines of progress in logs and pipes."""


@contextmanager
def prints_to_stderr(enabled: bool) -> Iterator[None]:
    """Send to standard error what is printed inside, also by C code and other processes, and what is printed at exit.

    Args:
        enabled: False changes nothing.
    """
    if not enabled:
        yield
        return
    sys.stdout.flush()
    try:
        saved = os.dup(OUT)
    except OSError:  # standard output is closed
        yield
        return
    plain = sys.stdout
    os.dup2(ERR, OUT)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        # Text in buffers of C and of the stream is written while the descriptor still leads to standard error.
        flush_c_output()
        with contextlib.suppress(ValueError):
            plain.flush()
        sys.stdout = plain
        os.dup2(saved, OUT)
        os.close(saved)
        atexit.register(_redirect)


def environment_traceback(problem: UserError) -> str:
    """Return the traceback of the exception that an environment raised, from its own code on; "" if there is none."""
    cause = problem.__cause__
    if not isinstance(problem, EnvError) or cause is None:
        return ""
    first = trace = cause.__traceback__
    while trace is not None and _package(trace) in ("q2pi", "gymnasium"):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(cause), cause, trace or first))


def _package(trace: TracebackType) -> str:
    return str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]


def _redirect() -> None:
    """Send to standard error what simulators print when the interpreter ends; hooks that were registered later run
    earlier."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        os.dup2(ERR, OUT)
