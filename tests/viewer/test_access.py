"""Every request needs the token or the cookie, a Host of this machine, and no foreign Origin."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from q2pi.viewer.access import HEADERS, Access

TOKEN = "secret-token"
HOST = (b"host", b"127.0.0.1:8765")
ORIGIN = (b"origin", b"http://127.0.0.1:8765")
Header = tuple[bytes, bytes]


async def _app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"public")]})
    await send({"type": "http.response.body", "body": b"ok"})


def access(hosts: Any = ("127.0.0.1", "localhost", "::1")) -> Access:
    return Access(_app, TOKEN, hosts)


def ask(guard: Access, *headers: Header, query: bytes = b"", kind: str = "http", method: str = "GET") -> Any:
    """Return (status, headers) of an HTTP answer, or the type of a WebSocket's answer."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": kind, "path": "/", "headers": list(headers), "query_string": query, "method": method}
    asyncio.run(guard(scope, receive, send))
    if kind == "websocket":
        return sent[0]["type"]
    return sent[0]["status"], dict(sent[0]["headers"])


def cookie_of(guard: Access) -> Header:
    """Return the Cookie header of a browser that opened the URL with the token."""
    _, headers = ask(guard, HOST, query=b"token=secret-token")
    return b"cookie", headers[b"set-cookie"].split(b";")[0]


def test_the_token_opens_the_page_and_sets_a_cookie_that_scripts_and_other_sites_cannot_use() -> None:
    guard = access()
    status, headers = ask(guard, HOST, query=b"token=secret-token")
    assert status == 200
    assert headers[b"set-cookie"].endswith(b"; Path=/; HttpOnly; SameSite=Strict")
    assert TOKEN.encode() not in headers[b"set-cookie"]
    assert headers[b"cache-control"] == b"no-store"
    assert ask(guard, HOST, cookie_of(guard))[0] == 200
    assert b"set-cookie" not in ask(guard, HOST, cookie_of(guard))[1]


@pytest.mark.parametrize("query", [b"", b"token=", b"token=secret-toke", b"token=secret-token1", b"Token=secret-token"])
def test_without_the_token_there_is_no_page(query: bytes) -> None:
    assert ask(access(), HOST, query=query)[0] == 401


@pytest.mark.parametrize(
    "cookie", [b"", b"q2pi-x=1", b"q2pi=secret-token", b"a=b; =; ;;", b"\xff\xfe", b"q2pi-8a21c1f93f13=wrong"]
)
def test_another_cookie_does_not_open_the_page(cookie: bytes) -> None:
    guard = access()
    assert ask(guard, HOST, (b"cookie", cookie))[0] == 401
    assert ask(guard, HOST, (b"cookie", f"{guard.cookie_name}=wrong".encode()))[0] == 401


def test_the_cookie_of_another_server_does_not_open_the_page() -> None:
    assert ask(access(), HOST, cookie_of(access()))[0] == 401


@pytest.mark.parametrize(
    "host", [b"evil.example", b"evil.example:8765", b"127.0.0.1.evil.example", b"", b"[", b"0.0.0.0"]
)
def test_a_foreign_host_is_refused_even_with_the_token(host: bytes) -> None:
    """DNS rebinding: a page of evil.example whose name now resolves to 127.0.0.1."""
    assert ask(access(), (b"host", host), query=b"token=secret-token")[0] == 403


@pytest.mark.parametrize("host", [b"localhost:1", b"LOCALHOST", b"127.0.0.1:9999", b"[::1]:8765"])
def test_a_forwarded_port_and_every_name_of_this_machine_are_allowed(host: bytes) -> None:
    assert ask(access(), (b"host", host), query=b"token=secret-token")[0] == 200


def test_a_request_needs_exactly_one_host() -> None:
    assert ask(access(), query=b"token=secret-token")[0] == 403
    assert ask(access(), HOST, HOST, query=b"token=secret-token")[0] == 403


@pytest.mark.parametrize(
    "origin",
    [
        b"http://evil.example",
        b"null",
        b"http://127.0.0.1:9999",
        b"http://127.0.0.1",
        b"file://127.0.0.1:8765",
        b"http://[",
    ],
)
def test_another_origin_is_refused_even_with_token_and_cookie(origin: bytes) -> None:
    guard = access()
    headers = [HOST, cookie_of(guard), (b"origin", origin)]
    assert ask(guard, *headers, query=b"token=secret-token")[0] == 403
    assert ask(guard, *headers, query=b"token=secret-token", method="POST")[0] == 403
    assert ask(guard, *headers, query=b"token=secret-token", kind="websocket") == "websocket.close"


def test_a_websocket_needs_its_own_origin_and_the_cookie() -> None:
    guard = access()
    assert ask(guard, HOST, ORIGIN, cookie_of(guard), kind="websocket") == "websocket.accept"
    assert ask(guard, HOST, cookie_of(guard), kind="websocket") == "websocket.close"
    assert ask(guard, HOST, ORIGIN, kind="websocket") == "websocket.close"
    assert ask(guard, HOST, ORIGIN, ORIGIN, cookie_of(guard), kind="websocket") == "websocket.close"


def test_a_server_for_other_machines_takes_any_host_and_still_checks_origin_and_token() -> None:
    guard = access(hosts=None)
    host = (b"host", b"lab.example:80")
    assert ask(guard, host, query=b"token=secret-token")[0] == 200
    assert ask(guard, host)[0] == 401
    assert ask(guard, host, (b"origin", b"http://evil.example"), query=b"token=secret-token")[0] == 403


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"])
def test_other_methods_are_refused(method: str) -> None:
    assert ask(access(), HOST, query=b"token=secret-token", method=method)[0] == 405


def test_every_response_has_the_safety_headers() -> None:
    for query in (b"token=secret-token", b""):
        _, headers = ask(access(), HOST, query=query)
        for name, value in HEADERS.items():
            assert headers[name.lower().encode()] == value.encode()
    assert "frame-ancestors 'none'" in HEADERS["Content-Security-Policy"]
    assert "http" not in HEADERS["Content-Security-Policy"], "no other server is asked for anything"
