"""Blocking and background evaluation: the same scores, training in parallel, and no checkpoint in between."""

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file
from small_runs import cartpole

from q2pi.algorithms.build import build_agent
from q2pi.algorithms.registry import default_config
from q2pi.config import ResolvedConfig, override, resolve, to_table
from q2pi.envs.make import make_envs
from q2pi.evaluation import background
from q2pi.evaluation.background import (
    BackgroundEvaluator,
    BlockingEvaluator,
    _weights,
    evaluate_weights,
    make_evaluator,
)
from q2pi.evaluation.evaluate import EVALUATION_SEED
from q2pi.parallel.executor import Job, JobStatus, Stop, never
from q2pi.runs.checkpoint import digest
from q2pi.training import loop
from q2pi.training.events import Checkpoint, Evaluated, Interrupted, Progress
from q2pi.training.loop import run

GAME = {
    "env_id": "SpaceInvaders",
    "resize": (36, 36),
    "max_frames_per_episode": 200,
    "num_envs": 3,
    "device": "cpu",
    "precision": "fp32",
    "threads": 1,
    "total_timesteps": 240,
    "evaluation_episodes": 2,
    "evaluation_frequency": 90,
    "checkpoint_frequency": 60,
    "log_frequency": 30,
}
SMALL: dict[str, dict[str, Any]] = {
    "dqn": {"batch_size": 8, "buffer_size": 500, "learning_starts": 20},
    "pqn_laptop": {"num_steps": 10, "num_minibatches": 1, "ema_decay": 0.9, "concurrent_updates": True},
}


def atari(algorithm: str = "dqn", **changes: Any) -> ResolvedConfig[Any]:
    """Return 240 agent steps of Space Invaders, evaluated at 90, 180 and 240, with checkpoints every 60 steps.

    DQN's updates overlap with the emulators: on the way, the evaluated weights are those of 3 steps before.
    """
    return resolve(override(default_config(algorithm), GAME | SMALL[algorithm] | changes))


class ManualExecutor:
    """An executor whose jobs finish when the test releases them."""

    def __init__(self) -> None:
        self.released = threading.Semaphore(0)

    def run(self, jobs: Iterable[Job], stop: Stop = never) -> Iterator[JobStatus]:
        for job in jobs:
            while not self.released.acquire(timeout=0.01):
                if stop():
                    yield JobStatus(job, "stopped")
                    return
            yield JobStatus(job, "finished", {"protocol": {}, "episodes": []})

    def release(self, count: int, after: float = 0.0) -> None:
        threading.Timer(after, self.released.release, [count]).start()


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> ManualExecutor:
    manual = ManualExecutor()
    monkeypatch.setattr(loop, "make_evaluator", lambda config: BackgroundEvaluator(config, manual))
    return manual


def test_only_atari_beside_an_accelerator_is_evaluated_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(make_evaluator(atari()), BlockingEvaluator)
    monkeypatch.setattr(background, "device_of", lambda name: torch.device("cuda"))
    assert isinstance(make_evaluator(atari()), BackgroundEvaluator)
    assert isinstance(make_evaluator(resolve(cartpole())), BlockingEvaluator), (
        "a user's registered environment may not exist in another process"
    )


@pytest.mark.parametrize("algorithm", SMALL)
def test_background_evaluation_changes_neither_scores_nor_training(
    algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcome() -> list[Any]:
        events = list(run(atari(algorithm)))
        last = [digest(event.state) for event in events if isinstance(event, Checkpoint)][-1]
        return [last, *(event.evaluation.report() for event in events if isinstance(event, Evaluated))]

    at_once = outcome()
    assert [report["step"] for report in at_once[1:]] == ([87, 177, 240] if algorithm == "dqn" else [90, 180, 240])
    monkeypatch.setattr(loop, "make_evaluator", BackgroundEvaluator)
    assert outcome() == at_once


def test_training_continues_and_no_checkpoint_lacks_an_evaluation(executor: ManualExecutor) -> None:
    events_seen: list[tuple[type, int]] = []
    for event in run(atari()):
        events_seen.append((type(event), event.step))
        if events_seen[-1] == (Progress, 150):
            executor.release(3)
    returned = events_seen.index((Evaluated, 87))
    assert (Progress, 150) in events_seen[:returned], "60 steps beyond the evaluated weights"
    for index, (kind, step) in enumerate(events_seen):
        if kind is Checkpoint:
            missing = [due for due in (87, 177, 240) if due <= step and (Evaluated, due) not in events_seen[:index]]
            assert not missing
    saved = [step for kind, step in events_seen if kind is Checkpoint]
    assert saved[0] == 60
    assert saved[-1] == 240
    assert 150 <= saved[1] <= 180, "the checkpoint due at step 120 waited for the evaluation"


def test_starting_an_evaluation_while_another_is_pending_waits_for_both(executor: ManualExecutor) -> None:
    events_seen: list[tuple[type, int]] = []
    for event in run(atari()):
        events_seen.append((type(event), event.step))
        if events_seen[-1] == (Progress, 150):
            executor.release(2, after=0.5)
        if events_seen[-1] == (Progress, 210):
            executor.release(1)
    expected = [(Evaluated, 87), (Evaluated, 177), (Progress, 180), (Checkpoint, 180)]
    assert [entry for entry in events_seen if entry in expected] == expected


def test_a_run_that_is_stopped_waits_for_its_evaluation(executor: ManualExecutor) -> None:
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 3
        if steps == 99:
            executor.release(1, after=0.5)
        return steps == 99

    *_, evaluated, progress, saved, interrupted = run(atari(), stop=stop)
    assert isinstance(evaluated, Evaluated)
    assert isinstance(saved, Checkpoint)
    assert isinstance(interrupted, Interrupted)
    assert (evaluated.step, progress.step, saved.step) == (87, 99, 99)


def started() -> tuple[BackgroundEvaluator, psutil.Process]:
    """Return an evaluator with a pending evaluation, and its process."""
    config = atari()
    envs = make_envs(config.env, config.num_envs, config.seed)
    evaluator = BackgroundEvaluator(config)
    evaluator.start(build_agent(config, envs), 7)
    envs.close()
    deadline = time.monotonic() + 30
    while not (found := workers()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return evaluator, found[0]


def workers() -> list[psutil.Process]:
    return [process for process in psutil.Process().children() if "q2pi.parallel.worker" in process.cmdline()]


def test_a_killed_process_is_an_error_of_one_line() -> None:
    evaluator, process = started()
    process.kill()
    message = r"^the evaluation at step 7 failed: its process was killed by SIGKILL$"
    with pytest.raises(ChildProcessError, match=message):
        evaluator.finished(wait=True)
    evaluator.close()


def test_a_failure_in_the_process_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_weights", lambda agent: {"none": torch.zeros(1)})
    evaluator, _ = started()
    with pytest.raises(ChildProcessError, match="the evaluation at step 7 failed: KeyError: ") as caught:
        evaluator.finished(wait=True)
    assert "Traceback" in caught.value.__notes__[0]
    evaluator.close()


def test_nan_in_the_process_is_reported_in_a_message(tmp_path: Path) -> None:
    config = atari(evaluation_episodes=1)
    agent = build_agent(config, make_envs(config.env, config.num_envs, config.seed))
    arguments = {"config": to_table(config), "step": 90, "weights": str(tmp_path / "weights.safetensors")}
    for value, expected in ((0.0, {"protocol", "episodes"}), (float("nan"), {"nan"})):
        for parameter in agent.networks()["online"].parameters():
            torch.nn.init.constant_(parameter, value)
        save_file(_weights(agent), arguments["weights"])
        message = evaluate_weights(arguments, lambda _: None, never)
        assert set(message) == expected
    assert message == {"nan": "a Q-value is NaN in the evaluation after 90 agent steps"}


def test_close_removes_the_process_and_its_files() -> None:
    evaluator, process = started()
    assert evaluator.is_busy
    assert evaluator.finished(wait=False) == []
    weights = Path(evaluator._folder.name)
    assert weights.is_dir()
    evaluator.close()
    assert not process.is_running()
    assert not weights.exists()


def test_the_process_uses_one_core() -> None:
    """Otherwise its OpenMP pool has a thread per core, and idle threads spin."""
    evaluator, process = started()
    assert process.environ()["OMP_NUM_THREADS"] == "1"
    evaluator.close()


def test_runs_of_different_seeds_are_evaluated_on_the_same_episodes() -> None:
    seeds = []
    for seed in (1, 2):
        config = resolve(cartpole(seed=seed, evaluation_episodes=4))
        *_, evaluated = (event for event in run(config) if isinstance(event, Evaluated))
        assert evaluated.evaluation.protocol["seed"] == EVALUATION_SEED
        seeds.append([episode.seed for episode in evaluated.evaluation.episodes])
    assert seeds[0] == seeds[1]
    assert len(seeds[0]) == 4


def test_beside_an_accelerator_evaluations_are_made_in_fp32_on_the_cpu() -> None:
    """With the weights and the rest of the run's configuration."""
    jobs: list[Job] = []

    class Recorded:
        def run(self, given: Iterable[Job], stop: Stop = never) -> Iterator[JobStatus]:
            for job in given:
                jobs.append(job)
                yield JobStatus(job, "finished", {"protocol": {}, "episodes": []})

    config = atari(precision="bf16", seed=5)
    envs = make_envs(config.env, config.num_envs, config.seed)
    agent = build_agent(config, envs)
    envs.close()
    evaluator = BackgroundEvaluator(config, Recorded())
    evaluator.start(agent, 90)
    assert [evaluation.step for evaluation in evaluator.finished(wait=True)] == [90]
    evaluator.close()
    table = jobs[0].arguments["config"]
    assert (table["precision"], table["device"], table["seed"]) == ("fp32", "cpu", 5)
    assert jobs[0].arguments["step"] == 90
