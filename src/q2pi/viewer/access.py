"""Who may use the page: a token, and checks of Host and Origin, on every HTTP request and every WebSocket.

    Host      names this machine, if the server listens on loopback only: a foreign name that resolves to 127.0.0.1
              (DNS rebinding) is refused
    Origin    is the page itself: another site open in the same browser is refused; a WebSocket must have one
    token     in the URL that was printed, or the cookie that the first page sets

The cookie is not readable by scripts and is not sent from other sites.
"""

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
METHODS = ("GET", "HEAD", "POST")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
        "frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Added to every response; the first allows requests to this server only."""


class Access:
    """An ASGI application that passes on the requests of one user.

    Args:
        app: the application to protect.
        token: in the URL.
        hosts: names that the Host header may have, without a port; None allows every name.
    """

    def __init__(self, app: App, token: str, hosts: Iterable[str] | None) -> None:
        self.app, self.token = app, token
        self.hosts = None if hosts is None else frozenset(name.lower() for name in hosts)
        # Browsers share cookies between ports: a name of its own keeps two servers on one machine apart.
        self.cookie_name = f"q2pi-{hashlib.sha256(token.encode()).hexdigest()[:12]}"
        self.cookie = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self.refusal(scope)
        if refusal is None:
            await self.app(scope, receive, self._with_headers(send, self._has_token(scope)))
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            status, reason = refusal
            headers = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"} | HEADERS
            await send({"type": "http.response.start", "status": status, "headers": _encoded(headers)})
            await send({"type": "http.response.body", "body": f"{reason}\n".encode()})

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return (HTTP status, reason) if a request is refused, None if it is allowed."""
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        origins = [value for name, value in headers if name == b"origin"]
        if scope["type"] == "http" and scope["method"] not in METHODS:
            return 405, f"method {scope['method']} is not used here"
        if len(hosts) != 1 or (self.hosts is not None and _hostname(hosts[0]) not in self.hosts):
            return 403, "the Host header does not name this server"
        if len(origins) > 1 or (scope["type"] == "websocket" and not origins):
            return 403, "a WebSocket needs one Origin"
        if origins and _netloc(origins[0]) != hosts[0].decode("latin-1").lower():
            return 403, "requests from other sites are refused"
        if not self._has_token(scope) and not self._has_cookie(headers):
            return 401, "open the URL that q2pi printed: it holds the token"
        return None

    def _has_token(self, scope: Scope) -> bool:
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[-1]
        return secrets.compare_digest(given.encode(), self.token.encode())

    def _has_cookie(self, headers: list[tuple[bytes, bytes]]) -> bool:
        for name, value in headers:
            if name == b"cookie":
                try:
                    cookies = SimpleCookie(value.decode("latin-1"))
                except CookieError:
                    continue
                if self.cookie_name in cookies:
                    return secrets.compare_digest(cookies[self.cookie_name].value.encode(), self.cookie.encode())
        return False

    def _with_headers(self, send: Send, sets_cookie: bool) -> Send:
        """Return `send` with the headers of HEADERS, and with the cookie if the URL had the token."""

        async def wrapped(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                replaced = {name.lower().encode() for name in HEADERS}
                kept = [pair for pair in message.get("headers", []) if pair[0].lower() not in replaced]
                added = _encoded(HEADERS)
                if sets_cookie:
                    value = f"{self.cookie_name}={self.cookie}; Path=/; HttpOnly; SameSite=Strict"
                    added += [(b"set-cookie", value.encode()), (b"cache-control", b"no-store")]
                    kept = [pair for pair in kept if pair[0].lower() != b"cache-control"]
                message = {**message, "headers": [*kept, *added]}
            await send(message)

        return wrapped


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def _hostname(host: bytes) -> str:
    """Return the name in a Host header without its port, "" if it has none."""
    try:
        return (urlsplit(f"//{host.decode('latin-1')}").hostname or "").lower()
    except ValueError:
        return ""


def _netloc(origin: bytes) -> str:
    """Return the host and port of an Origin header, "" if it is opaque ("null") or not of the web."""
    try:
        parts = urlsplit(origin.decode("latin-1"))
    except ValueError:
        return ""
    return parts.netloc.lower() if parts.scheme in ("http", "https") else ""
