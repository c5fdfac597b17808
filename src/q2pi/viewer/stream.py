"""The WebSocket of a stage: commands come in, moments go out, one at a time."""

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from q2pi.viewer.session import Session
from q2pi.viewer.source import Source

MOST_TABS = 12
"""Largest number of tabs at once: each plays episodes of its own."""
UNKNOWN = 4404
"""Code with which a WebSocket is closed if its session has ended: the page must be loaded again."""


class Sessions:
    """The sessions of the open tabs, by a random key; the browser names a session only by its key."""

    def __init__(self) -> None:
        self._open: dict[str, Session] = {}
        self._threads = ThreadPoolExecutor(MOST_TABS, thread_name_prefix="q2pi-session")

    def create(self, sources: Sequence[Source]) -> str | None:
        """Return the key of a new session, None if too many tabs are open."""
        if len(self._open) >= MOST_TABS:
            return None
        key = secrets.token_urlsafe(16)
        self._open[key] = Session(sources)
        return key

    def close(self, key: str) -> None:
        """End a session; unknown keys are ignored."""
        session = self._open.pop(key, None)
        if session is not None:
            session.is_closed = True
            self._threads.submit(_close, session)

    async def handle(self, websocket: Any, key: str) -> None:
        """Serve the WebSocket of a session until either side closes it."""
        session = self._open.get(key)
        await websocket.accept()
        if session is None:
            await websocket.close(UNKNOWN)
            return
        session.post({"do": "hello"})
        session.connection = websocket
        awake, acknowledged = asyncio.Event(), asyncio.Event()
        receiver = asyncio.create_task(_receive(websocket, session, awake, acknowledged))
        sender = asyncio.create_task(self._send(websocket, session, awake, acknowledged))
        try:
            await asyncio.wait({receiver, sender}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            receiver.cancel()
            sender.cancel()
            with contextlib.suppress(Exception):
                await websocket.close()

    async def _send(self, websocket: Any, session: Session, awake: asyncio.Event, acknowledged: asyncio.Event) -> None:
        """Send each message of the session after the browser has drawn the previous one, so that none queue up."""
        loop = asyncio.get_running_loop()
        # A browser that reconnects may be here before its old connection is known to be dead.
        while not session.is_closed and websocket is session.connection:
            awake.clear()
            message, delay = await loop.run_in_executor(self._threads, _tick, session)
            if message is not None:
                acknowledged.clear()
                await websocket.send_bytes(message)
                await acknowledged.wait()
            if delay > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(awake.wait(), delay)


def _tick(session: Session) -> tuple[bytes | None, float]:
    with session.lock:
        return (None, 0.0) if session.is_closed else session.tick()


def _close(session: Session) -> None:
    with session.lock:
        session.close()


async def _receive(websocket: Any, session: Session, awake: asyncio.Event, acknowledged: asyncio.Event) -> None:
    """Queue the browser's commands; return if it closes the WebSocket or sends anything but a small JSON object."""
    from starlette.websockets import WebSocketDisconnect

    while True:
        try:
            command = await websocket.receive_json()
        except (WebSocketDisconnect, ValueError, KeyError, RuntimeError):  # RecursionError included
            return
        if not isinstance(command, dict):
            return
        if command.get("do") == "ack":
            acknowledged.set()
        else:
            session.post(command)
            awake.set()
