"""Trials in this process, with scripted scores in place of training."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import Trial, TrialState
from small_studies import SPACE, begun, plan

from q2pi.algorithms.common.search_space import Float, PowerOfTwo, Space
from q2pi.config import RunConfig, to_table
from q2pi.errors import UserError
from q2pi.runs.folder import RunFolder
from q2pi.runs.manifest import steps
from q2pi.runs.sinks import Sink
from q2pi.training.events import Diverged, Evaluated, Finished, Interrupted, Started
from q2pi.tuning import trial as trials
from q2pi.tuning.plan import Plan
from q2pi.tuning.space import sample_options
from q2pi.tuning.trial import Claim, Outcome, claim, largest, run_trial


def never() -> bool:
    return False


def scored(score: Callable[[RunConfig[Any], int], float], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Replace training by evaluations with `score(config, step)`; return the list of (folder, step) in order."""
    seen: list[tuple[str, int]] = []
    rows: dict[Path, list[Any]] = {}

    def execute(config: Any, folder: Path, *, sinks: list[Sink], stop: Callable[[], bool]) -> Finished | Interrupted:
        (sink,) = sinks
        folder.mkdir(parents=True, exist_ok=True)
        rows.setdefault(folder, [])
        sink.write(Started(0, config, SimpleNamespace()))  # type: ignore[arg-type]
        for step in (100, 200, 300):
            if stop():
                return Interrupted(step)
            seen.append((f"{folder.parent.name}/{folder.name}", step))
            value = score(config, step)
            rows[folder].append(trials.Point(step, (value, value)))
            sink.write(Evaluated(step, SimpleNamespace(scores=[value, value])))  # type: ignore[arg-type]
        return Finished(300, {})

    monkeypatch.setattr(trials, "execute", execute)
    monkeypatch.setattr(trials, "read_curve", lambda folder: list(rows[folder]))
    return seen


def run_all(tmp_path: Path, made: Plan, wanted: int) -> Any:
    folder, study = begun(tmp_path / "study", made)
    while (claimed := claim(folder, made, study, wanted)) is not None:
        run_trial(folder, made, study, claimed, never)
    return study


def test_the_first_trial_is_the_defaults_and_the_others_are_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(lambda config, step: config.hyper.learning_rate, monkeypatch)
    made = plan(fixed={"hidden": [16]})
    study = run_all(tmp_path, made, 4)
    first, *others = study.get_trials()
    assert first.user_attrs["config"] == to_table(made.base)
    assert first.value == made.base.hyper.learning_rate
    assert first.params == {"learning_rate": 1e-3, "1 - gamma": pytest.approx(0.01), "log2 episodes_per_update": 1}
    for other in others:
        assert other.user_attrs["config"]["hyper"]["hidden"] == [16], "fixed in every trial except the defaults"
        assert other.value == other.user_attrs["config"]["hyper"]["learning_rate"]
    assert len({other.value for other in others}) == 3


def test_the_largest_run_has_the_upper_ends_of_integers() -> None:
    space: Space = {"num_envs": PowerOfTwo(1, 8), "learning_rate": Float(1e-3, 1e-2)}
    made = plan({"num_envs": 2}, space=space, fixed={"hidden": [16]})
    run = largest(made)
    assert run.num_envs == 8
    assert run.hyper.hidden == (16,)
    assert run.hyper.learning_rate == made.base.hyper.learning_rate


def test_defaults_outside_the_space_are_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(lambda config, step: config.hyper.learning_rate, monkeypatch)
    made = plan({"learning_rate": 0.5})
    (first,) = run_all(tmp_path, made, 1).get_trials()
    assert first.value == 0.5
    assert first.params["learning_rate"] == 0.1, "samplers get the nearest point of the space"


def test_a_trial_is_the_statistic_over_its_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(lambda config, step: {1: 10.0, 2: 40.0}[config.seed] + (step < 300) * 1000, monkeypatch)
    (first,) = run_all(tmp_path, plan(), 1).get_trials()
    assert first.value == 25.0  # of the last evaluations only
    assert first.intermediate_values == {1: 1010.0, 2: 1010.0, 3: 10.0, 4: 525.0, 5: 525.0, 6: 25.0}


def test_a_bad_trial_is_pruned_within_a_seed_and_across_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(config: RunConfig[Any], step: int) -> float:
        order = seen[-1][0]
        if order.startswith("0007"):
            return 5.0
        return 5.0 if order == "0008/seed-2" else 10.0

    seen = scored(score, monkeypatch)
    study = run_all(tmp_path, plan(pruner="median"), 9)
    states = [trial.state for trial in study.get_trials()]
    assert states[:7] == [TrialState.COMPLETE] * 7
    assert states[7:] == [TrialState.PRUNED] * 2
    assert [at for at in seen if at[0].startswith("0007")] == [("0007/seed-1", 100), ("0007/seed-1", 200)]
    assert ("0008/seed-1", 300) in seen
    assert ("0008/seed-2", 100) in seen
    assert ("0008/seed-2", 200) not in seen


def test_pruning_ends_the_run_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan()
    folder, study = begun(tmp_path / "study", made)
    monkeypatch.setattr(trials, "_should_prune", lambda plan, claimed, result, count: count == 2)
    claimed = claim(folder, made, study, 1)
    assert claimed is not None
    evaluated: list[int] = []
    assert run_trial(folder, made, study, claimed, never, evaluated.append) == Outcome("pruned")
    assert evaluated == [100, 200]
    saved = steps(RunFolder(folder.trial(0) / "seed-1").checkpoints)
    assert 200 <= max(saved) < 300
    assert not (folder.trial(0) / "seed-2").exists()


def test_without_a_pruner_every_trial_completes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = scored(lambda config, step: 5.0 if seen[-1][0].startswith("0007") else 10.0, monkeypatch)
    study = run_all(tmp_path, plan(), 8)
    assert study.get_trials()[7].state == TrialState.COMPLETE


def test_a_diverged_trial_is_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(config: RunConfig[Any], step: int) -> float:
        if step == 200:
            raise Diverged("loss is nan after 200 agent steps")
        return 7.0

    scored(score, monkeypatch)
    (first,) = run_all(tmp_path, plan(), 1).get_trials()
    assert first.state == TrialState.PRUNED
    assert first.user_attrs["note"] == "diverged: loss is nan after 200 agent steps"


def test_a_programming_error_fails_its_trial_and_leaves_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(lambda config, step: 1 / 0, monkeypatch)
    (first,) = run_all(tmp_path, plan(), 1).get_trials()
    assert first.state == TrialState.FAIL
    assert first.user_attrs["note"] == "ZeroDivisionError: division by zero"
    assert "1 / 0" in (tmp_path / "study/trials/0000/error.txt").read_text()


def test_a_users_error_fails_its_trial_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(config: RunConfig[Any], step: int) -> float:
        raise UserError("--buffer-size is too much")

    scored(score, monkeypatch)
    (first,) = run_all(tmp_path, plan(), 1).get_trials()
    assert (first.state, first.user_attrs["note"]) == (TrialState.FAIL, "--buffer-size is too much")
    assert not (tmp_path / "study/trials/0000/error.txt").exists()


def test_a_full_disk_does_not_fail_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(config: RunConfig[Any], step: int) -> float:
        raise OSError(28, "No space left on device")

    scored(score, monkeypatch)
    with pytest.raises(OSError, match="No space"):
        run_all(tmp_path, plan(), 1)
    scored(lambda config, step: 1.0, monkeypatch)
    (first,) = run_all(tmp_path, plan(), 1).get_trials()
    assert (first.state, first.value) == (TrialState.COMPLETE, 1.0)


def test_an_interrupted_trial_keeps_its_number_and_always_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(lambda config, step: 1.0, monkeypatch)
    folder, study = begun(tmp_path / "study", plan())
    for _ in range(5):
        claimed = claim(folder, plan(), study, 1)
        assert claimed is not None
        assert claimed.number == 0
        assert run_trial(folder, plan(), study, claimed, lambda: True) == Outcome("interrupted")
    (first,) = run_all(tmp_path, plan(), 1).get_trials()
    assert first.state == TrialState.COMPLETE


def dead(claimed: Claim | None) -> Claim:
    """Release the lock of a claim, as the kernel does when its owner dies."""
    assert claimed is not None
    claimed.owner.close()
    return claimed


def test_a_trial_without_a_new_checkpoint_is_retried_a_limited_number_of_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(lambda config, step: 1.0, monkeypatch)
    folder, study = begun(tmp_path / "study", plan())
    for _ in range(4):
        claimed = dead(claim(folder, plan(), study, 1))
        assert (claimed.number, claimed.is_lost) == (0, False)
    (first,) = run_all(tmp_path, plan(), 1).get_trials()
    assert first.state == TrialState.FAIL
    assert first.user_attrs["note"] == "4 processes died before its next checkpoint"


def test_a_trial_that_saves_between_deaths_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(lambda config, step: 1.0, monkeypatch)
    folder, study = begun(tmp_path / "study", plan())
    for progress in (0, 0, 50, 50, 50, 100, 150):
        monkeypatch.setattr(trials, "_progress", lambda *arguments, progress=progress: progress)
        dead(claim(folder, plan(), study, 1))
    (first,) = run_all(tmp_path, plan(), 1).get_trials()
    assert first.state == TrialState.COMPLETE


def test_a_trial_with_a_live_owner_is_not_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, study = begun(tmp_path / "study", plan())
    mine = claim(folder, plan(), study, 2)
    other = claim(folder, plan(), study, 2)
    assert mine is not None
    assert other is not None
    assert (mine.number, other.number) == (0, 1)
    assert claim(folder, plan(), study, 2) is None
    again = claim(folder, plan(), study, 2) if mine.owner.close() is None else None
    assert again is not None
    assert again.number == 0


@pytest.mark.parametrize("sampled", [0, 1, 3])
def test_a_trial_whose_owner_died_while_sampling_keeps_its_values(sampled: int, tmp_path: Path) -> None:
    folder, study = begun(tmp_path / "study", plan())
    dead(claim(folder, plan(), study, 2))
    some = dict(list(SPACE.items())[:sampled])
    half = study.ask()
    half_number = half.number
    while half.number == 0:  # the defaults wait to be trial 0
        half = study.ask()
    values = sample_options(half, some)
    study.tell(0, 1.0)
    claimed = claim(folder, plan(), study, half_number + 1)
    assert claimed is not None
    assert claimed.number == half_number
    for name, value in values.items():
        assert getattr(claimed.config.hyper, name) == value
    assert Trial(study, half._trial_id).user_attrs["config"] == to_table(claimed.config)


def test_a_result_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A late report of a trial that another process has finished changes nothing."""
    scored(lambda config, step: 1.0, monkeypatch)
    folder, study = begun(tmp_path / "study", plan())
    late = dead(claim(folder, plan(), study, 1))
    run_all(tmp_path, plan(), 1)
    scored(lambda config, step: 99.0, monkeypatch)
    again = dataclasses.replace(late, owner=(tmp_path / "lock").open("w"))
    trials._report_end(
        study, dataclasses.replace(again, trial=Trial(study, late.trial._trial_id)), Outcome("complete", (99.0,))
    )
    assert study.get_trials()[0].value == 1.0


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random", "gp", "nsga2"])
def test_every_sampler_searches(sampler: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(lambda config, step: -abs(config.hyper.learning_rate - 0.01), monkeypatch)
    monkeypatch.setattr(trials, "read_seconds", lambda folder: 2.0)
    study = run_all(tmp_path, plan(sampler=sampler), 14)
    done = study.get_trials(states=(TrialState.COMPLETE,))
    assert len(done) == 14
    assert len({trial.params["learning_rate"] for trial in done}) > 10
    if sampler == "nsga2":
        assert {trial.values[1] for trial in done} == {2.0}
    journal = (tmp_path / "study/journal.log").read_text()
    assert "optimizer" not in journal, "no pickled state is stored"


def test_cma_es_samples_near_its_best_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its later generations are closer to the optimum than random samples."""
    scored(lambda config, step: -abs(config.hyper.gamma - 0.985), monkeypatch)

    def late(sampler: Any) -> float:
        study = run_all(tmp_path / sampler, plan(sampler=sampler), 45)
        return sum(-trial.value for trial in study.get_trials()[-12:]) / 12

    assert late("cmaes") < 0.5 * late("random")


@pytest.mark.parametrize("pruner", ["median", "hyperband", "halving", "none"])
def test_no_pruner_prunes_the_best(pruner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(lambda config, step: config.hyper.learning_rate, monkeypatch)
    study = run_all(tmp_path, plan(pruner=pruner), 20)
    pruned = [trial for trial in study.get_trials() if trial.state == TrialState.PRUNED]
    assert bool(pruned) == (pruner != "none")
    best = max(trial.user_attrs["config"]["hyper"]["learning_rate"] for trial in study.get_trials())
    assert study.best_value == best
