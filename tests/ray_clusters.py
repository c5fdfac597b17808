"""Ray clusters on loopback for tests: each node is a `ray start` with its own folder and ports."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

# One token for all clusters of this process: Ray reads it once, and else writes one into the user's home folder.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_USAGE_STATS_ENABLED": "0"}
# By default a lost node is noticed only after half a minute.
os.environ |= {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}
START_SECONDS = 120.0
STORE_BYTES = 100_000_000
RAY = Path(sys.executable).with_name("ray")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Node:
    """One `ray start --block`, and every process below it."""

    def __init__(self, address: str, cpus: int, is_head: bool) -> None:
        # sockets lie in this folder, and a path of a socket has at most 107 characters
        self.folder = Path(tempfile.mkdtemp(prefix="q2r-", dir="/tmp"))
        self.address = address
        head = f"--head --port={address.rpartition(':')[2]} --ray-client-server-port={free_port()}"
        arguments = f"{head} --include-dashboard=false" if is_head else f"--address={address}"
        self.process = subprocess.Popen(
            [
                *(RAY, "start", "--block", *arguments.split(), f"--num-cpus={cpus}", f"--temp-dir={self.folder}"),
                *("--node-ip-address=127.0.0.1", f"--object-store-memory={STORE_BYTES}"),
                *("--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=(self.folder / "out").open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the node, its workers and their jobs."""
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """Kill Ray's processes of the node, as a lost machine would; a process of a job sees its actor die."""
        self._end([process for process in self.processes() if "q2pi.parallel.worker" not in _command(process)])

    def close(self) -> None:
        self._end(self.processes())
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, processes: list[psutil.Process]) -> None:
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()
        psutil.wait_procs(processes, timeout=10)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextmanager
def cluster(*cpus: int) -> Iterator[list[Node]]:
    """Start a cluster with one node for each number of CPUs; the first is the head. Kill every process at the end."""
    address = f"127.0.0.1:{free_port()}"
    nodes: list[Node] = []
    try:
        for number, count in enumerate(cpus):
            nodes.append(Node(address, count, is_head=number == 0))
            _wait_for_start(nodes[-1])
        yield nodes
    finally:
        for node in reversed(nodes):
            node.close()


def _wait_for_start(node: Node) -> None:
    deadline = time.monotonic() + START_SECONDS
    while "Ray runtime started" not in (text := (node.folder / "out").read_text()):
        assert node.process.poll() is None, text
        assert time.monotonic() < deadline, text
        time.sleep(0.1)
