"""The final evaluation: numbers by hand, the report and the preset."""

import dataclasses
import json
import math
import tomllib
from collections.abc import Callable, Iterable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_studies import TINY, begun, plan

from q2pi.config import to_table
from q2pi.evaluation.evaluate import EVALUATION_SEED
from q2pi.parallel.executor import Job, JobStatus, Stop, never
from q2pi.runs.folder import RunFolder
from q2pi.runs.manifest import steps
from q2pi.training.presets import configure
from q2pi.tuning import final
from q2pi.tuning.export import write_preset
from q2pi.tuning.final import Candidate, candidates, evaluate_candidates, final_job, results
from q2pi.tuning.jobs import Outcome
from q2pi.tuning.objective import Point, area, read_curve, value
from q2pi.tuning.plan import Objective, StudyFolder
from q2pi.tuning.report import _final_table, write_report
from q2pi.tuning.space import sample_options
from q2pi.tuning.trial import repaired
from q2pi.tuning.verdict import BETTER, WORSE, selection_bias

SEEDS = list(range(1001, 1011))


def test_the_objective_by_hand() -> None:
    first = [Point(100, (99.0, 99.0)), Point(200, (1.0, 3.0))]
    second = [Point(100, (0.0, 0.0)), Point(200, (5.0, 7.0))]
    assert value("mean", [first, second]) == 4.0
    assert value("iqm", [first, second]) == 4.0  # 3 and 5 are left of 1, 3, 5, 7
    assert value("iqm", [first, [Point(200, (5.0, 700.0))]]) == 4.0
    assert value("mean-std", [first, second]) == pytest.approx(4 - math.sqrt(5))  # 9 + 1 + 1 + 9 over 4
    assert value("auc", [first, second]) == pytest.approx(((99 + 2) / 2 + (0 + 6) / 2) / 2)


def test_an_area_is_weighted_by_agent_steps() -> None:
    assert area([Point(100, (0.0,)), Point(200, (10.0,)), Point(500, (10.0,))]) == (5 * 100 + 10 * 300) / 400
    assert area([Point(100, (7.0, 9.0))]) == 8.0


def write_evaluations(folder: StudyFolder, label: str, means: list[float | None]) -> None:
    """Write final evaluations of two episodes, one above and one below each mean; None is a diverged run."""
    for seed, mean in zip(SEEDS, means, strict=False):
        run = folder.final / label / f"seed-{seed}"
        run.mkdir(parents=True)
        report: dict[str, Any] = {"scores": []} if mean is None else {"scores": [mean - 1, mean + 1]}
        report |= {"diverged": "loss is nan"} if mean is None else {}
        (run / "final_evaluation.json").write_text(json.dumps(report))


def outcome(tmp_path: Path, count: int = 10, objective: Objective = "mean", **means: list[float | None]) -> Any:
    folder = StudyFolder(tmp_path)
    chosen = [Candidate(label, index, plan().base) for index, label in enumerate(means)]
    for label, by_seed in means.items():
        write_evaluations(folder, label, by_seed)
    return results(folder, dataclasses.replace(plan(), objective=objective), chosen, SEEDS[:count], 2)


SPREAD: list[float | None] = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0]


def test_a_paired_difference_is_significant_despite_the_spread_between_seeds(tmp_path: Path) -> None:
    better: list[float | None] = [score + 3 + index % 2 for index, score in enumerate(SPREAD) if score is not None]
    result = outcome(tmp_path, defaults=SPREAD, tuned=better)
    defaults, tuned = result["candidates"]
    assert (defaults["estimate"], tuned["estimate"]) == (55.0, 58.5)
    assert defaults["interval"][1] > tuned["interval"][0], "the intervals of the two overlap"
    assert tuned["difference"] == 3.5
    assert 3 <= tuned["difference_interval"][0] < 3.5 < tuned["difference_interval"][1] <= 4
    assert tuned["verdict"] == BETTER == "significantly better (family-wise 95 %)"
    assert result["winner"] == "tuned"
    assert result["statement"].endswith("significantly better (family-wise 95 %)")


def test_a_difference_that_may_be_chance(tmp_path: Path) -> None:
    shuffled: list[float | None] = [*SPREAD[5:], *SPREAD[1:5], 11.0]
    result = outcome(tmp_path, defaults=SPREAD, tuned=shuffled)
    assert result["candidates"][1]["difference"] == pytest.approx(0.1)
    assert result["candidates"][1]["verdict"] == "no difference shown"
    assert "may be chance" in result["statement"]


def test_the_defaults_win_if_no_trial_beats_them(tmp_path: Path) -> None:
    worse: list[float | None] = [score - 5 for score in SPREAD if score is not None]
    result = outcome(tmp_path, defaults=SPREAD, tuned=worse)
    assert result["winner"] == "defaults"
    assert result["candidates"][1]["verdict"] == WORSE
    assert result["statement"] == (
        "no trial beats the defaults on 10 held-out seeds: the defaults reach 55.0 (corrected for the choice among 2)"
    )


def test_few_seeds_show_no_significance(tmp_path: Path) -> None:
    """Without a true difference, 5 seeds all differ in one direction once in 16."""
    better: list[float | None] = [score + 3 for score in SPREAD if score is not None]
    result = outcome(tmp_path, 5, defaults=SPREAD, tuned=better)
    assert result["candidates"][1]["verdict"] == "too few seeds"
    assert "significantly" not in result["statement"]


def test_several_candidates_widen_the_intervals(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 10, size=10)
    noisy: list[float | None] = [score + noise[index] for index, score in enumerate(SPREAD) if score is not None]
    alone = outcome(tmp_path / "1", defaults=SPREAD, a=noisy)
    three = outcome(tmp_path / "3", defaults=SPREAD, a=noisy, b=noisy, c=noisy)
    assert three["difference_confidence"] == pytest.approx(1 - 0.05 / 3)
    narrow, wide = (result["candidates"][1]["difference_interval"] for result in (alone, three))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_a_candidate_that_diverged_once_cannot_win(tmp_path: Path) -> None:
    result = outcome(tmp_path, defaults=SPREAD, tuned=[1e6] * 9 + [None])
    assert result["winner"] == "defaults"
    assert result["candidates"][1]["verdict"] == "a run diverged"


def test_defaults_that_diverged_once_cannot_win(tmp_path: Path) -> None:
    result = outcome(tmp_path, defaults=[1e6] * 9 + [None], tuned=SPREAD)
    assert result["winner"] == "tuned"
    assert result["statement"] == "tuned reaches 55.0 on 10 held-out seeds, but the defaults diverge"


def test_if_all_diverged_nothing_is_quoted(tmp_path: Path) -> None:
    result = outcome(tmp_path, defaults=[1.0] * 9 + [None], tuned=[None] * 10)
    assert result["statement"] == "every candidate diverged on at least one of 10 held-out seeds"
    assert result["winner_estimate"] is None


def test_one_seed_has_no_unbiased_estimate(tmp_path: Path) -> None:
    result = outcome(tmp_path, 1, defaults=SPREAD, tuned=[50.0])
    assert result["winner_estimate"] is None
    assert "tuned reaches 50.0 (biased upwards: the one seed also made the choice)" in result["statement"]


def test_the_selection_bias_by_hand(tmp_path: Path) -> None:
    """Means 5 and 4. Without seed 3 the other candidate wins, with 0 on that seed; without 1 or 2 the first wins."""
    first, second = np.array([[0.0], [0.0], [15.0]]), np.array([[6.0], [6.0], [0.0]])
    by_hand = 5 - (0 + 0 + 0) / 3
    assert selection_bias([first, second], lambda scores: float(scores.mean())) == by_hand
    assert selection_bias([first], lambda scores: float(scores.mean())) == 0
    result = outcome(tmp_path, 3, defaults=[6.0, 6.0, 0.0], tuned=[0.0, 0.0, 15.0])
    assert (result["winner"], result["winner_estimate"], result["candidates"][1]["estimate"]) == ("tuned", 0.0, 5.0)
    assert "tuned reaches 0.0 (corrected for the choice among 2)" in result["statement"]


@pytest.mark.parametrize("kind", ["normal", "cartpole"])
def test_the_quoted_estimate_of_the_best_of_equals_is_unbiased(kind: str) -> None:
    """Four equal candidates, 10 seeds: the highest estimate is a third of a standard deviation too high."""
    generator, shape = np.random.default_rng(4), (800, 4, 10, 1)
    studies = generator.normal(size=shape)
    if kind == "cartpole":
        studies = np.where(generator.random(shape) < 0.8, 500.0, generator.uniform(20, 300, shape))
    truth, deviation = (432.0, 147.1) if kind == "cartpole" else (0.0, 1.0)
    highest = studies.mean(axis=(2, 3)).max(axis=1)
    corrected = highest - [selection_bias(list(scores), lambda sample: float(sample.mean())) for scores in studies]
    assert (highest.mean() - truth) / deviation == pytest.approx(0.3, abs=0.05)
    assert abs(corrected.mean() - truth) < 3.5 * corrected.std() / np.sqrt(len(studies)) < 0.06 * deviation


def test_the_seeds_own_statistics_are_paired(tmp_path: Path) -> None:
    """mean-std: the spread between seeds is in the estimate, but not in the differences seed by seed."""
    better: list[float | None] = [score + 3 for score in SPREAD if score is not None]
    result = outcome(tmp_path, objective="mean-std", defaults=SPREAD, tuned=better)
    defaults, tuned = result["candidates"]
    assert defaults["estimate"] == pytest.approx(55 - math.sqrt(825 + 1))
    assert defaults["by_seed"] == [score - 1 for score in SPREAD if score is not None]
    assert (tuned["difference"], tuned["difference_interval"], tuned["verdict"]) == (3.0, [3.0, 3.0], BETTER)


def test_final_runs_use_the_held_out_seeds_and_areas_are_of_their_evaluations(tmp_path: Path) -> None:
    """An area needs evaluations during training, which play the search's episodes; the result must say so."""
    folder, auc = StudyFolder(tmp_path), dataclasses.replace(plan(), objective="auc")
    chosen = [Candidate("defaults", 0, plan().base), Candidate("trial-1", 1, plan().base)]
    assert evaluate_candidates(folder, chosen, [1001, 1002], 3, Recorded(task=final.work), never).state == "done"
    for run in final.runs(folder, chosen[1], [1001, 1002]):
        assert tomllib.loads((run / "config.toml").read_text())["seed"] == int(run.name.removeprefix("seed-"))
    result = results(folder, auc, chosen, [1001, 1002], 3)
    defaults = final.runs(folder, chosen[0], [1001, 1002])
    assert result["candidates"][0]["by_seed"] == [area(read_curve(run)) for run in defaults]
    scores = [json.loads((run / "final_evaluation.json").read_text())["scores"] for run in defaults]
    assert result["candidates"][0]["episode_mean"] == pytest.approx(np.mean(scores))
    assert f"(episode seed {EVALUATION_SEED}), the same episodes as in the search" in result["objective_episodes"]
    assert result["objective_episodes"] in unescape("".join(_final_table(result)))
    assert result["statement"].endswith("areas are of the search's evaluation episodes")
    result = results(folder, plan(), chosen, [1001, 1002], 3)
    assert (
        f"held-out episodes after training (episode seed {final.FINAL_EVALUATION_SEED})"
        in (result["objective_episodes"])
    )


def test_candidates_are_the_defaults_and_the_best_other_trials(tmp_path: Path) -> None:
    folder, study = begun(tmp_path / "study", plan())
    for score in (50.0, 10.0, 40.0, 30.0, 20.0):
        trial = study.ask()
        config = repaired(plan(), sample_options(trial, plan().space))
        trial.set_user_attr("config", to_table(config))
        study.tell(trial, score)
    chosen = candidates(plan(), study, 2)
    assert [(each.label, each.number) for each in chosen] == [("defaults", 0), ("trial-2", 2), ("trial-3", 3)]
    assert chosen[0].config == plan().base
    assert to_table(chosen[1].config) == study.get_trials()[2].user_attrs["config"]
    page = write_report(folder, plan(), study, None).read_text()
    assert 'src="data:image/png;base64,' in page
    assert "http" not in page.replace("http-equiv", ""), "the page needs no network"
    for name in ("history", "slices", "parallel", "curves"):
        assert (folder.report / f"{name}.png").stat().st_size > 5_000


def work(run: Path, episodes: int, emit: Any = lambda message: None, stop: Any = lambda: False) -> Any:
    config = dataclasses.replace(plan().base, seed=1001)
    return final.work(final_job("defaults on seed 1001", run, config, episodes).arguments, emit, stop)


def test_final_runs_are_evaluated_on_held_out_episodes(tmp_path: Path) -> None:
    assert not work(tmp_path / "run", 3)["stopped"]
    report = json.loads((tmp_path / "run/final_evaluation.json").read_text())
    assert report["protocol"]["seed"] == final.FINAL_EVALUATION_SEED != EVALUATION_SEED
    assert len(report["scores"]) == 3
    assert final.is_evaluated(tmp_path / "run", 3)
    assert not final.is_evaluated(tmp_path / "run", 4)
    assert not set(plan().trial_seeds) & set(plan().held_out_seeds(50))


def test_a_stopped_final_run_is_not_evaluated_and_continues(tmp_path: Path) -> None:
    asked = iter([False, False])
    assert work(tmp_path / "run", 3, stop=lambda: next(asked, True)) == {"stopped": True}
    assert not final.is_evaluated(tmp_path / "run", 3)
    saved = max(steps(RunFolder(tmp_path / "run").checkpoints))
    assert 0 < saved < plan().base.total_timesteps
    assert not work(tmp_path / "run", 3)["stopped"]
    assert final.is_evaluated(tmp_path / "run", 3)


def test_only_missing_runs_are_trained_in_order_of_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, made = StudyFolder(tmp_path), plan()
    chosen = [Candidate(label, index, made.base) for index, label in enumerate(("defaults", "trial-1"))]
    write_evaluations(folder, "trial-1", [10.0])
    executor = Recorded()
    outcome = evaluate_candidates(folder, chosen, SEEDS[:2], 2, executor, lambda: False)
    assert outcome == Outcome("done")
    assert [job.name for job in executor.jobs] == [
        *("defaults on seed 1001", "defaults on seed 1002", "trial-1 on seed 1002"),
    ]
    assert [job.arguments["config"]["seed"] for job in executor.jobs] == [1001, 1002, 1002]
    assert "held-out seeds: 4 of 4 runs, last trial-1 on seed 1002; left 00:00" in capsys.readouterr().out


def test_a_final_run_that_fails_stops_all(tmp_path: Path) -> None:
    chosen = [Candidate("defaults", 0, plan().base)]
    executor = Recorded(JobStatus(Job("", "", {}), "failed", reason="no space left", is_user_error=True))
    outcome = evaluate_candidates(StudyFolder(tmp_path), chosen, SEEDS[:3], 2, executor, lambda: False)
    assert outcome == Outcome("failed", "no space left", 2)
    assert len(executor.jobs) == 1


class Recorded:
    """An executor that calls `task`, by default nothing, for each job: every job ends in the same state."""

    def __init__(self, end: JobStatus | None = None, task: Callable[..., Any] = lambda *_: None) -> None:
        self.task = task
        self.end = end or JobStatus(Job("", "", {}), "finished")
        self.jobs: list[Job] = []

    def run(self, jobs: Iterable[Job], stop: Stop = never) -> Iterator[JobStatus]:
        for job in jobs:
            if stop():
                return
            self.jobs.append(job)
            yield JobStatus(job, "running")
            self.task(job.arguments, lambda message: None, stop)
            yield dataclasses.replace(self.end, job=job)


def test_the_preset_of_the_winner_gives_the_same_run(tmp_path: Path) -> None:
    winner = repaired(plan({"seed": 7}), {"learning_rate": 0.0123, "gamma": 0.95, "episodes_per_update": 4})
    write_preset(tmp_path / "best.toml", winner, "Found: it is better.")
    text = (tmp_path / "best.toml").read_text()
    assert text.startswith("# Found: it is better.\n")
    table = tomllib.loads(text)
    assert table["hyper"] == {
        "learning_rate": 0.0123,
        "gamma": 0.95,
        "episodes_per_update": 4,
        "hidden": [8],
        "value_updates": TINY["value_updates"],
    }
    assert table["env"] == {"env_id": "CartPole-v1"}
    assert "seed" not in table
    config, _ = configure("reinforce", preset=str(tmp_path / "best.toml"))
    assert config.hyper == winner.hyper
    assert (config.total_timesteps, config.num_envs) == (winner.total_timesteps, winner.num_envs)


def test_final_runs_are_trained_on_their_seed(tmp_path: Path) -> None:
    """The job of each run has the configuration of its folder's seed, and the run's config.toml says so."""
    executor = Recorded()
    chosen = [Candidate("defaults", 0, plan().base), Candidate("trial-1", 1, plan().base)]
    evaluate_candidates(StudyFolder(tmp_path), chosen, SEEDS[:2], 2, executor, lambda: False)
    jobs = [(Path(job.arguments["path"]), job.arguments["config"]["seed"]) for job in executor.jobs]
    assert [f"seed-{seed}" for _, seed in jobs] == [path.name for path, _ in jobs]
    assert {seed for _, seed in jobs} == {1001, 1002}
    final.work(executor.jobs[0].arguments, lambda message: None, lambda: False)
    config = tomllib.loads((tmp_path / "final/defaults/seed-1001/config.toml").read_text())
    assert config["seed"] == 1001
