"""Estimates of a run: counts by hand, memory of the real replay, timing runs, and errors."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from small_runs import cartpole, invaders

from q2pi.algorithms.build import agent_spec, build_agent
from q2pi.algorithms.registry import default_config
from q2pi.commands.terminal import explain
from q2pi.config import RunConfig, override, resolve
from q2pi.envs.make import make_envs
from q2pi.errors import UserError
from q2pi.runs import estimate
from q2pi.runs.cpu_usage import CpuMeter, CpuUsage
from q2pi.runs.threads import choose_threads
from q2pi.training.events import Progress


def test_counts_of_a_run_by_hand() -> None:
    """600 agent steps of 4 frames; an update every 4 steps after the first 100."""
    needs = estimate.estimate(resolve(invaders()))
    assert (needs.steps, needs.frames, needs.updates) == (600, 2_400, 125)
    needs = estimate.estimate(cartpole())
    assert (needs.steps, needs.frames, needs.updates) == (400, 400, 84)


@pytest.mark.parametrize(
    "config",
    [cartpole(), cartpole(num_envs=1, n_step=3), invaders(), invaders(num_envs=1, buffer_size=7, batch_size=2)],
)
def test_the_storage_is_that_of_the_replay(config: RunConfig[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=1_000))
    monkeypatch.setattr(estimate.psutil, "Process", lambda: process)
    monkeypatch.setattr(estimate.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**9))
    config = resolve(config)
    envs = make_envs(config.env, config.num_envs, config.seed)
    agent: Any = build_agent(config, envs)
    needed = config.hyper.storage_bytes(agent_spec(config, envs), 10**9)
    envs.close()
    assert needed == agent.replay.nbytes
    needs = estimate.estimate(config)
    assert needs.storage == min(needed, whole_budget(config))
    assert needs.memory_available == 1_000 + 10**9


def whole_budget(config: RunConfig[Any]) -> int:
    """Return the bytes of a replay that holds every step of the run."""
    return estimate.estimate(replace(config, hyper=replace(config.hyper, buffer_size=config.total_timesteps))).storage


def test_storage_counts_only_what_the_budget_fills() -> None:
    full, part = estimate.estimate(cartpole(buffer_size=400)), estimate.estimate(cartpole(buffer_size=100_000))
    assert part.storage == full.storage


TOUCH = """
import numpy as np
import psutil
from q2pi.runs.estimate import peak_memory

before = peak_memory()
touched = np.ones(before - psutil.Process().memory_info().rss + (50 << 20), np.uint8)
print(peak_memory() - before, int(touched.min()))
"""


def test_peak_memory_grows_with_touched_memory() -> None:
    """50 MB above the peak so far, in a separate process: an earlier peak of other tests would hide them."""
    output = subprocess.run([sys.executable, "-c", TOUCH], check=True, stdout=subprocess.PIPE, text=True).stdout
    grown, touched = map(int, output.split())
    assert 45 << 20 < grown < 60 << 20
    assert touched == 1


def test_a_million_atari_frames_take_seven_gigabytes() -> None:
    """84 * 84 = 7056 bytes a frame, and 21 more: action 8, reward 4, continuation 4, age 4, final 1."""
    config = resolve(invaders(resize=(84, 84), num_envs=8))
    envs = make_envs(config.env, 1, 1)
    spec = replace(agent_spec(config, envs), num_envs=8)
    envs.close()
    hyper = replace(config.hyper, buffer_size=1_000_000)
    rows = 8 * (125_000 + 3 + 1)
    assert hyper.storage_bytes(spec, 10**9) == rows * (7056 + 21)


def test_a_buffer_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^--buffer-size 1000000000 needs \d+\.\d+ GB, more than the \d+\.\d+ GB"):
        estimate.estimate(resolve(invaders(buffer_size=10**9)))
    needed = 1_000 * 1296  # less than the replay needs
    monkeypatch.setattr(estimate.psutil, "virtual_memory", lambda: SimpleNamespace(available=needed))
    with pytest.raises(UserError, match="--buffer-size 1000"):
        estimate.estimate(resolve(invaders()))


def test_rollouts_that_do_not_fit_are_refused_with_their_options() -> None:
    config = override(
        default_config("pqn_laptop"), {"env_id": "SpaceInvaders", "num_envs": 8, "recent_rollouts": 10**6}
    )
    with pytest.raises(UserError, match=r"^--num-envs 8 with --recent-rollouts 1000000 needs [\d.]+ GB, more than"):
        estimate.estimate(resolve(config))


@pytest.mark.parametrize(
    "config",
    [cartpole(), cartpole(num_envs=400), cartpole(total_timesteps=5, num_envs=1, learning_starts=0)],
    ids=["usual", "one vector step", "five steps"],
)
def test_a_timing_run_gives_a_time(config: RunConfig[Any]) -> None:
    assert 0 < estimate.time_run(resolve(config)).seconds < 60


PEAK = """
import sys
from small_runs import cartpole
from q2pi.config import resolve
from q2pi.runs import estimate
from q2pi.runs.execute import execute

config = resolve(cartpole(hidden=(1500, 1500)))
expected = estimate.time_run(config).memory + estimate.estimate(config).storage
execute(config, sys.argv[1])
print(expected, estimate.peak_memory())
"""


def test_the_peak_of_a_run_equals_its_estimate(tmp_path: Path) -> None:
    """In a separate process. Writing 2.3 million weights and their moments takes 70 MB more than holding them."""
    command = [sys.executable, "-c", PEAK, str(tmp_path / "run")]
    search_path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": search_path}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    expected, peak = map(int, output.stdout.split())
    assert expected == pytest.approx(peak, rel=0.1)


def test_more_steps_take_more_time() -> None:
    config = resolve(cartpole())
    assert estimate.time_run(replace(config, total_timesteps=400_000)).seconds > 10 * estimate.time_run(config).seconds


def test_each_part_is_estimated_from_its_fastest_row() -> None:
    """By hand: 400 agent steps of 2 ms, 84 updates of 100 ms. The first row builds emulators, the third is slow."""
    rows = [
        Progress(300, {"updates": 10}, {"act": 2.0, "environment": 4.0, "learn": 9.0}),
        Progress(600, {"updates": 10}, {"act": 0.2, "environment": 0.4, "learn": 1.0}),
        Progress(900, {"updates": 0}, {"act": 0.5, "environment": 0.5, "learn": 0.0}),
    ]
    config = resolve(cartpole())
    seconds, rate = estimate._run_seconds(config, rows)
    assert seconds == pytest.approx(0.8 + 8.4)
    assert config.hyper.updates_due(200, 1) == 34
    assert rate == pytest.approx(200 / (0.4 + 5.0)), "the second half: 200 agent steps, 50 updates"
    assert np.isnan(estimate._run_seconds(config, rows[2:])).all(), "unknown without an update"


def explained(config: RunConfig[Any], brief: bool) -> str:
    text = io.StringIO()
    run = resolve(config)
    explain(
        run,
        "classic",
        estimate.estimate(run),
        estimate.time_run(run),
        choose_threads(run),
        Console(file=text, width=120),
        brief,
    )
    return text.getvalue()


def test_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuMeter, "read", lambda self: CpuUsage(own=1.0, other=0.0, cores=2))
    full, brief = explained(cartpole(), False), explained(cartpole(), True)
    for line in ("classic", "400 (4 parallel environments)", "84", "about"):
        assert line in brief
    assert "target_network_frequency" in full
    assert "target_network_frequency" not in brief


def test_a_timing_run_may_diverge() -> None:
    assert "unknown: the timing run diverged or made no update" in explained(cartpole(learning_rate=1e30), True)


@pytest.mark.parametrize(("other", "is_distorted"), [(1.6, True), (0.1, False)])
def test_a_distorted_timing_gives_no_time(other: float, is_distorted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuMeter, "read", lambda self: CpuUsage(own=0.4, other=other, cores=2))
    text = explained(cartpole(), True)
    assert ("unknown: other programs used 1.6 of 2 cores during the timing run" in text) is is_distorted
    assert ("of training on this machine" in text) is not is_distorted


def test_bytes_as_text() -> None:
    assert estimate.gigabytes(7_056_000_000) == "7.06 GB"
    assert estimate.gigabytes(1_500_000) == "1.5 MB"


@pytest.mark.parametrize(
    ("changes", "memory", "codec"),
    [
        ({"buffer_size": 1_000_000}, 22 * 10**9, "raw"),  # 7.06 GB of frames
        ({"buffer_size": 1_000_000}, 21 * 10**9, "zstd"),
        ({"buffer_size": 1_000_000, "grayscale": False}, 22 * 10**9, "zstd"),
        ({"buffer_size": 1_000_000, "replay_codec": "raw"}, 10**9, "raw"),
        ({"buffer_size": 500, "replay_codec": "zstd"}, 22 * 10**9, "zstd"),
    ],
)
def test_frames_are_compressed_if_raw_frames_take_over_a_third_of_the_memory(
    changes: dict[str, Any], memory: int, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("q2pi.buffers.frames.virtual_memory", lambda: SimpleNamespace(total=memory))
    assert resolve(invaders(resize=(84, 84), **changes)).hyper.replay_codec == codec


def test_vectors_are_not_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("q2pi.buffers.frames.virtual_memory", lambda: SimpleNamespace(total=1_000))
    assert resolve(cartpole()).hyper.replay_codec == "raw"
