"""Rules and verdicts, with numbers worked out by hand; files, jobs and the report."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_claims import synthetic

from q2pi import __main__ as cli
from q2pi.commands.executors import Place
from q2pi.lab.claim import Claim, Rule, outcome, verdict
from q2pi.lab.report import effect_value, lab_markdown, lab_page
from q2pi.lab.results import ClaimFolder, read_verdict, seed_job
from q2pi.lab.road import NAMES, find, number
from q2pi.parallel.executor import never
from q2pi.parallel.local import LocalProcesses
from q2pi.runs.files import write_atomically


def claim_of(*rules: Rule) -> Claim:
    return Claim("toy", "A toy.", rules, lambda seed, settings: {}, lambda data: None, {}, {})  # type: ignore[arg-type,return-value]


def rule(bound: float, side: Any = "above", is_exact: bool = False) -> Rule:
    return Rule("the effect", "steps", lambda data: float(data["x"]), bound, side, is_exact)


def outcomes(values: list[float], *rules: Rule) -> list[str]:
    effects = claim_of(*rules).effects([{"x": value} for value in values])
    return [effect.outcome for effect in effects]


SIX = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_the_interval_is_that_of_the_sign_flip_test() -> None:
    """With 6 seeds and 95 %, one of 64 equally likely means is rejected on each side: the least and greatest value."""
    (effect,) = claim_of(rule(0.5)).effects([{"x": value} for value in SIX])
    assert (effect.low, effect.high, effect.mean, effect.confidence) == (1.0, 6.0, 3.5, 0.95)


@pytest.mark.parametrize(
    ("bound", "side", "expected"),
    [
        (0.9, "above", "holds"),
        (1.0, "above", "undecided"),
        (6.0, "above", "undecided"),
        (6.1, "above", "fails"),
        (6.1, "below", "holds"),
        (6.0, "below", "undecided"),
        (1.0, "below", "undecided"),
        (0.9, "below", "fails"),
    ],
)
def test_the_interval_must_exclude_the_bound(bound: float, side: str, expected: str) -> None:
    assert outcomes(SIX, rule(bound, side)) == [expected]


def test_five_seeds_are_too_few() -> None:
    assert outcomes(SIX[:5], rule(-100.0)) == ["undecided"]


def test_an_exact_effect_needs_no_seeds() -> None:
    assert outcomes([1.0, 1.2], rule(0.9, is_exact=True)) == ["holds"]
    assert outcomes([1.0, 0.8], rule(0.9, is_exact=True)) == ["undecided"], "the seeds disagree"
    assert outcomes([0.7, 0.8], rule(0.9, is_exact=True)) == ["fails"]


def test_not_a_number_decides_nothing() -> None:
    assert outcomes([*SIX, float("nan")], rule(0.0)) == ["undecided"]
    assert outcomes([1.0, float("nan")], rule(0.0, is_exact=True)) == ["undecided"]


def test_several_rules_share_the_error() -> None:
    """Two rules have confidence 97.5 %; 6 seeds cannot reach it, 7 can: 1/128 is below 1.25 %."""
    effects = claim_of(rule(0.0), rule(0.0)).effects([{"x": value} for value in SIX])
    assert [effect.confidence for effect in effects] == [0.975, 0.975]
    assert [effect.outcome for effect in effects] == ["undecided", "undecided"]
    assert outcomes([*SIX, 7.0], rule(0.0), rule(0.0)) == ["holds", "holds"]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [((0.0, 0.0), "holds"), ((0.0, 4.0), "undecided"), ((4.0, 9.0), "fails"), ((0.0, 9.0), "fails")],
)
def test_all_rules_must_hold_and_one_refutes(bounds: tuple[float, float], expected: str) -> None:
    data = [{"x": float(value)} for value in range(1, 9)]
    assert outcome(claim_of(*map(rule, bounds)).effects(data)) == expected


def test_the_refutation_in_words() -> None:
    assert rule(0.5).refutation == "the interval of the effect is below 0.5 steps"
    assert rule(0.5, "below").refutation == "the interval of the effect is above 0.5 steps"


def test_infinite_intervals_are_null() -> None:
    result = verdict(claim_of(rule(0.0)), [{"x": 1.0}])
    assert (result["effects"][0]["low"], result["effects"][0]["high"]) == (None, None)
    assert json.dumps(result, allow_nan=False)


# ---- files and jobs --------------------------------------------------------------------------------------------------


def write_seed(folder: ClaimFolder, seed: int, data: Any, settings: Any = None) -> None:
    file = folder.seed_file("quick", seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    settings = dict(folder.claim.quick) if settings is None else settings
    file.write_text(json.dumps({"seed": seed, "settings": settings, "seconds": 1.5, "data": data}))


@pytest.fixture
def folder(tmp_path: Path) -> ClaimFolder:
    return ClaimFolder(tmp_path, find("deadly_triad"))


def test_finished_seeds_are_kept_and_others_run(folder: ClaimFolder) -> None:
    (data,) = synthetic("deadly_triad", True, 1)
    write_seed(folder, 2, data)
    write_seed(folder, 3, data, settings={"steps": 7})
    folder.seed_file("quick", 4).write_text('{"seed": 4, "sett')
    jobs = folder.jobs("quick", [1, 2, 3, 4])
    assert [job.arguments["seed"] for job in jobs] == [1, 3, 4], "3 has other settings, 4 is cut off"
    assert len(folder.jobs("full", [2])) == 1
    assert folder.seed_file("full", 2) != folder.seed_file("quick", 2), "a budget must not overwrite the other's seeds"


def test_a_job_returns_the_data_of_its_seed_and_writes_nothing(folder: ClaimFolder) -> None:
    """A node of a cluster may not share the folder of the results: the data must come with the last message."""
    (job,) = folder.jobs("quick", [5])
    message = seed_job(job.arguments, lambda _: None, never)
    assert message["seconds"] > 0
    assert not folder.path.exists()
    assert not any(str(folder.path.parent) in str(value) for value in job.arguments.values())
    folder.write_seed("quick", message)
    assert folder.read_seed("quick", 5) == message
    again = seed_job(job.arguments, lambda _: None, never)
    assert again == message | {"seconds": again["seconds"]}


def test_the_verdict_file_has_its_origin(folder: ClaimFolder) -> None:
    for seed, data in enumerate(synthetic("deadly_triad", True), 1):
        write_seed(folder, seed, data)
    result = folder.write_verdict("quick", list(range(1, 11)))
    assert read_verdict(folder.path.parent, "deadly_triad") == result
    assert result["verdict"] == "holds"
    assert (result["budget"], result["seeds"]) == ("quick", list(range(1, 11)))
    assert (result["seconds"], result["seconds_per_seed"]) == (15.0, 1.5)
    assert result["command"] == "q2pi lab run deadly_triad --seeds 10 --budget quick"
    assert folder.figure_file.stat().st_size > 5_000


# ---- report ----------------------------------------------------------------------------------------------------------


def test_a_value_with_its_interval() -> None:
    effect = {"mean": 0.3149, "low": 0.2201, "high": 1234.5, "unit": "steps"}
    assert effect_value(effect) == "0.315 [0.22, 1,234] steps"
    assert effect_value(effect | {"low": None, "unit": ""}) == "0.315 (too few seeds for an interval)"


def test_the_pages_hold_every_number_and_stand_alone(folder: ClaimFolder) -> None:
    for seed, data in enumerate(synthetic("deadly_triad", False), 1):
        write_seed(folder, seed, data)
    root = folder.path.parent
    result = folder.write_verdict("quick", list(range(1, 11)))
    page = lab_page(root, {"deadly_triad": result})
    assert "data:image/png;base64" in page
    assert "http" not in page, "the page works offline"
    text = lab_markdown(root, {"deadly_triad": result}, root.parent)
    for words in (
        result["sentence"],
        "fails",
        effect_value(result["effects"][0]),
        result["command"],
        "Not run: q_table",
    ):
        assert words in page
        assert words in text
    assert f"({root.name}/deadly_triad/figure.png)" in text


# ---- command line ----------------------------------------------------------------------------------------------------


def test_the_list_as_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "motion").mkdir()
    write_atomically(tmp_path / "motion" / "verdict.json", json.dumps({"verdict": "holds"}))
    assert cli.main(["lab", "--json", "--results", str(tmp_path)]) == 0
    listed = json.loads(capfd.readouterr().out)
    assert [one["name"] for one in listed] == list(NAMES)
    assert [one["number"] for one in listed] == list(range(1, 19))
    assert {one["name"] for one in listed if one["verdict"]} == {"motion"}


def test_the_list_as_a_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", "--results", str(tmp_path)]) == 0
    assert "not run" in capfd.readouterr().out


def test_a_run_twice_uses_the_finished_seeds(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["lab", "run", "concave_objective", "--budget", "quick", "--seeds", "2", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    first = capfd.readouterr().out
    assert "concave_objective seed 2" in first
    assert "concave_objective: fails" in first
    assert cli.main(command) == 0
    assert "seed 2" not in capfd.readouterr().out
    assert cli.main(["lab", "report", "--results", str(tmp_path), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").is_file()


def test_seeds_run_on_the_executor_of_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str | None, int]] = []

    @contextmanager
    def record(ray: str | None, workers: int) -> Iterator[Place]:
        asked.append((ray, workers))
        yield Place(LocalProcesses(workers))

    monkeypatch.setattr("q2pi.commands.lab.executor_for", record)
    command = ["lab", "run", "concave_objective", "--budget", "quick", "--seeds", "1", "--out", str(tmp_path)]
    assert cli.main([*command, "--workers", "2", "--ray", "auto"]) == 0
    assert asked == [("auto", 2)]
    assert read_verdict(tmp_path, "concave_objective") is not None


def test_a_cluster_that_does_not_answer_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    assert cli.main(["lab", "run", "concave_objective", "--out", str(tmp_path / "lab"), "--ray", "nonsense"]) == 2
    assert capfd.readouterr().err == "q2pi: --ray nonsense: it must be local, auto, HOST:PORT or ray://HOST:PORT\n"
    assert not (tmp_path / "lab").exists(), "nothing is written"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "motions"], "unknown claim 'motions' (did you mean 'motion'?); q2pi lab lists the claims"),
        (["run", "motion", "--seeds", "0"], "--seeds 0 is out of range: it must be at least 1"),
        (["report", "motion"], "q2pi lab report takes no claims: motion"),
        (["list", "--ray", "auto"], "--ray auto: only q2pi lab run uses a cluster"),
        (["report", "--results", "nowhere"], "--results nowhere has no verdict (q2pi lab run makes them)"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", *arguments]) == 2
    assert capfd.readouterr().err == f"q2pi: {message}\n"


def test_the_number_of_a_claim_is_its_place_on_the_road() -> None:
    assert (number("q_table"), number("deadly_triad"), number("bias_and_variance")) == (1, 7, 18)
    assert [find(name).name for name in NAMES] == list(NAMES)
    assert np.unique([find(name).sentence for name in NAMES]).size == 18
