"""The path from the command line to an equation: at most seven hops, in a real run."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

from q2pi import __main__ as cli
from q2pi.algorithms import q_learning
from q2pi.equations import losses, returns, targets

MOST_HOPS = 7
CARTPOLE = ["--env-id", "CartPole-v1", "--total-timesteps", "400", "--num-envs", "4", "--hidden", "8"]
ROLLOUT = ["--num-steps", "10", "--num-minibatches", "2", "--update-epochs", "1"]
REPLAY = ["--learning-starts", "100", "--buffer-size", "400", "--batch-size", "8"]
PATHS: dict[str, tuple[list[str], ModuleType, str]] = {
    "dqn": ([*CARTPOLE, *REPLAY], targets, "q_target"),
    "dqn --double": ([*CARTPOLE, *REPLAY], losses, "td_errors"),
    "pqn": ([*CARTPOLE, *ROLLOUT], losses, "td_errors"),
    "pqn_laptop": ([*CARTPOLE, *ROLLOUT], losses, "td_errors"),
    "a2c": (CARTPOLE, losses, "policy_gradient_loss"),
    "a2c --gae-lambda 0.9": (CARTPOLE, returns, "generalized_advantages"),
    "ppo": ([*CARTPOLE, *ROLLOUT], losses, "clipped_surrogate"),
    "reinforce": ([*CARTPOLE, "--episodes-per-update", "4"], losses, "policy_gradient_loss"),
    "q_learning": (["--env-id", "FrozenLake-v1", "--total-timesteps", "400"], q_learning, "tabular_target"),
}
"""Command -> its options and the equation whose call stack is measured: (module in which it is looked up, name)."""


def stack_below(code: CodeType) -> list[str]:
    """Return the functions between the caller and `code`, outermost first."""
    names, frame = [], sys._getframe(2)
    while frame.f_code is not code:
        names.append(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname}")
        assert frame.f_back is not None
        frame = frame.f_back
    return names[::-1]


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("command", PATHS)
def test_at_most_seven_hops_to_the_equation(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, module, name = PATHS[command]
    original: Callable[..., Any] = getattr(module, name)
    stacks: list[list[str]] = []

    def recorded(*arguments: Any, **named: Any) -> Any:
        stacks.append([*stack_below(cli.main.__code__), f"equations.{name}"])
        return original(*arguments, **named)

    monkeypatch.setattr(module, name, recorded)
    common = ["--device", "cpu", "--threads", "1", "--evaluation-episodes", "0", "--run-dir", str(tmp_path / "run")]
    assert cli.main(["train", *command.split(), *options, *common]) == 0
    assert any("execute.execute" in stack for stack in stacks), "the run itself, not only the timing run"
    longest = max(stacks, key=len)
    assert len(longest) <= MOST_HOPS, " -> ".join(["cli.main", *longest])


def test_control_a_longer_path_is_counted() -> None:
    def inner() -> list[str]:
        return stack_below(test_control_a_longer_path_is_counted.__code__)

    def outer() -> list[str]:
        return inner()

    assert len(outer()) == 1, "`inner` returns the stack of its caller"
