"""The number of threads of a run: chosen before it, stored in its configuration, used when it is resumed."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from small_envs import ENV_ID, Sampled, registered
from small_runs import CARTPOLE, cartpole, flags, invaders

import q2pi
from q2pi import __main__ as cli
from q2pi import config
from q2pi.acceleration import precision
from q2pi.algorithms import registry
from q2pi.algorithms.registry import default_config
from q2pi.config import RunConfig, override, resolve
from q2pi.runs import evaluations, threads
from q2pi.runs.cpu_usage import CpuUsage
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import read_config
from q2pi.runs.threads import ThreadChoice, choose_threads, chosen

IDLE = CpuUsage(own=1.5, other=0.1, cores=2)
BUSY = CpuUsage(own=0.4, other=1.6, cores=2)


@pytest.fixture(autouse=True)
def set_numbers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a live list of the numbers that torch is set to; it keeps one, since two are slow on a busy machine."""
    numbers: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    return numbers


def on_cores(monkeypatch: pytest.MonkeyPatch, cores: int, seconds: dict[int, float] | None) -> list[list[int]]:
    """Make a machine of `cores` cores with these timings; return a live list of the numbers that were timed.

    Without `seconds` nothing may be timed.
    """
    calls: list[list[int]] = []

    def timed(work: Callable[[], object], numbers: list[int]) -> dict[int, float]:
        assert seconds is not None, "nothing may be timed"
        work()
        calls.append(numbers)
        return seconds

    for module in (threads, config, evaluations):
        monkeypatch.setattr(module, "one_per_core", lambda: cores)
    monkeypatch.setattr(threads, "time_threads", timed)
    return calls


@pytest.mark.parametrize(
    ("seconds", "usage", "found", "words"),
    [
        ({1: 1.6, 2: 1.0}, IDLE, 2, "2 of 2 cores: 1.6 times as fast as 1"),
        ({1: 1.0, 2: 12.0}, BUSY, 1, "1 of 2 cores: other programs use 1.6 of them, and 2 are 0.083 times as fast"),
        ({1: 1.04, 2: 1.0}, IDLE, 1, "1 of 2 cores: 2 are 1 times as fast, less than 1.1"),
        ({1: 1.0, 2: 1.25}, IDLE, 1, "1 of 2 cores: 2 are 0.8 times as fast, less than 1.1"),
    ],
)
def test_the_reason_is_that_of_the_timing(seconds: dict[int, float], usage: CpuUsage, found: int, words: str) -> None:
    choice = chosen(seconds, usage, 2)
    assert (choice.threads, str(choice)) == (found, words)


@pytest.mark.parametrize(("seconds", "found"), [({1: 1.6, 2: 1.0}, 2), ({1: 1.0, 2: 1.0}, 1), ({1: 1.0, 2: 9.0}, 1)])
def test_images_have_the_fastest_number(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], found: int) -> None:
    calls = on_cores(monkeypatch, 2, seconds)
    assert choose_threads(invaders(threads=0)).threads == found
    assert calls == [[1, 2]]


@pytest.mark.parametrize("name", [name for name in registry.names() if name != "q_learning"])
def test_the_timed_gradient_is_of_the_runs_torso_and_batch(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    seen: list[tuple[Any, ...]] = []

    def measure(model: Any, batch: torch.Tensor, kind: str) -> float:
        assert model(batch).shape == (len(batch), threads.ACTIONS)
        seen.append((*batch.shape, batch.dtype, kind))
        return 1.0

    on_cores(monkeypatch, 2, {1: 1.6, 2: 1.0})
    monkeypatch.setattr(threads, "gradient_seconds", measure)
    run = override(default_config(name), {"env_id": "Pong", "precision": "bf16", "device": "cpu"})
    assert choose_threads(run).threads == 2
    size = min(threads.MAX_BATCH, run.hyper.gradient_batch(run.num_envs))
    assert seen == [(size, 4, 84, 84, torch.uint8, "bf16")]


def test_observations_of_a_gradient_by_hand() -> None:
    """Replay: the batch. Rollouts: 128 steps of 8 environments in 4 minibatches; A2C makes no minibatches."""
    assert cartpole(batch_size=24).hyper.gradient_batch(4) == 24
    ppo = override(default_config("ppo"), {"num_steps": 128, "num_minibatches": 4})
    assert ppo.hyper.gradient_batch(8) == 256
    assert override(default_config("a2c"), {"num_steps": 5}).hyper.gradient_batch(8) == 40


@pytest.mark.parametrize(
    "run",
    [
        cartpole(threads=0),
        override(default_config("q_learning"), {"env_id": "FrozenLake-v1"}),
        override(default_config("dqn"), {"env_id": "Pong", "obs_type": "ram"}),
    ],
    ids=["vectors", "table", "memory of a game"],
)
def test_networks_without_images_have_one_thread(monkeypatch: pytest.MonkeyPatch, run: RunConfig[Any]) -> None:
    on_cores(monkeypatch, 8, None)
    assert str(choose_threads(run)) == "1 of 8 cores: without images one is as fast as more"
    assert resolve(run).threads == 1


def test_images_of_other_environments_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = on_cores(monkeypatch, 4, {1: 1.0, 2: 2.0, 4: 3.0})
    space = spaces.Box(0, 255, (48, 48, 3), np.uint8)
    with registered(lambda: Sampled(space, spaces.Discrete(2))) as env_id:
        run = override(default_config("dqn"), {"env_id": env_id, "device": "cpu"})
        assert choose_threads(run).threads == 1
    assert calls == [[1, 2, 4]]


@pytest.mark.parametrize("actions", [spaces.Discrete(5), spaces.MultiDiscrete([3, 2])])
def test_images_with_action_masks_are_timed(monkeypatch: pytest.MonkeyPatch, actions: Any) -> None:
    """The timed network has as many actions as the mask, and none of them is masked."""
    calls = on_cores(monkeypatch, 2, {1: 1.0, 2: 2.0})
    losses = []

    def recorded(model: Any, observation: torch.Tensor, kind: Any) -> float:
        losses.append(model(observation).square().mean())
        return 0.0

    monkeypatch.setattr(threads, "gradient_seconds", recorded)

    def make() -> Sampled:
        env = Sampled(spaces.Box(0, 255, (12, 12, 3), np.uint8), actions)
        env.action_masks = lambda: np.ones(5, bool)  # type: ignore[attr-defined]
        return env

    with registered(make) as env_id:
        run = override(default_config("ppo"), {"env_id": env_id, "device": "cpu"})
        assert choose_threads(run).threads == 1
    assert calls == [[1, 2]]
    assert losses[0].isfinite()


@pytest.mark.parametrize("number", [1, 3])
def test_a_named_number_is_used_untimed(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    on_cores(monkeypatch, 2, None)
    run = invaders(threads=number)
    assert str(choose_threads(run)) == str(number)
    assert resolve(run).threads == number


def test_without_timing_games_have_one_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cores(monkeypatch, 4, None)
    run = invaders(threads=0)
    assert str(choose_threads(run, is_timed=False)) == "4 of 4 cores: not timed (--no-estimate)"
    assert resolve(run).threads == 4, "resolving alone does not time"
    assert choose_threads(cartpole(threads=0), is_timed=False).threads == 1
    assert resolve(resolve(run)) == resolve(run)


def test_on_one_core_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cores(monkeypatch, 1, None)
    assert choose_threads(invaders(threads=0)) == ThreadChoice(1, " of 1 core")


def test_networks_on_a_gpu_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cores(monkeypatch, 4, None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    choice = choose_threads(invaders(threads=0, device="cuda"))
    assert str(choice) == "4 of 4 cores: not timed, the networks compute on the GPU"


def test_precision_is_timed_with_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads first: the draft of the run has fp32, and its precision is not timed."""
    asked: list[int] = []

    def faster(network: str, device: torch.device, number: int) -> str:
        asked.append(number)
        return "bf16"

    on_cores(monkeypatch, 2, {1: 1.6, 2: 1.0})
    monkeypatch.setattr(precision, "faster_precision", faster)
    run = invaders(threads=0, precision="auto")
    number = choose_threads(run).threads
    assert asked == []
    assert resolve(dataclasses.replace(run, threads=number)).precision == "bf16"
    assert asked == [2]


def test_memory_of_a_game_has_no_precision_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "faster_precision", lambda *_: "bf16")
    run = override(default_config("dqn"), {"env_id": "Pong", "obs_type": "ram", "precision": "auto"})
    assert resolve(run).precision == "fp32"


SHORT = CARTPOLE | {"env_id": ENV_ID, "threads": 0, "total_timesteps": 100}


@pytest.fixture
def camera() -> Iterator[None]:
    """Register an environment of small images, for `SHORT`."""
    space = spaces.Box(0, 255, (12, 12, 3), np.uint8)
    with registered(lambda: Sampled(space, spaces.Discrete(2))):
        yield


@pytest.mark.usefixtures("camera", "no_figures")
def test_the_number_is_stored_and_used_when_the_run_is_resumed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    set_numbers: list[int],
) -> None:
    on_cores(monkeypatch, 2, {1: 1.6, 2: 1.0})
    path = tmp_path / "run"
    assert cli.main(["train", "dqn", *flags(SHORT), "--run-dir", str(path)]) == 0
    assert "2 of 2 cores: 1.6 times as fast as 1" in capfd.readouterr().out
    assert read_config(RunFolder.open(path)).threads == 2
    assert set(set_numbers) == {2}, "the timing run and the run"
    # On a machine of four cores, too: nothing is timed again, and the run keeps its number.
    on_cores(monkeypatch, 4, None)
    set_numbers.clear()
    assert cli.main(["resume", str(path), "--total-timesteps", "200"]) == 0
    assert set(set_numbers) == {2}
    assert read_config(RunFolder.open(path)).threads == 2


@pytest.mark.usefixtures("camera", "no_figures")
def test_no_estimate_times_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    on_cores(monkeypatch, 2, None)
    run = ["train", "dqn", *flags(SHORT), "--run-dir", str(tmp_path / "run"), "--no-estimate"]
    assert cli.main(run) == 0
    assert "1 of 2 cores: not timed (--no-estimate)" in capfd.readouterr().out
    assert read_config(RunFolder.open(tmp_path / "run")).threads == 1


@pytest.mark.usefixtures("camera")
def test_the_python_interface_chooses_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cores(monkeypatch, 2, {1: 1.6, 2: 1.0})
    q2pi.train("dqn", run_dir=tmp_path / "run", **SHORT)
    assert read_config(RunFolder.open(tmp_path / "run")).threads == 2


@pytest.mark.usefixtures("camera")
def test_an_evaluation_uses_the_number_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_numbers: list[int]
) -> None:
    """But no more than one per core of the machine on which it is made."""
    q2pi.train("dqn", run_dir=tmp_path / "run", **(SHORT | {"threads": 2}))
    for cores, expected in ((2, 2), (1, 1)):
        on_cores(monkeypatch, cores, None)
        q2pi.evaluate(tmp_path / "run", episodes=1)
        assert set_numbers[-1] == expected
