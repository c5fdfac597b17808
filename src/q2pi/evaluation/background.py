"""When a run's evaluations are made: at once on the CPU; beside training where that has an accelerator to itself.

    judge = judge_of(config)
    judge.begin(agent, step)
    for evaluation in judge.finished(wait=False):
        ...
    judge.close()

Beside training an evaluation is made in a process of its own, on one core and in fp32, of the weights as they were. The
process is one of Python's own and not of `multiprocessing`, which would run a user's script a second time.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load, save

from q2pi.acceleration.device import device_of
from q2pi.algorithms.base import Agent
from q2pi.algorithms.registry import build_agent, default_config
from q2pi.config import ResolvedConfig, from_table, resolve, to_table
from q2pi.envs import make_envs
from q2pi.envs.spec import is_atari
from q2pi.envs.vector import Episode
from q2pi.evaluation.evaluate import EVALUATION_SEED, Evaluation, evaluate


class Evaluator(Protocol):
    """Makes the evaluations of a run."""

    @property
    def is_busy(self) -> bool:
        """Whether an evaluation has begun that `finished` has not returned."""

    def start(self, agent: Agent, step: int) -> None:
        """Judge the agent as it is now, after `step` agent steps."""

    def finished(self, wait: bool) -> list[Evaluation]:
        """Return what is done since the last call, oldest first; all that has begun if it may `wait`."""

    def close(self) -> None:
        """Give up what is under way."""


def make_evaluator(config: ResolvedConfig[Any]) -> Evaluator:
    """Return the judge of a run. Only Atari games are judged beside it: another process may not know a user's world."""
    beside = is_atari(config.env.env_id) and device_of(config.device).type != "cpu"
    return BackgroundEvaluator(config) if beside else BlockingEvaluator(config)


class BlockingEvaluator:
    """Training stops for an evaluation."""

    def __init__(self, config: ResolvedConfig[Any]) -> None:
        self._config = config
        self._done: list[Evaluation] = []

    @property
    def is_busy(self) -> bool:
        return bool(self._done)

    def start(self, agent: Agent, step: int) -> None:
        self._done.append(_evaluate(self._config, agent, step))

    def finished(self, wait: bool) -> list[Evaluation]:
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        pass


class BackgroundEvaluator:
    """Training goes on; evaluations are made one after the other in a process that starts with the first.

    One that begins before the last is done is waited for, as is that: checkpoints come when no evaluation is under way.
    """

    def __init__(self, config: ResolvedConfig[Any]) -> None:
        # What `auto` stood for is settled already, and the CPU of a machine with an accelerator has no need of bf16.
        self._config = dataclasses.replace(config, device="cpu", precision="fp32")
        self._process: subprocess.Popen[bytes] | None = None
        self._messenger = ThreadPoolExecutor(1)
        self._begun: deque[Future[Evaluation]] = deque()

    @property
    def is_busy(self) -> bool:
        return bool(self._begun)

    def start(self, agent: Agent, step: int) -> None:
        self._process = self._process or _start()
        weights = save(_snapshot(agent))
        header = {"config": to_table(self._config), "step": step, "bytes": len(weights)}
        self._begun.append(self._messenger.submit(_ask, self._process, header, weights))
        if len(self._begun) > 1:
            wait(self._begun)

    def finished(self, wait: bool) -> list[Evaluation]:
        done = []
        while self._begun and (wait or self._begun[0].done()):
            done.append(self._begun.popleft().result())
        return done

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._messenger.shutdown(cancel_futures=True)
            with contextlib.suppress(BrokenPipeError), self._process:
                pass


def _start() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "q2pi.evaluation.background"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # a pool as large as the machine would hold up training's emulators
        start_new_session=True,  # Ctrl-C at the terminal is for the training, which waits for its evaluations
    )


def _ask(process: "subprocess.Popen[bytes]", header: dict[str, Any], weights: bytes) -> Evaluation:
    """Send a line of JSON and weights as safetensors to the process that judges, and wait for its line of JSON."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(header).encode() + b"\n" + weights)
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise ChildProcessError(f"the process that judges ended with status {process.wait()}")
    answer = json.loads(line)
    episodes = [Episode(**entry | {"actions": np.array(entry["actions"])}) for entry in answer["episodes"]]
    return Evaluation(header["step"], tuple(episodes), answer["protocol"])


def _snapshot(agent: Agent) -> dict[str, torch.Tensor]:
    """Return what an agent that sees images acts by, on the CPU."""
    return {
        f"{name}/{key}": tensor.cpu().contiguous()
        for name, network in agent.networks().items()
        for key, tensor in network.state_dict().items()
    }


def _acting(config: ResolvedConfig[Any], snapshot: Mapping[str, torch.Tensor]) -> Agent:
    """Return an agent that acts by a snapshot."""
    envs = make_envs(config.env, config.num_envs, config.seed)
    agent = build_agent(config, envs)
    envs.close()
    for name, network in agent.networks().items():
        network.load_state_dict({key: snapshot[f"{name}/{key}"] for key in network.state_dict()})
    return agent


def _evaluate(config: ResolvedConfig[Any], agent: Agent, step: int) -> Evaluation:
    return evaluate(agent, config.env, step=step, episodes=config.evaluation_episodes, seed=EVALUATION_SEED)


def main() -> None:
    """Judge what standard input asks for until it ends, and answer on standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    while line := sys.stdin.buffer.readline():
        work = json.loads(line)
        config = resolve(
            from_table(default_config(work["config"]["algorithm"]), work["config"], "the run's configuration")
        )
        agent = _acting(config, load(sys.stdin.buffer.read(work["bytes"])))
        evaluation = _evaluate(config, agent, work["step"])
        episodes = [
            dataclasses.asdict(episode) | {"actions": episode.actions.tolist()} for episode in evaluation.episodes
        ]
        print(json.dumps({"protocol": evaluation.protocol, "episodes": episodes}), file=answers, flush=True)


if __name__ == "__main__":
    main()
