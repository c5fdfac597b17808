"""The WebSocket of a stage: one moment at a time, and a browser that misbehaves."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Any

import pytest

from q2pi.viewer import stream
from q2pi.viewer.message import pack, unpack
from q2pi.viewer.stream import MOST_TABS, UNKNOWN, Sessions, Tab

pytestmark = pytest.mark.skipif(
    find_spec("starlette") is None, reason="NiceGUI is not installed: pip install 'q2pi[viewer]'"
)


class Browser:
    """The browser's end of a WebSocket."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.code: int | None = None
        self.lines: asyncio.Queue[str | None] = asyncio.Queue()

    async def accept(self) -> None: ...

    async def close(self, code: int = 1000) -> None:
        self.code = self.code or code

    async def send_bytes(self, data: bytes) -> None:
        self.sent.append(unpack(data)[0])

    async def receive_json(self) -> Any:
        line = await self.lines.get()
        if line is None:
            from starlette.websockets import WebSocketDisconnect

            raise WebSocketDisconnect(1001)
        return json.loads(line)

    def say(self, name: str, value: Any = None) -> None:
        self.lines.put_nowait(json.dumps({"do": name, "value": value}))

    async def wait(self, count: int) -> None:
        """Wait until this many messages have come."""
        while len(self.sent) < count:
            await asyncio.sleep(0.01)


class Counting:
    """A session whose every tick is a message."""

    def __init__(self, sources: Any, commands: Any) -> None:
        self.commands, self.count, self.is_closed = commands, 0, False

    def tick(self) -> tuple[bytes, float]:
        self.count += 1
        return pack({"count": self.count, "commands": [c["do"] for c in self.commands]}, {}), 0.0

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture(autouse=True)
def _counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("q2pi.viewer.session.Session", Counting)


def run(scenario: Callable[[Sessions, Browser], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(scenario(Sessions(), Browser()), 60)

    asyncio.run(limited())


def test_the_next_moment_is_sent_after_the_browser_has_drawn_the_last() -> None:
    async def scenario(sessions: Sessions, browser: Browser) -> None:
        key = sessions.create(["a"], list)
        assert key is not None
        served = asyncio.create_task(sessions.handle(browser, key))
        await browser.wait(1)
        assert browser.sent[0]["state"] == "loading"
        await asyncio.sleep(0.2)
        assert len(browser.sent) == 1
        browser.say("pause", True)
        browser.say("ack")
        await browser.wait(2)
        await asyncio.sleep(0.2)
        assert len(browser.sent) == 2
        assert browser.sent[1]["commands"] == ["hello", "pause"]
        browser.lines.put_nowait(None)
        await served

    run(scenario)


def test_an_unknown_key_is_closed_with_its_code() -> None:
    async def scenario(sessions: Sessions, browser: Browser) -> None:
        await sessions.handle(browser, "x")
        assert (browser.code, browser.sent) == (UNKNOWN, [])

    run(scenario)


@pytest.mark.parametrize("line", ["{", "[1]", "3", '"text"', "[" * 50_000, "null", "\x00"])
def test_a_browser_that_sends_anything_else_is_disconnected(line: str) -> None:
    async def scenario(sessions: Sessions, browser: Browser) -> None:
        key = sessions.create(["a"], list)
        assert key is not None
        browser.lines.put_nowait(line)
        await sessions.handle(browser, key)
        assert browser.code == 1000

    run(scenario)


def test_a_browser_that_reconnects_replaces_its_old_connection() -> None:
    async def scenario(sessions: Sessions, old: Browser) -> None:
        key = sessions.create(["a"], list)
        assert key is not None
        first = asyncio.create_task(sessions.handle(old, key))
        await old.wait(1)
        new = Browser()
        second = asyncio.create_task(sessions.handle(new, key))
        await new.wait(1)
        old.say("ack")
        await first
        assert len(old.sent) == 1
        new.say("ack")
        await new.wait(2)
        new.lines.put_nowait(None)
        await second

    run(scenario)


def test_a_closed_tab_ends_its_session() -> None:
    async def scenario(sessions: Sessions, browser: Browser) -> None:
        key = sessions.create(["a"], list)
        assert key is not None
        served = asyncio.create_task(sessions.handle(browser, key))
        await browser.wait(1)
        browser.say("ack")
        await browser.wait(2)
        tab = sessions._open[key]
        sessions.close(key)
        browser.say("ack")
        await served
        session: Any = tab._session
        while not session.is_closed:
            await asyncio.sleep(0.01)
        again = Browser()
        await sessions.handle(again, key)
        assert again.code == UNKNOWN

    run(scenario)


def test_an_exception_of_an_environment_is_an_answer_and_the_session_starts_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[int] = []

    class Failing(Counting):
        def tick(self) -> tuple[bytes, float]:
            if self.count == 1 and not closed:
                raise RuntimeError("the emulator is gone")
            return super().tick()

        def close(self) -> None:
            closed.append(1)
            raise RuntimeError("and cannot be closed")

    monkeypatch.setattr("q2pi.viewer.session.Session", Failing)
    tab = Tab(["a"], list)
    heads = [unpack(tab.tick()[0] or b"")[0] for _ in range(4)]
    assert [head.get("state") for head in heads] == ["loading", None, "error", None]
    assert heads[2]["error"] == "RuntimeError: the emulator is gone"
    assert (heads[3]["count"], closed) == (1, [1])


def test_there_is_a_bound_on_tabs_and_on_waiting_commands() -> None:
    sessions = Sessions()
    keys = [sessions.create(["a"], list) for _ in range(MOST_TABS)]
    assert len({*keys}) == MOST_TABS
    assert sessions.create(["a"], list) is None
    sessions.close(str(keys[0]))
    assert sessions.create(["a"], list) is not None
    tab = Tab(["a"], list)
    for index in range(stream.MOST_COMMANDS + 10):
        tab.commands.append({"do": "seed", "value": index})
    assert len(tab.commands) == stream.MOST_COMMANDS
    assert tab.commands[-1]["value"] == stream.MOST_COMMANDS + 9
