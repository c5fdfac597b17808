"""The connection of this process to a Ray cluster, and errors of Ray in one line.

connect("auto", cpus=1)
try:
    ...
finally:
    disconnect()
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from q2pi.errors import UserError

ANSWER_SECONDS = 9.0
"""Seconds in which the address of a cluster must answer."""
OBJECT_STORE_BYTES = 200_000_000
"""Size of the object store of `--ray local`; jobs use it only for folders that are shipped."""


def connect(address: str, cpus: int) -> None:
    """Connect this process to a cluster, or start one in this process's own session for "local".

    Args:
        address: local, auto, HOST:PORT or ray://HOST:PORT.
        cpus: number of CPUs of a "local" cluster.

    Raises:
        UserError: ray is not installed, or the address does not answer within `ANSWER_SECONDS`.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without this, the first node starts a process for metrics, which takes memory and a port.
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    try:
        import ray
    except ImportError as problem:
        raise UserError("--ray needs Ray: pip install 'q2pi[ray]'") from problem
    deadline = time.monotonic() + ANSWER_SECONDS
    _check_answers(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        local: dict[str, Any] = {
            "num_cpus": cpus,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
        ray.init(address="local", **options, **local)
        return
    problems: list[BaseException] = []

    def init() -> None:
        try:
            ray.init(address=address, **options)
        except BaseException as problem:
            problems.append(problem)

    # Without the thread, a port that accepts connections and never answers would block for a minute.
    thread = threading.Thread(target=init, daemon=True)
    with _silence():  # Ray's C++ code prints a line for each of its retries
        thread.start()
        thread.join(deadline - time.monotonic())
    if thread.is_alive():
        _leave(f"--ray {address} does not answer within {ANSWER_SECONDS:.0f} seconds")
    if problems:
        raise UserError(f"--ray {address} cannot be used: {first_line(problems[0])}") from problems[0]


def disconnect() -> None:
    """Disconnect this process; a "local" cluster ends."""
    import ray

    ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise a UserError if nothing listens at HOST:PORT; "local" and "auto" name no port."""
    if address in ("local", "auto"):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not host or not port.isdigit():
        raise UserError(f"--ray {address}: it must be local, auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS / 3).close()
    except (OSError, OverflowError) as problem:
        reason = "no answer" if isinstance(problem, TimeoutError) else first_line(problem).lower()
        raise UserError(f"--ray {address} does not answer: {reason}") from problem


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Discard what this process writes to its standard error."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _leave(message: str) -> None:
    """End the process with the message and status 2: the thread that waits for the cluster cannot be stopped."""
    print(f"q2pi: {message}", file=sys.stderr, flush=True)
    os._exit(2)


def first_line(problem: BaseException) -> str:
    """Return the first line of an error, or its type if it has no message."""
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return next(iter(str(problem).strip().splitlines()), type(problem).__name__)


def last_line(problem: BaseException) -> str:
    """Return the last line of an error of Ray, which names the exception in the actor."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[-1] if lines else type(problem).__name__
