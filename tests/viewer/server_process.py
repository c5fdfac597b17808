"""A viewer in a process of its own, as a user starts it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import q2pi

SOURCES = Path(q2pi.__file__ or "").parent.parent


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    process: "subprocess.Popen[str]"

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    @property
    def token(self) -> str:
        return parse_qs(urlsplit(self.url).query)["token"][0]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def start(*arguments: str) -> "subprocess.Popen[str]":
    """Start a q2pi command."""
    command = [sys.executable, "-m", "q2pi", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment())


@contextmanager
def serving(*arguments: str) -> Iterator[Server]:
    """Start a viewer on a free port; stop it with Ctrl-C at the end, and check its exit."""
    process = start(*arguments, "--port", "0", "--no-browser", "--nice", "0")
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), process.communicate(timeout=60)
        yield Server(url, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, "Traceback" in errors) == (0, False), errors
    finally:
        process.kill()
