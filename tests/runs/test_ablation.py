"""Ablations: the plan, effects and verdicts, and the command from end to end."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from q2pi import __main__ as cli
from q2pi.algorithms.registry import default_config
from q2pi.config import override
from q2pi.errors import UserError
from q2pi.reports.ablation import as_markdown, draw, switch_columns, switch_rows
from q2pi.runs import ablation
from q2pi.runs.ablation import effect, plan, report
from q2pi.training.presets import configure

SMALL = ("learning_starts=64", "buffer_size=200", "batch_size=8", "hidden=[16]", "num_envs=4", "evaluation_episodes=1")


def planned(root: Path, preset: str = "rainbow", seeds: int = 2, **changes: Any) -> ablation.Ablation:
    config, _ = configure("rainbow", "CartPole-v1", preset)
    return plan(override(config, changes), seeds, 1, root)


def test_every_switch_is_left_out_and_alone_for_every_seed(tmp_path: Path) -> None:
    made = planned(tmp_path)
    switches = ["double", "dueling", "n_step", "prioritized", "noisy", "distribution"]
    assert made.switches == switches
    variants = ["all", *(f"no-{name}" for name in switches), *(f"only-{name}" for name in switches), "none"]
    assert [run.name for run in made.sweep.runs] == [f"{name}/seed-{seed}" for seed in (1, 2) for name in variants]
    for run in made.sweep.runs:
        assert run.path == tmp_path / run.name
        assert run.config.threads == 1
        assert run.config.seed == int(run.name[-1])
    by_name = {run.name: run.config.hyper for run in made.sweep.runs}
    assert by_name["no-noisy/seed-1"].noisy is False
    assert by_name["no-noisy/seed-1"].double is True
    assert by_name["only-noisy/seed-1"].noisy is True
    assert by_name["only-noisy/seed-1"].n_step == 1


def test_variants_with_the_same_configuration_share_their_runs(tmp_path: Path) -> None:
    """With one switch, leaving it out is none, and it alone is all."""
    made = planned(tmp_path, "double", seeds=1)
    assert [run.name for run in made.sweep.runs] == ["all/seed-1", "no-double/seed-1"]
    assert made.variants == {"all": "all", "no double": "no double", "only double": "all", "none": "no double"}


def test_runs_of_single_switches_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = configure("rainbow", "CartPole-v1", "rainbow")
    made = plan(config, 1, 1, tmp_path, with_alone=False)
    assert list(made.variants) == ["all", *(f"no {name}" for name in made.switches), "none"]
    assert len(made.sweep.runs) == 8
    monkeypatch.setattr(ablation, "scores", lambda _: {name: {1: 1.0} for name in made.variants})
    found = report(made, config, "q2pi ablate --no-alone")
    assert {effects["alone"]["verdict"] for effects in found["switches"].values()} == {"no runs"}
    assert switch_columns(found) == ["switch", "effect when left out", "verdict"]
    assert {len(row) for row in switch_rows(found)} == {3}
    assert draw(found, tmp_path / "figure.png").stat().st_size > 1_000


def test_algorithms_without_switches_are_refused(tmp_path: Path) -> None:
    for name in ("dqn", "ppo"):
        with pytest.raises(UserError, match=f"{name} has no switches"):
            plan(override(default_config(name), {"env_id": "CartPole-v1"}), 1, 1, tmp_path)
    with pytest.raises(UserError, match="every switch is off"):
        planned(tmp_path, "double", double=False)


def test_effects_by_hand() -> None:
    """Five seeds each: complete separation is a verdict, overlap is none, and three seeds cannot decide."""
    high, low = dict(enumerate([10.0, 11, 12, 13, 14])), dict(enumerate([1.0, 2, 3, 4, 5]))
    found = effect(high, low)
    assert found["effect"] == 9
    assert found["verdict"] == "helps"
    assert found["interval"][0] > 0
    assert effect(low, high)["verdict"] == "hurts"
    assert effect(low, low)["verdict"] == "undecided"
    few = effect(dict(list(high.items())[:3]), dict(list(low.items())[:3]))
    assert (few["verdict"], few["interval"]) == ("undecided", None)
    assert effect({}, low)["verdict"] == "no runs"


def test_effects_compare_the_right_variants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left out: all minus no SWITCH. Alone: only SWITCH minus none. Each variant has a score of its own."""
    made = planned(tmp_path)
    numbers = {name: {1: float(2**place)} for place, name in enumerate(made.variants)}
    monkeypatch.setattr(ablation, "scores", lambda _: numbers)
    found = report(made, configure("rainbow", "CartPole-v1")[0], "q2pi ablate --seeds 1")
    for switch, effects in found["switches"].items():
        assert effects["left_out"]["effect"] == numbers["all"][1] - numbers[f"no {switch}"][1]
        assert effects["alone"]["effect"] == numbers[f"only {switch}"][1] - numbers["none"][1]
    json.dumps(found, allow_nan=False)
    text = as_markdown(found)
    assert "\n    q2pi ablate --seeds 1\n" in text
    assert "| switch | effect when left out | verdict | effect alone | verdict |" in text
    assert "too few seeds for an interval" in text
    assert draw(found, tmp_path / "figure.png").stat().st_size > 1_000


def test_the_command_trains_reports_and_skips_finished_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["ablate", "--preset", "double", "--seeds", "1", "--total-timesteps", "200", "--runs", str(tmp_path)]
    assert cli.main([*command, "--option", *SMALL, "--explain"]) == 0
    assert "no-double/seed-1" in capfd.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert cli.main([*command, "--option", *SMALL, "--json"]) == 0
    said = capfd.readouterr()
    numbers = json.loads(said.out)
    assert "done 2 of 2" in said.err
    assert (numbers["env_id"], numbers["agent_steps"]) == ("CartPole-v1", 200)
    assert numbers["command"] == shlex.join(["q2pi", *command, "--option", *SMALL, "--json"])
    assert numbers["variants"]["all"]["scores"] == numbers["variants"]["only double"]["scores"] != []
    assert numbers["switches"]["double"]["left_out"]["verdict"] == "undecided"
    for name in ("ablation.json", "ablation.md", "ablation.png"):
        assert (tmp_path / name).is_file()
    assert cli.main([*command, "--option", *SMALL]) == 0
    assert "2 runs in" in (out := capfd.readouterr().out)
    assert "2 of them done" in out
    assert "double" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--seeds", "0"], "--seeds 0 is out of range"),
        (["--option", "alpha"], "--option alpha: it must be NAME=VALUE"),
        (["--option", "alhpa=1"], "unknown option 'alhpa' of rainbow"),
        (["--algorithm", "ppo"], "ppo has no switches"),
        (["--preset", "rainbw"], "--preset rainbw: rainbow has"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], line: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ablate", *arguments]) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"q2pi: {line}")
    assert error.count("\n") == 1
