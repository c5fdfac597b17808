"""What a sweep's file means: its runs, their folders, and what is refused before anything starts."""

from pathlib import Path

import pytest

from q2pi.config import resolve
from q2pi.errors import UserError
from q2pi.runs.execute import execute
from q2pi.runs.sweep import Sweep, check, read_sweep
from q2pi.training.presets import configure

BASE = """
algorithms = ["dqn", "ppo"]
env_ids = ["CartPole-v1"]
seeds = 2
[options]
total_timesteps = 200_000
"""


def sweep_of(folder: Path, text: str) -> Sweep:
    file = folder / "sweep.toml"
    file.write_text(text)
    return read_sweep(file, folder / "runs")


def names(sweep: Sweep) -> list[str]:
    return [run.name for run in sweep.runs]


def test_every_combination_is_a_run_in_a_folder_that_names_it(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, BASE)
    assert names(sweep) == [
        *("CartPole-v1/dqn/seed-1", "CartPole-v1/ppo/seed-1"),
        *("CartPole-v1/dqn/seed-2", "CartPole-v1/ppo/seed-2"),
    ]
    first = sweep.runs[0]
    assert first.path == tmp_path / "runs/CartPole-v1/dqn/seed-1"
    assert (first.config.total_timesteps, first.config.seed, first.config.threads) == (200_000, 1, 1)
    base, _ = configure("dqn", "CartPole-v1")
    assert first.config.hyper == resolve(base).hyper, "the preset that suits the environment is beneath"
    assert sweep.workers == 1
    assert not (tmp_path / "runs").exists()


def test_options_grids_and_an_algorithms_own_table(tmp_path: Path) -> None:
    sweep = sweep_of(
        tmp_path,
        BASE.replace("seeds = 2", "seeds = [7]\nworkers = 3")
        + """
threads = 2
[grid]
gamma = [0.9, 0.99]
[algorithm.dqn]
preset = "classic"
hidden = [[16], [32, 8]]
learning_starts = 100
[algorithm.ppo]
gamma = 0.5
hidden = [24, 24]
""",
    )
    assert sweep.workers == 3
    assert sorted(names(sweep)) == [
        "CartPole-v1/dqn-gamma=0.9-hidden=16/seed-7",
        "CartPole-v1/dqn-gamma=0.9-hidden=32x8/seed-7",
        "CartPole-v1/dqn-gamma=0.99-hidden=16/seed-7",
        "CartPole-v1/dqn-gamma=0.99-hidden=32x8/seed-7",
        "CartPole-v1/ppo/seed-7",
    ]
    configs = {run.name.split("/")[1]: run.config for run in sweep.runs}
    wide = configs["dqn-gamma=0.9-hidden=32x8"]
    assert (wide.hyper.gamma, wide.hyper.hidden, wide.hyper.learning_starts) == (0.9, (32, 8), 100)
    assert (configs["ppo"].hyper.gamma, configs["ppo"].hyper.hidden, configs["ppo"].threads) == (0.5, (24, 24), 2)


def test_names_stay_when_the_file_grows(tmp_path: Path) -> None:
    before = names(sweep_of(tmp_path, BASE + "[grid]\ngamma = [0.9]\nlearning_rate = [0.001]\n"))
    after = sweep_of(
        tmp_path,
        BASE.replace('"CartPole-v1"', '"Acrobot-v1", "CartPole-v1"').replace("seeds = 2", "seeds = [3, 2, 1]")
        + "[grid]\nlearning_rate = [0.01, 0.001]\ngamma = [0.5, 0.9]\n",
    )
    assert set(before) < set(names(after))


PARTS = """
algorithms = ["dqn"]
seeds = 2
[options]
total_timesteps = 5_000
gamma = 0.9
[[runs]]
env_ids = ["CartPole-v1"]
grid.hidden = [[8]]
[[runs]]
algorithms = ["ppo", "a2c"]
env_ids = ["Pendulum-v1"]
options.gamma = 0.5
algorithm.ppo.num_steps = [16, 32]
"""


def test_parts_pair_algorithms_with_environments_of_their_own(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, PARTS)
    of_one_seed = [
        "CartPole-v1/dqn-hidden=8",
        *("Pendulum-v1/ppo-num_steps=16", "Pendulum-v1/ppo-num_steps=32", "Pendulum-v1/a2c"),
    ]
    assert names(sweep) == [f"{name}/seed-{seed}" for seed in (1, 2) for name in of_one_seed], "seed by seed"
    assert [run.config.hyper.gamma for run in sweep.runs[:4]] == [0.9, 0.5, 0.5, 0.5], "a part overrides the file"
    assert {run.config.total_timesteps for run in sweep.runs} == {5_000}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[options]", "[grid]\ngamma = [1.0]\n[options]", "grid belongs in each [[runs]] that it is for: [runs.grid]"),
        ('env_ids = ["CartPole-v1"]', "", "[[runs]] 1: env_ids is missing"),
        ('env_ids = ["CartPole-v1"]', 'env_ids = ["CartPole-v1"]\nseeds = 3', "[[runs]] 1: unknown key 'seeds'"),
        ("options.gamma = 0.5", "options.gama = 0.5", "[[runs]] 2: ppo on Pendulum-v1: unknown option 'gama'"),
        ("options.gamma = 0.5", "grid.gamma = [0.5]", "[[runs]] 2: gamma is in both [options] and [grid]"),
        ("algorithm.ppo", "algorithm.dqn", "[[runs]] 2: [algorithm.dqn]: dqn is not among algorithms"),
    ],
)
def test_a_mistake_in_a_part_is_named_with_its_place(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in PARTS
    with pytest.raises(UserError) as caught:
        sweep_of(tmp_path, PARTS.replace(old, new, 1))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parts_that_are_no_parts_or_the_same(tmp_path: Path) -> None:
    part = '[[runs]]\nalgorithms = ["dqn"]\nenv_ids = ["CartPole-v1"]\n'
    with pytest.raises(UserError, match="CartPole-v1/dqn/seed-1 is listed twice"):
        sweep_of(tmp_path, "seeds = 1\n" + 2 * part)
    with pytest.raises(UserError, match=r"runs = \[\]: it must be a list of tables, \[\[runs\]\]"):
        sweep_of(tmp_path, "seeds = 1\nruns = []")
    with pytest.raises(UserError, match=r"runs = \{'env_ids'.*: it must be a list of tables, \[\[runs\]\]"):
        sweep_of(tmp_path, 'seeds = 1\n[runs]\nenv_ids = ["CartPole-v1"]')


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = 2", "seeds = 2\nsed = 1", "unknown key 'sed' (did you mean 'seeds'?)"),
        ("seeds = 2", "", "seeds is missing"),
        ("seeds = 2", "seeds = 0", "seeds = 0: it must be at least 1"),
        ("seeds = 2", "seeds = []", "seeds = []: it must be a list of one or more whole numbers"),
        ("seeds = 2", "seeds = true", "seeds = True: it must be a list"),
        ("seeds = 2", "seeds = [-1]", "--seed -1 is out of range"),
        ("seeds = 2", "seeds = [1, 1]", "dqn/seed-1 is listed twice"),
        ("seeds = 2", "seeds = 2\nworkers = 0", "workers = 0: it must be a whole number of at least 1"),
        ('"dqn", "ppo"', "", "algorithms = []: it must be a list of one or more names"),
        ('"dqn", "ppo"', '"dqm"', "unknown algorithm 'dqm'"),
        ('["CartPole-v1"]', "[]", "env_ids = []"),
        ('["CartPole-v1"]', '["CartPoll-v1"]', "did you mean 'CartPole-v1'"),
        ('["CartPole-v1"]', '["Pong", "ALE/Pong-v5"]', "Pong/dqn/seed-1 is listed twice"),
        ("[options]", "[options]\nseed = 3", "[options] seed: a sweep sets it from seeds"),
        ("[options]", "[options]\ngama = 0.9", "unknown option 'gama' of dqn (did you mean 'gamma'?)"),
        ("[options]", "[options]\nbuffer_size = 5_000", "belong in [algorithm.dqn]"),
        ("[options]", "[options]\ngamma = [0.9]", "[options] gamma = [0.9]: a list of values belongs in [grid]"),
        ("[options]", "[options]\ngamma = 1.5", "--gamma 1.5 is out of range"),
        ("[options]", "[options]\ngamma = 'high'", "gamma = 'high': it must be of type float"),
        ("[options]", "[grid]\ngamma = []\n[options]", "[grid] gamma = []: the list is empty"),
        ("[options]", "[grid]\nhidden = []\n[options]", "[grid] hidden = []: it must be a list of values"),
        ("[options]", "[grid]\ngamma = 0.9\n[options]", "[grid] gamma = 0.9: it must be a list of values"),
        ("[options]", "[grid]\ntotal_timesteps = [9]\n[options]", "total_timesteps is in both [options] and"),
        ("[options]", "[grid]\ngamma = [0.9, 0.90]\n[options]", "listed twice"),
        ("[options]", "[grid]\ngamma = [1, 1.0]\n[options]", " have the same configuration"),
        ("[options]", "[algorithm.dqn]\npreset = 'natur'\n[options]", "--preset natur: dqn has"),
        ("[options]", "[algorithm.dqn]\npreset = 3\n[options]", "preset = 3: it must be a name or a path"),
        ("[options]", "[algorithm.pqo]\ngamma = 1\n[options]", "[algorithm.pqo]: pqo is not among algorithms"),
        ("[options]", "[algorithm]\ndqn = 3\n[options]", "algorithm.dqn = 3: it must be a table"),
        ("[options]", "[grid", "is not valid TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in BASE
    with pytest.raises(UserError) as caught:
        sweep_of(tmp_path, BASE.replace(old, new, 1))
    assert message in str(caught.value)
    assert str(tmp_path / "sweep.toml") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.toml cannot be read: no such file"):
        read_sweep(tmp_path / "none.toml", tmp_path)


def test_a_sweep_of_what_lies_in_its_folders_already(tmp_path: Path) -> None:
    text = (
        BASE.replace("200_000", "128") + "num_envs = 4\nevaluation_episodes = 0\n[algorithm.dqn]\nlearning_starts = 32"
    )
    sweep = sweep_of(tmp_path, text)
    check(sweep)
    execute(sweep.runs[0].config, sweep.runs[0].path)
    check(sweep)
    assert [run.name for run in sweep.unfinished()] == names(sweep)[1:]
    with pytest.raises(UserError, match="dqn/seed-1 holds a run of another configuration"):
        check(sweep_of(tmp_path, text.replace("= 32", "= 48")))
    (tmp_path / "runs/CartPole-v1/ppo/seed-1").mkdir(parents=True)
    (tmp_path / "runs/CartPole-v1/ppo/seed-1/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        check(sweep)


def test_an_environment_that_an_algorithm_cannot_serve(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, BASE.replace('["CartPole-v1"]', '["CartPole-v1", "Pendulum-v1"]'))
    with pytest.raises(UserError, match=r"Pendulum-v1/dqn/seed-1: --env-id Pendulum-v1"):
        check(sweep)


def test_workers_that_together_need_more_memory_than_there_is(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, BASE.replace("seeds = 2", "seeds = 1\nworkers = 2_000").replace(', "ppo"', ""))
    with pytest.raises(UserError, match=r"--workers 2000 needs up to .* GB, more than the"):
        check(Sweep(sweep.runs[:1] * 1_000, sweep.workers))


def test_runs_have_one_thread_unless_the_file_says_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The preset has none of its own: a run alone would take every core for a network of images."""
    monkeypatch.setattr("q2pi.config.one_per_core", lambda: 8)
    text = BASE.replace('["dqn", "ppo"]', '["ppo"]').replace("CartPole-v1", "ALE/Pong-v5") + 'preset = "quick"\n'
    alone, _ = configure("ppo", "ALE/Pong-v5", "quick")
    assert resolve(alone).threads == 8
    assert {run.config.threads for run in sweep_of(tmp_path, text).runs} == {1}
    assert {run.config.threads for run in sweep_of(tmp_path, text + "threads = 2\n").runs} == {2}
