"""The server of the live page: one process, one user, until Ctrl-C."""

import asyncio
import contextlib
import importlib.util
import ipaddress
import os
import secrets
import socket
import sys
import threading
import warnings
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

import tyro

from q2pi.config import within
from q2pi.errors import UserError
from q2pi.parallel.portable import IS_WINDOWS, has_display
from q2pi.viewer.access import LOOPBACK, Access

PORT = 8765


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Where the page is served."""

    port: int = PORT
    """TCP port; 0 takes any free port."""
    host: str = "127.0.0.1"
    """Address to listen on; an address other than loopback needs --token."""
    token: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """Secret in the URL of the page; by default a random one."""
    nice: int = 19
    """Increment of the process's nice value, so that training on the same machine has priority; 0 adds nothing."""
    no_browser: bool = False
    """No start of a browser; the URL is printed in any case."""

    def check(self) -> None:
        """Raise a UserError if the options cannot be served safely."""
        within(self, 0, 65_535, "port")
        within(self, 0, 19, "nice")
        if self.token is not None and not self.token.strip():
            raise UserError("--token is empty: a page without a secret is open to everyone on this machine")
        if not is_loopback(self.host) and self.token is None:
            raise UserError(f"--host {self.host} can be reached from other machines: it needs --token, a secret")


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_nicegui(command: str) -> None:
    """Raise a UserError if the web framework is not installed."""
    if importlib.util.find_spec("nicegui") is None:
        raise UserError(f"q2pi {command} needs NiceGUI: pip install 'q2pi[viewer]'")


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        UserError: the address is in use or does not exist.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    # On Windows the option would let a second server take a port that is in use.
    if not IS_WINDOWS:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as problem:
        listener.close()
        reason = (getattr(problem, "strerror", None) or str(problem)).lower()
        raise UserError(f"--host {host} --port {port}: {reason}; --port 0 takes any free port") from problem
    return listener


def serve(build: Callable[[Any], None], options: ServerOptions, title: str) -> int:
    """Serve a page until Ctrl-C; print its URL, token included, as the first line of standard output.

    Args:
        build: adds the pages and routes to a FastAPI application.
        options: where to listen.
        title: of the page.

    Raises:
        UserError: the options are refused, or the address is in use.
    """
    options.check()
    listener = listen(options.host, options.port)
    token = options.token or secrets.token_urlsafe(24)
    port = listener.getsockname()[1]
    # A wildcard address is no address to open.
    shown = "127.0.0.1" if options.host in ("0.0.0.0", "::") else options.host
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/?token={quote(token, safe='')}"
    print(url, flush=True)
    print("Ctrl-C stops the page; runs are only read", file=sys.stderr)
    # torch, not imported yet, leaves the other cores to training on the same machine.
    os.environ["OMP_NUM_THREADS"] = "1"
    # NiceGUI looks at every object of the process, also at torch's deprecated ones.
    warnings.filterwarnings("ignore", category=FutureWarning, module="nicegui")
    try:
        with contextlib.closing(listener):
            if hasattr(os, "nice"):
                os.nice(options.nice)
            _run(build, listener, token, options.host, title, url if _has_display(options) else None)
    except KeyboardInterrupt:
        print("", file=sys.stderr)
    return 0


def _run(
    build: Callable[[Any], None], listener: socket.socket, token: str, host: str, title: str, url: str | None
) -> None:
    import uvicorn
    from fastapi import FastAPI
    from nicegui import ui

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    build(app)
    ui.run_with(
        app, title=title, dark=None, language="en-US", show_welcome_message=False, reconnect_timeout=5.0, tailwind=False
    )
    hosts = {*LOOPBACK, host} if is_loopback(host) else None
    config = uvicorn.Config(
        Access(app, token, hosts),
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=1,
        ws_max_size=1 << 16,
    )
    server = uvicorn.Server(config)
    if url is not None:
        threading.Timer(0.5, webbrowser.open, [url]).start()
    asyncio.run(server.serve(sockets=[listener]))


def _has_display(options: ServerOptions) -> bool:
    """Return whether to start a browser: never over SSH, where it would be a text browser in this terminal."""
    if options.no_browser or "SSH_CONNECTION" in os.environ:
        return False
    return has_display()
