"""Evaluations during training: blocking on the CPU; in a subprocess if training has an accelerator.

    evaluator = make_evaluator(config)
    evaluator.start(agent, step)
    for evaluation in evaluator.finished(wait=False):
        ...
    evaluator.close()

A background evaluation runs on one CPU core, in fp32, with a copy of the weights.
"""

import dataclasses
import tempfile
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from q2pi.acceleration.device import device_of
from q2pi.algorithms.base import Agent
from q2pi.algorithms.build import build_agent
from q2pi.algorithms.registry import default_config
from q2pi.config import ResolvedConfig, from_table, resolve, to_table
from q2pi.envs.make import make_envs
from q2pi.envs.spec import is_atari
from q2pi.envs.vector import Episode
from q2pi.evaluation.evaluate import EVALUATION_SEED, Evaluation, evaluate
from q2pi.parallel.executor import Emit, Executor, Job, JobStatus, Message, Stop
from q2pi.parallel.local import LocalProcesses


class Evaluator(Protocol):
    """Runs the evaluations of a training run."""

    @property
    def is_busy(self) -> bool:
        """Whether an evaluation was started that `finished` has not returned."""

    def start(self, agent: Agent, step: int) -> None:
        """Start an evaluation of the agent's current weights, after `step` agent steps of training.

        Raises:
            FloatingPointError: see `finished`.
        """

    def finished(self, wait: bool) -> list[Evaluation]:
        """Return the evaluations that finished since the last call, oldest first; if `wait`, all that were started.

        Raises:
            FloatingPointError: an action, a logit or a Q-value of the agent was NaN.
        """

    def close(self) -> None:
        """Cancel pending evaluations."""


def make_evaluator(config: ResolvedConfig[Any]) -> Evaluator:
    """Return the evaluator of a run.

    Only Atari is evaluated in a subprocess: a user's registered environment may not exist there.
    """
    in_background = is_atari(config.env.env_id) and device_of(config.device).type != "cpu"
    return BackgroundEvaluator(config) if in_background else BlockingEvaluator(config)


class BlockingEvaluator:
    """Training waits for each evaluation."""

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
    """Training continues during an evaluation.

    At most one evaluation is pending: starting another blocks until both have finished. Checkpoints wait for pending
    evaluations.
    """

    def __init__(self, config: ResolvedConfig[Any], executor: Executor | None = None) -> None:
        """Prepare; `executor` runs one job at a time, by default a process on this machine."""
        # bf16 was chosen for the accelerator; it is slower than fp32 on the CPU
        self._config = dataclasses.replace(config, device="cpu", precision="fp32")
        self._executor = executor or LocalProcesses(1)
        self._folder = tempfile.TemporaryDirectory(prefix="q2pi-evaluation-")
        self._closing = threading.Event()
        self._pending: deque[tuple[int, Future[JobStatus]]] = deque()

    @property
    def is_busy(self) -> bool:
        return bool(self._pending)

    def start(self, agent: Agent, step: int) -> None:
        self._wait()  # the file of weights is read by the pending evaluation
        weights = Path(self._folder.name) / "weights.safetensors"
        save_file(_weights(agent), weights)
        arguments = {"config": to_table(self._config), "step": step, "weights": str(weights)}
        task = "q2pi.evaluation.background:evaluate_weights"
        # threads=1: OpenMP threads on every core would slow down the emulators of training
        job = Job(f"evaluation at step {step}", task, arguments, threads=1, on_stop="kill")
        is_second = self.is_busy
        self._pending.append((step, self._run(job)))
        if is_second:
            self._wait()

    def finished(self, wait: bool) -> list[Evaluation]:
        done = []
        while self._pending and (wait or self._pending[0][1].done()):
            step, status = self._pending.popleft()
            done.append(_evaluation(step, status.result()))
        return done

    def close(self) -> None:
        self._closing.set()
        self._wait()
        self._folder.cleanup()

    def _wait(self) -> None:
        wait([status for _, status in self._pending])

    def _run(self, job: Job) -> "Future[JobStatus]":
        """Run a job in a thread, which waits for the pipe of its process; return its last status."""
        last: Future[JobStatus] = Future()

        def run() -> None:
            try:
                *_, status = self._executor.run([job], self._closing.is_set)
                last.set_result(status)
            except Exception as problem:
                last.set_exception(problem)

        threading.Thread(target=run, daemon=True).start()
        return last


def evaluate_weights(arguments: dict[str, Any], emit: Emit, stop: Stop) -> Message:
    """Task of a background evaluation.

    Args:
        arguments: `config`, the run's configuration as a table; `step`, agent steps of training; `weights`, path of a
            safetensors file with the agent's networks.
        emit, stop: unused: the process of an evaluation is killed on stop.

    Returns:
        `protocol` and `episodes` of the `Evaluation`, or "nan": what was NaN.
    """
    table = arguments["config"]
    config = resolve(from_table(default_config(table["algorithm"]), table, "the run's configuration"))
    try:
        evaluation = _evaluate(config, _agent(config, load_file(arguments["weights"])), arguments["step"])
    except FloatingPointError as problem:
        return {"nan": str(problem)}
    episodes = [dataclasses.asdict(episode) | {"actions": episode.actions.tolist()} for episode in evaluation.episodes]
    return {"protocol": evaluation.protocol, "episodes": episodes}


def _evaluation(step: int, status: JobStatus) -> Evaluation:
    """Return the result of a job.

    Raises:
        ChildProcessError: the job failed.
        FloatingPointError: an action, a logit or a Q-value was NaN.
    """
    if status.state != "finished":
        problem = ChildProcessError(f"the {status.job.name} failed: {status.reason or status.state}")
        if status.traceback:
            problem.add_note(status.traceback)
        raise problem
    if "nan" in status.message:
        raise FloatingPointError(status.message["nan"])
    episodes = [Episode(**entry | {"actions": np.array(entry["actions"])}) for entry in status.message["episodes"]]
    return Evaluation(step, tuple(episodes), status.message["protocol"])


def _weights(agent: Agent) -> dict[str, torch.Tensor]:
    """Return a copy of the networks' tensors on the CPU, by network and name."""
    return {
        f"{name}/{key}": tensor.cpu().contiguous()
        for name, network in agent.networks().items()
        for key, tensor in network.state_dict().items()
    }


def _agent(config: ResolvedConfig[Any], weights: Mapping[str, torch.Tensor]) -> Agent:
    """Return an agent with the given weights."""
    envs = make_envs(config.env, config.num_envs, config.seed)
    agent = build_agent(config, envs)
    envs.close()
    for name, network in agent.networks().items():
        network.load_state_dict({key: weights[f"{name}/{key}"] for key in network.state_dict()})
    return agent


def _evaluate(config: ResolvedConfig[Any], agent: Agent, step: int) -> Evaluation:
    try:
        return evaluate(agent, config.env, step=step, episodes=config.evaluation_episodes, seed=EVALUATION_SEED)
    except FloatingPointError as problem:
        raise FloatingPointError(f"{problem} in the evaluation after {step} agent steps") from problem
