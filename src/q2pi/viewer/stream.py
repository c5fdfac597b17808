"""The WebSocket of a stage: commands come in, moments go out, one at a time.

This file imports no torch: a page is shown at once, and the thread of its tab imports what the agent needs.
"""

import asyncio
import contextlib
import secrets
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from q2pi.viewer.message import pack

if TYPE_CHECKING:
    from q2pi.viewer.session import Session
    from q2pi.viewer.source import Source

MOST_TABS = 12
"""Largest number of tabs at once: each plays episodes of its own."""
UNKNOWN = 4404
"""Code with which a WebSocket is closed if its session has ended: the page must be loaded again."""
RETRY_SECONDS = 2.0
"""Seconds after which a session that failed starts again."""
MOST_COMMANDS = 256
"""Commands of a tab that wait; of more, the oldest are dropped."""


class Tab:
    """A browser tab and its session, which is made when it is first needed."""

    def __init__(self, titles: Sequence[str], sources: "Callable[[], Sequence[Source]]") -> None:
        self.titles, self.sources = titles, sources
        self.commands: deque[dict[str, Any]] = deque(maxlen=MOST_COMMANDS)
        self.connection: Any = None
        """The newest connection to the browser; older ones stop."""
        self.is_closed = False
        self._session: Session | None = None
        self._lock = threading.Lock()
        self._is_announced = False

    def tick(self) -> tuple[bytes | None, float]:
        """Do what is due; return (the message to send or None, seconds until the next tick is due)."""
        with self._lock:
            if self.is_closed:
                return None, 0.0
            if not self._is_announced:
                self._is_announced = True
                return self._without_session("loading", ""), 0.0
            try:
                return self._tick()
            except Exception as problem:
                # A user's environment may raise anything: the page says so, and the next tick starts again.
                if self._session is not None:
                    with contextlib.suppress(Exception):
                        self._session.close()
                    self._session = None
                return self._without_session("error", f"{type(problem).__name__}: {problem}"), RETRY_SECONDS

    def _tick(self) -> tuple[bytes | None, float]:
        from q2pi.viewer.session import Session

        if self._session is None:
            self._session = Session(self.sources(), self.commands)
        return self._session.tick()

    def _without_session(self, state: str, error: str) -> bytes:
        """Return a message without agents."""
        header = {"state": state, "error": error, "titles": list(self.titles), "panels": [], "episode": 0}
        return pack(header | {"paused": False, "length": 0}, {})

    def close(self) -> None:
        """Close the environments; waits for a tick in progress."""
        with self._lock:
            if self._session is not None:
                self._session.close()


class Sessions:
    """The sessions of the open tabs, by a random key; the browser names a session only by its key."""

    def __init__(self) -> None:
        self._open: dict[str, Tab] = {}
        self._threads = ThreadPoolExecutor(MOST_TABS, thread_name_prefix="q2pi-session")

    def create(self, titles: Sequence[str], sources: "Callable[[], Sequence[Source]]") -> str | None:
        """Return the key of a new session, None if too many tabs are open.

        Args:
            titles: name of each agent.
            sources: returns the agents; called once, in the thread of the tab.
        """
        if len(self._open) >= MOST_TABS:
            return None
        key = secrets.token_urlsafe(16)
        self._open[key] = Tab(titles, sources)
        return key

    def close(self, key: str) -> None:
        """End a session; unknown keys are ignored."""
        tab = self._open.pop(key, None)
        if tab is not None:
            tab.is_closed = True
            self._threads.submit(tab.close)

    async def handle(self, websocket: Any, key: str) -> None:
        """Serve the WebSocket of a session until either side closes it."""
        tab = self._open.get(key)
        await websocket.accept()
        if tab is None:
            await websocket.close(UNKNOWN)
            return
        tab.commands.append({"do": "hello"})
        tab.connection = websocket
        awake, acknowledged = asyncio.Event(), asyncio.Event()
        receiver = asyncio.create_task(_receive(websocket, tab, awake, acknowledged))
        sender = asyncio.create_task(self._send(websocket, tab, awake, acknowledged))
        try:
            await asyncio.wait({receiver, sender}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            receiver.cancel()
            sender.cancel()
            with contextlib.suppress(Exception):
                await websocket.close()

    async def _send(self, websocket: Any, tab: Tab, awake: asyncio.Event, acknowledged: asyncio.Event) -> None:
        """Send each message of the session after the browser has drawn the previous one, so that none queue up."""
        loop = asyncio.get_running_loop()
        # A browser that reconnects may be here before its old connection is known to be dead.
        while not tab.is_closed and websocket is tab.connection:
            awake.clear()
            message, delay = await loop.run_in_executor(self._threads, tab.tick)
            if message is not None:
                acknowledged.clear()
                await websocket.send_bytes(message)
                await acknowledged.wait()
            if delay > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(awake.wait(), delay)


async def _receive(websocket: Any, tab: Tab, awake: asyncio.Event, acknowledged: asyncio.Event) -> None:
    """Queue the browser's commands; return if it closes the WebSocket or sends anything but a small JSON object."""
    from starlette.websockets import WebSocketDisconnect

    while True:
        try:
            command = await websocket.receive_json()
        except (WebSocketDisconnect, ValueError, KeyError, RuntimeError):  # RecursionError of nested JSON included
            return
        if not isinstance(command, dict):
            return
        if command.get("do") == "ack":
            acknowledged.set()
        else:
            tab.commands.append(command)
            awake.set()
