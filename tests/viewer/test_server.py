"""The commands as a user starts them, and attacks on the server that they start."""

import http.client
import importlib.util
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from folders import episode, write_run
from server_process import Server, serving, start

from q2pi import __main__ as cli
from q2pi.errors import UserError
from q2pi.viewer.server import ServerOptions, is_loopback, listen

has_nicegui = importlib.util.find_spec("nicegui") is not None
pytestmark = pytest.mark.skipif(not has_nicegui, reason="NiceGUI is not installed: pip install 'q2pi[viewer]'")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    write_run(folder / "runs" / "one", episode(10, 1.0))
    (folder / "secret.txt").write_text("a secret of the user")
    return folder


def contents(folder: Path) -> dict[str, Any]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    before = contents(root)
    with serving("dashboard", str(root / "runs")) as made:
        yield made
    assert contents(root) == before, "a run folder changed"
    assert not Path(".nicegui").exists(), "the page wrote into the working directory"


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    """Send one request exactly as it is given; the underscores of header names become hyphens."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    response = connection.getresponse()
    return response.status, response.read()


def cookie(server: Server) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", f"/?token={server.token}")
    return str(connection.getresponse().getheader("Set-Cookie")).partition(";")[0]


def test_the_first_line_is_the_whole_url_and_it_opens_the_page(server: Server) -> None:
    status, body = ask(server, f"/?token={server.token}")
    assert status == 200
    assert b"q2pi dashboard" in body
    assert len(server.token) >= 32


def test_nothing_is_served_without_the_token(server: Server) -> None:
    import nicegui

    paths = ["/", "/run/0", "/stream/x", "/_nicegui_ws/socket.io/?EIO=4&transport=polling", "/favicon.ico"]
    for path in [*paths, f"/_nicegui/{nicegui.__version__}/static/nicegui.js"]:
        assert ask(server, path)[0] == 401, path
        assert ask(server, path, Cookie=cookie(server))[0] in (200, 404, 422), path


def test_other_sites_are_refused(server: Server) -> None:
    own = f"http://127.0.0.1:{server.port}"
    for path in (f"/?token={server.token}", f"/_nicegui_ws/socket.io/?EIO=4&transport=polling&token={server.token}"):
        assert ask(server, path, Origin=own)[0] == 200
        assert ask(server, path, Origin="http://evil.example", Cookie=cookie(server))[0] == 403
        assert ask(server, path, Host=f"evil.example:{server.port}", Cookie=cookie(server))[0] == 403


ESCAPES = [
    "/../secret.txt",
    "/..%2fsecret.txt",
    "/%2e%2e/%2e%2e/secret.txt",
    "/run/..%2f..%2fsecret.txt",
    "/run/../secret.txt",
    "/pair/..%2f..%2fsecret.txt/x",
    "/stream/../../secret.txt",
    "/static/../secret.txt",
    "/_nicegui/{version}/static/../../../../../../../../{root}/secret.txt",
    "/_nicegui/{version}/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2f{root}/secret.txt",
    "/_nicegui/{version}/static//{root}/secret.txt",
    "/_nicegui/{version}/components/..%2f..%2fsecret.txt",
    "/_nicegui/{version}/resources/x/{root}/secret.txt",
    "/_nicegui/{version}/esm/nicegui-echart/..%2f..%2f..%2f..%2f..%2f{root}/secret.txt",
    "//{root}/secret.txt",
    "/{root}/secret.txt",
    "/{root}/runs/one/config.toml",
    "/runs/one/config.toml",
]


@pytest.mark.parametrize("path", ESCAPES)
def test_no_path_reaches_the_file_system(server: Server, root: Path, path: str) -> None:
    import nicegui

    filled = path.format(version=nicegui.__version__, root=str(root).strip("/"))
    status, body = ask(server, filled, Cookie=cookie(server))
    assert status in (200, 400, 403, 404), status
    assert b"a secret of the user" not in body
    assert b"total_timesteps" not in body
    assert b"Traceback" not in body


def upgrade(server: Server, path: str, **headers: str) -> bytes:
    """Return the first line of the answer to a WebSocket handshake."""
    lines = {
        "Host": f"127.0.0.1:{server.port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec_WebSocket_Version": "13",
    } | headers
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        text = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
        connection.sendall(f"GET {path} HTTP/1.1\r\n{text}\r\n".encode())
        return connection.recv(4096).partition(b"\r\n")[0]


@pytest.mark.parametrize("path", ["/stream/x", "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"])
def test_websockets_need_cookie_and_own_origin(server: Server, path: str) -> None:
    own = f"http://127.0.0.1:{server.port}"
    assert b" 403" in upgrade(server, path, Origin=own)
    assert b" 403" in upgrade(server, path, Cookie=cookie(server))
    assert b" 403" in upgrade(server, path, Cookie=cookie(server), Origin="http://evil.example")
    assert b" 403" in upgrade(server, path, Cookie=cookie(server), Origin=own, Host="evil.example")
    assert b" 101" in upgrade(server, path, Cookie=cookie(server), Origin=own)


def test_an_address_in_use_is_one_line(server: Server, root: Path) -> None:
    process = start("dashboard", str(root / "runs"), "--port", str(server.port), "--no-browser")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    (line,) = err.splitlines()
    assert f"--port {server.port}: address already in use" in line


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["watch"], ["watch needs the folders of one or two runs, got 0"]),
        (["watch", "a", "b", "c"], ["one or two runs, got 3"]),
        (["watch", "missing"], ["missing is not a run folder"]),
        (["watch", "{root}"], ["is not a run folder: it has no config.toml"]),
        (["watch", "{root}/runs/one", "--port", "99999"], ["--port 99999", "65535"]),
        (["watch", "{root}/runs/one", "--host", "0.0.0.0"], ["--host 0.0.0.0", "needs --token"]),
        (["watch", "{root}/runs/one", "--host", "::"], ["--host ::", "needs --token"]),
        (["watch", "{root}/runs/one", "--host", "192.168.1.2"], ["--host 192.168.1.2", "needs --token"]),
        (["watch", "{root}/runs/one", "--host", "example.org"], ["--host example.org", "needs --token"]),
        (["watch", "{root}/runs/one", "--token", ""], ["--token is empty"]),
        (["watch", "{root}/runs/one", "--host", "192.0.2.1", "--token", "x"], ["--host 192.0.2.1"]),
        (["dashboard", "missing"], ["missing is not a folder"]),
        (["dashboard", "{root}/secret.txt"], ["secret.txt is not a folder"]),
        (["play", "Pacman"], ["no agent for 'Pacman' comes with q2pi", "corridor"]),
        (["play", "a", "b", "c"], ["play shows one game or two, got 3"]),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], fragments: list[str], root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([argument.format(root=root) for argument in arguments]) == 2
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    assert all(fragment in line for fragment in fragments), line


@pytest.mark.parametrize("command", ["watch", "dashboard", "play"])
def test_a_missing_extra_is_one_line(
    command: str, root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nicegui" else find(name))
    target = {"watch": str(root / "runs" / "one"), "dashboard": str(root), "play": "corridor"}[command]
    assert cli.main([command, target]) == 2
    assert capfd.readouterr().err == f"q2pi: q2pi {command} needs NiceGUI: pip install 'q2pi[viewer]'\n"


def test_play_without_a_game_lists_the_agents(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["play"]) == 0
    assert "corridor " in capfd.readouterr().out


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("localhost.evil.example", False), ("", False)],
)  # fmt: skip
def test_loopback_addresses(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_a_host_of_other_machines_is_served_with_a_token() -> None:
    ServerOptions(host="0.0.0.0", token="long secret").check()
    with pytest.raises(UserError, match="needs --token"):
        ServerOptions(host="0.0.0.0").check()


def test_port_zero_takes_a_free_port() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert listener.getsockname()[1] > 0


def test_the_url_is_printed_before_the_page_is_ready(root: Path) -> None:
    start_time = time.monotonic()
    with serving("watch", str(root / "runs" / "one"), "--token", "a secret & more") as server:
        printed = time.monotonic() - start_time
        assert server.token == "a secret & more"
        assert ask(server, "/?token=a%20secret%20%26%20more")[0] == 200
        assert printed < time.monotonic() - start_time
    assert json.dumps(server.url)
    assert os.path.isdir(root)
