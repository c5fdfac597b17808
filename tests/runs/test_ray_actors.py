"""The transport of actors, with a stand-in for Ray: the order of messages."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from q2pi.runs.ray_actors import RayPool


class Newest:
    """A stand-in for ray: of the requests that are waited for, the newest has arrived first; each takes two numbers."""

    def __init__(self) -> None:
        self.requests = 0
        self.exceptions = SimpleNamespace(RayTaskError=KeyError, RayError=OSError)

    def put(self, weights: Any) -> Any:
        return weights

    def remote(self, kind: Any) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._actor))

    def _actor(self, path: Any, table: Any, index: int, seed: int) -> Any:
        return SimpleNamespace(collect=SimpleNamespace(remote=self._request))

    def _request(self, step: int, version: int, weights: Any) -> int:
        self.requests += 1
        return self.requests

    def wait(self, requests: list[int], num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        return [max(requests)], []

    def get(self, request: int) -> int:
        return request


def test_the_messages_of_an_actor_are_received_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first message has the first frames of its episodes: read second, the rows before would have no episode."""
    monkeypatch.setitem(sys.modules, "ray", Newest())
    pool = RayPool()
    for index in (0, 1):
        pool.start({}, index, seed=index)
        pool.request(index, 0)
        pool.request(index, 0)
    received = [pool.receive() for _ in range(4)]
    assert received == [(1, 3), (1, 4), (0, 1), (0, 2)]


def test_the_actor_that_waits_longest_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Newest()
    monkeypatch.setattr(ray, "wait", lambda requests, **_: ([requests[0]], []))
    monkeypatch.setitem(sys.modules, "ray", ray)
    pool = RayPool()
    for index in (0, 1):
        pool.start({}, index, seed=index)
        pool.request(index, 0)
    order = []
    for _ in range(6):
        index, _ = pool.receive()
        pool.request(index, 0)
        order.append(index)
    assert order == [0, 1, 0, 1, 0, 1]
