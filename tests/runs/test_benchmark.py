"""Measurements of speed: FLOP by hand, shares that add up, and errors."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from q2pi.__main__ import main
from q2pi.envs.spec import EnvSpec
from q2pi.errors import UserError
from q2pi.runs import benchmark as bench
from q2pi.runs import benchmark_switches


@pytest.mark.parametrize(("double", "passes"), [(True, 5), (False, 4)])
def test_the_work_of_one_update_by_hand(double: bool, passes: int) -> None:
    """Multiplications of one forward pass per sample: three convolutions and two layers of 512 and 6 units.

    Double DQN has two forward passes on the next observations (DQN one) and one on the observations. The backward pass
    costs two forward passes, minus the gradient of the pixels. A multiplication with its addition is two operations.
    """
    first, second, third = 20 * 20 * 32 * 8 * 8 * 4, 9 * 9 * 64 * 4 * 4 * 32, 7 * 7 * 64 * 3 * 3 * 64
    forward = first + second + third + 3136 * 512 + 512 * 6
    measures = bench.update(bench.base_config({"threads": 1, "precision": "fp32"}, double), repetitions=1)
    assert measures["gflop"] == pytest.approx(2 * 32 * (passes * forward - first) / 1e9)
    assert measures["gflop_per_second"] == pytest.approx(1e3 * measures["gflop"] / measures["ms"])
    assert 0 < measures["fraction_of_machine"] < 1.5


def test_matrix_rate() -> None:
    assert bench.matrix_rate("fp32", torch.device("cpu")) > 1e8


def test_shares_of_training_add_up() -> None:
    measures = bench.training(bench.base_config({"threads": 1, "num_envs": 4}), steps=10)
    assert measures["agent_steps"] == 8
    assert sum(measures["share"].values()) == pytest.approx(1)
    assert {"act", "learn", "environment", "observe", "other"} <= set(measures["share"])
    assert 1 < measures["steps_per_second"] < 10_000


def test_compressed_frames_take_far_less_memory() -> None:
    raw, compressed = (bench.replay(4_000, codec, batches=5) for codec in ("raw", "zstd"))
    assert 7_000 < raw["bytes_per_transition"] < 8_500
    assert 100 < compressed["bytes_per_transition"] < 1_500
    assert raw["sample_ms"] > 0
    assert raw["checkpoint_megabytes"] < raw["megabytes"] / 10, "a checkpoint is compressed"
    assert raw["prioritized_choose_ms"] > 0
    assert raw["prioritized_update_ms"] > 0
    assert raw["prioritized_megabytes"] == pytest.approx(0.032, rel=0.1), "8 bytes per row"
    assert 0 < raw["checkpoint_seconds"] < 60


def test_a_replay_is_filled_by_the_given_policy() -> None:
    seen: list[tuple[int, ...]] = []

    def fire(observation: Any, generator: np.random.Generator) -> Any:
        seen.append(observation.shape)
        return np.ones(len(observation), np.int64)

    measures = bench.replay(1_000, "raw", batches=1, env=EnvSpec("Pong", protocol="nature"), act=fire)
    assert (measures["env_id"], measures["policy"]) == ("Pong", "trained")
    assert seen == [(8, 4, 84, 84)] * 125
    assert bench.replay(1_000, "raw", batches=1)["policy"] == "random"


@pytest.mark.parametrize("rules", [{"resize": (42, 42)}, {"grayscale": False}])
def test_a_replay_of_other_frames_is_not_measured(rules: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="gray frames of 84 x 84"):
        bench.replay(1_000, "raw", env=EnvSpec("Pong", **rules))


def test_json_alone_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "replay", "--transitions", "1000", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["transitions"] > 900


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["replay", "--transitions", "10"], "--transitions 10 is out of range: it must be at least 1000"),
        (["update", "--repetitions", "0"], "--repetitions 0 is out of range: it must be at least 1"),
        (["all"], "bench --help"),
    ],
)
def test_bad_input(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    assert message in capsys.readouterr().err


def test_every_switch_is_timed_beside_plain_dqn(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "update", "--switches", "--repetitions", "1", "--threads", "1", "--json"]) == 0
    measures = json.loads(capfd.readouterr().out)
    assert list(measures["ms"]) == ["dqn", *benchmark_switches.SWITCHES, "rainbow"]
    assert measures["ratio"]["dqn"] == 1
    assert all(0 < ms < 60_000 for ms in measures["ms"].values())


def test_a_timed_switch_is_the_only_one_that_is_on() -> None:
    configs = benchmark_switches.configurations({"threads": 1, "precision": "fp32"})
    assert configs["dqn"].hyper.method == "DQN"
    for name, changes in benchmark_switches.SWITCHES.items():
        assert configs[name].hyper.method == f"Rainbow ({next(iter(changes))})"


def test_switches_belong_to_updates(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "train", "--switches"]) == 2
    assert "--switches belongs to bench update" in capfd.readouterr().err
