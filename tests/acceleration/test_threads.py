"""The fastest number of threads: timings by hand, alternating rounds within a budget, and one thread per core."""

from types import SimpleNamespace

import pytest
import torch

from q2pi.acceleration import threads
from q2pi.parallel import portable


@pytest.mark.parametrize(
    ("seconds", "found"),
    [
        ({1: 1.6, 2: 1.0}, 2),
        ({1: 1.0, 2: 12.0}, 1),
        ({1: 1.0, 2: 1.0}, 1),
        ({1: 1.05, 2: 1.0}, 1),  # not worth a core
        ({1: 1.1, 2: 1.0}, 2),
        ({1: 1.0}, 1),
        ({1: 8.0, 2: 4.5, 4: 2.5, 8: 2.4}, 4),
        ({1: 8.0, 2: 4.5, 4: 9.0, 8: 20.0}, 2),
        ({1: 1.0, 2: 0.95, 4: 0.5}, 4),
    ],
)
def test_more_threads_are_used_if_they_are_faster(seconds: dict[int, float], found: int) -> None:
    assert threads.fastest(seconds) == found


@pytest.mark.parametrize(
    ("most", "numbers"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])]
)
def test_numbers_to_time(most: int, numbers: list[int]) -> None:
    assert threads.counts(most) == numbers


@pytest.mark.parametrize(
    ("named", "allowed", "physical", "found"),
    [
        (None, 2, 2, 2),
        (None, 8, 4, 4),  # two hardware threads per core
        (None, 2, 16, 2),  # the scheduler allows two
        (None, 2, None, 2),  # unknown
        ("3", 8, 8, 3),
        ("0", 8, 8, 8),
        ("4,2", 8, 8, 8),
    ],
)
def test_one_per_core(
    monkeypatch: pytest.MonkeyPatch, named: str | None, allowed: int, physical: int | None, found: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    if named is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", named)
    monkeypatch.setattr(portable, "cores", lambda: set(range(allowed)))
    monkeypatch.setattr(threads, "psutil", SimpleNamespace(cpu_count=lambda logical: physical))
    assert threads.one_per_core() == found


class Work:
    """Work with a fake clock: calls with a number of threads take 50, 1, 2, 3, 3, ... times its seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> None:
        self.seconds, self.calls, self.now = seconds, list[int](), 100.0
        monkeypatch.setattr(threads.time, "perf_counter", lambda: self.now)

    def __call__(self) -> None:
        number = torch.get_num_threads()
        self.now += self.seconds[number] * (50, 1, 2, 3)[min(3, self.calls.count(number))]
        self.calls.append(number)


def test_rounds_alternate_and_the_first_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    work = Work(monkeypatch, {1: 0.001, 2: 0.002})
    assert threads.time_threads(work, [1, 2]) == {1: pytest.approx(0.003), 2: pytest.approx(0.006)}
    assert work.calls == [1, 2] * (1 + threads.MAX_ROUNDS)
    assert torch.get_num_threads() == before


def test_slow_work_ends_after_the_least_number_of_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch, {1: 1.0, 2: 2.0})
    assert threads.time_threads(work, [1, 2]) == {1: 2.0, 2: 4.0}, "the median of 1, 2 and 3"
    assert work.calls == [1, 2] * (1 + threads.MIN_ROUNDS)


def test_the_number_of_threads_is_restored_after_an_exception() -> None:
    before = torch.get_num_threads()

    def fail() -> None:
        torch.set_num_threads(before + 1)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        threads.time_threads(fail, [before + 2])
    assert torch.get_num_threads() == before
