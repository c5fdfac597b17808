"""PQN: Q(lambda) targets by hand and against a slow oracle, what is played and stored, minibatches, RAdam, worlds."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from small_runs import QUIET, Chain, digests
from torch import Tensor, nn

from q2pi import checkpoint
from q2pi.algorithms import pqn
from q2pi.algorithms.base import Setting
from q2pi.api import override
from q2pi.config import RunConfig
from q2pi.envs.games import Step
from q2pi.envs.spec import EnvSpec
from q2pi.equations import exact
from q2pi.errors import UserError
from q2pi.loop import Evaluated, Progress, Started, prepare, run
from q2pi.presets import configure
from q2pi.rng import stream
from q2pi.rundir import default_config


def agent_of(
    num_envs: int = 1,
    shape: tuple[int, ...] = (2,),
    space: Any = None,
    env: EnvSpec | None = None,
    precision: str = "fp32",
    **hyper: Any,
) -> pqn.Agent:
    """Return an agent with a budget of 100 agent steps and one minibatch per rollout."""
    setting = Setting(
        env=env or EnvSpec("Two-v0", clip_rewards=False, life_loss_discount=False),
        num_envs=num_envs,
        frame_shape=shape,
        frame_dtype=np.dtype(np.uint8 if len(shape) == 3 else np.float32),
        stack=1,
        observation_shape=shape,
        action_space=space or spaces.Discrete(2),
        total_timesteps=100,
        seed=1,
        device=torch.device("cpu"),
        precision=precision,
    )
    options = {"num_minibatches": 1, "hidden": (8,), "gamma": 0.5, "q_lambda": 0.5}
    return pqn.Agent(pqn.Config(**(options | hyper)), setting)


class Seen(nn.Module):
    """Q(s) is s itself; `rows` counts the observations asked about."""

    rows = 0

    def forward(self, observation: Tensor) -> Tensor:
        self.rows += len(observation)
        return observation


def scripted(**options: Any) -> pqn.Agent:
    """Return an agent whose Q-values are the numbers of its observations."""
    player = agent_of(**options)
    player.main = Seen()  # type: ignore[assignment]
    return player


FIRST = 99.0
"""max_a Q of the first observation of every episode but the first: nobody may bootstrap from it."""


def seen(*best: float) -> np.ndarray:
    """Return observations [N, 2] with max_a Q = best; the other action's value is lower by 50."""
    return np.array([[value - 50, value] for value in best], np.float32)


def observe(player: pqn.Agent, reward: list[float], following: list[float], ending: list[str] | None = None) -> None:
    """Take in one step of every game after `act`; `following` is max_a Q of the true next observation."""
    ends = ending or [""] * len(reward)
    flags = [np.array([name == kind for name in ends]) for kind in ("terminated", "truncated", "life_lost")]
    first = [FIRST if name in ("terminated", "truncated") else best for name, best in zip(ends, following, strict=True)]
    result = Step(seen(*following), seen(*first), np.array(reward, np.float32), *flags, ())
    player.observe(np.zeros(len(reward)), result)


def play(player: pqn.Agent, values: list[float], rewards: list[float], endings: dict[int, str] | None = None) -> None:
    """Play one game: step t pays rewards[t] and leads from values[t] to values[t + 1]; FIRST follows an ending."""
    endings = endings or {}
    for t, reward in enumerate(rewards):
        fresh = endings.get(t - 1) in ("terminated", "truncated")
        player.act(seen(FIRST if fresh else values[t]), t)
        observe(player, [reward], [values[t + 1]], [endings.get(t, "")])


# ---- targets ---------------------------------------------------------------------------------------------------------


def with_the_published_slip(player: pqn.Agent) -> list[float]:
    """Return the targets of a game as six files of the paper's code have them.

    Going backwards, the second-last step is given the value of what follows the last step, in the place of the value of
    what follows itself.
    """
    rollout, mix = player.rollout, player.config.q_lambda
    after_the_rollout = rollout.final_value[-1, 0] if not rollout.ended[-1, 0] else 0.0
    following = [*rollout.value[1:-1, 0], after_the_rollout]
    goal = rollout.reward[-1, 0] + rollout.discount[-1, 0] * after_the_rollout
    goals = [goal]
    for t in reversed(range(len(following))):
        goal = rollout.reward[t, 0] + rollout.discount[t, 0] * ((1 - mix) * following[t] + mix * goal)
        goals.insert(0, goal)
    return [float(goal) for goal in goals]


def test_the_second_last_target_is_not_off_by_one() -> None:
    """gamma and lambda 1/2. Last: 4 + 16/2 = 12. Second-last: 2 + (6 + 12)/4 = 6.5. First: 1 + (2 + 6.5)/4 = 3.125.

    The slip takes 16, the value beyond the rollout, for the 6 of the observation between the last two steps.
    """
    player = scripted(num_steps=3)
    play(player, values=[8, 2, 6, 16], rewards=[1, 2, 4])
    assert player._targets()[:, 0].tolist() == [3.125, 6.5, 12]
    assert with_the_published_slip(player) == [3.75, 9, 12], "2 + (16 + 12)/4 = 9 and 1 + (2 + 9)/4 = 3.75"


def test_nor_is_it_where_the_episode_ends_with_the_rollout() -> None:
    """Second-last: 2 + (6 + 4)/4 = 4.5; the slip forgets that the last state was worth 6 to the network."""
    player = scripted(num_steps=3)
    play(player, [8, 2, 6, 16], [1, 2, 4], {2: "terminated"})
    assert player._targets()[1:, 0].tolist() == [4.5, 4]
    assert with_the_published_slip(player)[1:] == [3, 4]


@pytest.mark.parametrize(
    ("ending", "targets"),
    [
        ("terminated", [1 + (2 + 2) / 4, 2]),
        ("truncated", [1 + (2 + 22) / 4, 2 + 40 / 2]),
        ("life_lost", [1 + (2 + 2) / 4, 2]),
    ],
)
def test_an_ending_cuts_the_return(ending: str, targets: list[float]) -> None:
    """It comes with the second of four steps; 40 is the final observation's value.

    The last two targets are 8 + 32/2 = 24 and 4 + (6 + 24)/4 = 11.5, whatever came before.
    """
    env = EnvSpec("Two-v0", clip_rewards=False, life_loss_discount=True)
    player = scripted(num_steps=4, env=env)
    play(player, [8, 2, 40, 6, 32], [1, 2, 4, 8], {1: ending})
    assert player._targets()[:, 0].tolist() == [*targets, 11.5, 24]
    plain = scripted(num_steps=4)
    play(plain, [8, 2, 40, 6, 32], [1, 2, 4, 8])
    assert plain._targets()[1, 0] == 2 + (40 + 11.5) / 4, "the twin: without an ending the return goes on"


def test_a_lost_life_counts_only_under_the_rule() -> None:
    player = scripted(num_steps=2)
    play(player, [8, 2, 6], [1, 2], {0: "life_lost"})
    assert player._targets()[:, 0].tolist() == [1 + (2 + 5) / 4, 5]


def slow_target(player: pqn.Agent, history: list[dict[str, Any]], t: int) -> float:
    """Return a target as the weighted mean of n-step returns, each summed forwards from what was played."""
    mix = player.config.q_lambda

    def n_step(n: int) -> float:
        total, weight = 0.0, 1.0
        for row in history[t : t + n]:
            total, weight = total + weight * row["reward"], weight * player.config.gamma
            if row["ending"] == "terminated":
                return total
        return total + weight * row["following"]

    longest = 1
    while t + longest < len(history) and not history[t + longest - 1]["ending"]:
        longest += 1
    mean = sum((1 - mix) * mix ** (n - 1) * n_step(n) for n in range(1, longest))
    return mean + mix ** (longest - 1) * n_step(longest)


@pytest.mark.parametrize("q_lambda", [0.0, 0.65, 1.0])
def test_targets_of_random_play_against_a_slow_oracle(q_lambda: float) -> None:
    draw = np.random.default_rng(3)
    games, steps = 3, 12
    player = scripted(num_envs=games, num_steps=steps, q_lambda=q_lambda, gamma=0.9)
    value = draw.normal(size=games)
    history: list[list[dict[str, Any]]] = [[] for _ in range(games)]
    for t in range(steps):
        player.act(seen(*value), t)
        reward, following = draw.normal(size=games), draw.normal(size=games)
        ending = [str(draw.choice(["terminated", "truncated", "", "", ""])) for _ in range(games)]
        observe(player, list(reward), list(following), ending)
        for game, rows in enumerate(history):
            rows.append({"reward": reward[game], "following": following[game], "ending": ending[game]})
        value = np.where([bool(name) for name in ending], FIRST, following)
    endings = {row["ending"] for rows in history for row in rows}
    assert endings == {"terminated", "truncated", ""}
    expected = [[slow_target(player, rows, t) for rows in history] for t in range(steps)]
    np.testing.assert_allclose(player._targets().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_no_forward_is_made_twice() -> None:
    """4 steps of 2 games, a truncation in one, and the 2 observations after the rollout: 8 + 1 + 2."""
    player = scripted(num_envs=2, num_steps=4)
    for t in range(4):
        player.act(seen(t, t), t)
        observe(player, [0, 0], [t + 1, t + 1], ["truncated" if t == 1 else "", "terminated" if t == 2 else ""])
    player._targets()
    assert player.main.rows == 11


def test_rewards_are_clipped_where_the_rules_say_so() -> None:
    for clips, expected in ((True, [1, -1, 0]), (False, [5, -0.5, 0])):
        player = scripted(num_steps=3, env=EnvSpec("Two-v0", clip_rewards=clips, life_loss_discount=False))
        play(player, [0, 0, 0, 0], [5, -0.5, 0])
        assert player.rollout.reward[:, 0].tolist() == expected


# ---- acting ----------------------------------------------------------------------------------------------------------


def test_each_game_has_a_coin_of_its_own() -> None:
    player = scripted(num_envs=2_000, num_steps=1, start_e=0.5, end_e=0.5)
    action = player.act(seen(*np.ones(2_000)), 0)
    assert (action == 0).mean() == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 2_000))
    assert np.array_equal(player.act(seen(*np.ones(2_000)), 0), action), "a function of the step"
    assert not np.array_equal(player.act(seen(*np.ones(2_000)), 2_000), action)


def test_an_exploring_step_still_stores_the_best_value() -> None:
    player = scripted(num_envs=50, num_steps=1, start_e=1.0, end_e=1.0)
    observation = seen(*np.arange(50.0))
    action = player.act(observation, 0)
    assert set(action) == {0, 1}
    observe(player, [0] * 50, [0] * 50)
    assert player.rollout.value[0].tolist() == list(range(50))
    assert player.rollout.action[0].tolist() == action.tolist()


def test_epsilon_falls_over_the_budget_and_evaluation_has_its_own() -> None:
    player = scripted(num_steps=1, start_e=1.0, end_e=0.2, exploration_fraction=0.5, evaluation_e=0.0)
    assert [player.epsilon(step) for step in (0, 25, 50, 99)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert player.evaluation_act(seen(*np.ones(200)), np.random.default_rng(1)).tolist() == [1] * 200
    assert player.evaluation_policy == "epsilon-greedy, epsilon 0.0"


def test_actions_count_from_where_the_space_begins() -> None:
    player = scripted(num_steps=1, space=spaces.Discrete(2, start=5), start_e=0.0, end_e=0.0)
    assert player.act(seen(1), 0).tolist() == [6]
    assert player.predict(seen(1)[0])[0] == 6
    observe(player, [0], [0])
    assert player.rollout.action.tolist() == [[1]], "stored as the network counts"


# ---- learning --------------------------------------------------------------------------------------------------------


def filled(player: pqn.Agent, rollout: int = 0) -> pqn.Agent:
    """Return the agent after a rollout of random observations."""
    draw = stream(rollout, "observations")
    games, shape = player.setting.num_envs, player.setting.observation_shape
    nothing = np.zeros(games, np.bool_)
    for t in range(player.rollout.steps):
        if len(shape) == 3:
            observation = draw.integers(0, 256, (games, *shape), dtype=np.uint8)
        else:
            observation = draw.normal(size=(games, *shape)).astype(np.float32)
        player.act(observation, t)
        reward = draw.normal(size=games).astype(np.float32)
        player.observe(np.zeros(games), Step(observation, observation, reward, nothing, nothing, nothing, ()))
    return player


def test_loss_and_gradient_by_hand() -> None:
    """Q(s) = (1, 5), actions 0 and 1, targets 3 and 4: (4 + 1)/2/2 = 1.25; gradients (1 - 3)/2 and (5 - 4)/2."""
    table = nn.Parameter(torch.tensor([1.0, 5.0]))

    class Table(nn.Module):
        def forward(self, observation: Tensor) -> Tensor:
            return table.expand(len(observation), 2)

    error, mean_q = pqn.loss(Table(), torch.zeros(2, 1), torch.tensor([0, 1]), torch.tensor([3.0, 4.0]))
    error.backward()
    assert (error.item(), mean_q.item()) == (1.25, 5)
    assert table.grad is not None
    assert table.grad.tolist() == [-1, 0.5]


def test_each_epoch_goes_over_every_step_once_in_an_order_of_its_own() -> None:
    player = agent_of(num_envs=2, num_steps=6, num_minibatches=3, update_epochs=2)
    epochs = [torch.stack(player._minibatches(epoch)) for epoch in range(2)]
    assert [sorted(epoch.flatten().tolist()) for epoch in epochs] == [list(range(12))] * 2
    assert epochs[0].shape == (3, 4)
    assert not torch.equal(*epochs)
    player.rollouts = 1
    assert not torch.equal(torch.stack(player._minibatches(0)), epochs[0])


def test_updates_come_with_full_rollouts_alone() -> None:
    player = agent_of(num_envs=2, num_steps=3, num_minibatches=2, update_epochs=4)
    config = RunConfig(algorithm="pqn", num_envs=2, hyper=player.config)
    assert player.learn(0) == []
    rows = filled(player).learn(6)
    assert len(rows) == 8 == pqn.updates_owed(config, 6)
    assert pqn.updates_owed(config, 5) == 0
    assert set(rows[0]) == {"loss", "q", "epsilon", "learning_rate"}
    assert player.rollout.length == 0
    assert player.learn(6) == []


def test_its_optimizer_moves_as_radam_after_five_updates() -> None:
    """The same gradients to both, over orders of magnitude; torch's takes five plain steps first, ours stands still."""
    player = agent_of(num_steps=1, learning_rate=0.01)
    ours, theirs = nn.Parameter(torch.zeros(7)), nn.Parameter(torch.zeros(7))
    adam = torch.optim.Adam([ours], betas=pqn.BETAS, fused=True)
    radam = torch.optim.RAdam([theirs], lr=0.01, betas=pqn.BETAS)
    draw = torch.Generator().manual_seed(1)
    for update in range(1, 60):
        ours.grad = torch.randn(7, generator=draw) * torch.logspace(-3, 3, 7)
        theirs.grad = ours.grad.clone()
        adam.param_groups[0]["lr"] = player.learning_rate(0, update)
        adam.step()
        radam.step()
        if update == 5:
            assert not ours.any()
            begin = theirs.detach().clone()
    # The plain steps have moved torch's far away, where float32 keeps fewer digits of what follows.
    torch.testing.assert_close(ours.detach()[:5], (theirs.detach() - begin)[:5], rtol=1e-3, atol=1e-5)
    assert ours.detach().abs().min() > 1e-4


def test_the_learning_rate_falls_to_nothing_where_asked() -> None:
    late = 10**7
    constant, falling = agent_of(learning_rate=0.5), agent_of(learning_rate=0.5, anneal_learning_rate=True)
    assert [constant.learning_rate(step, late) for step in (0, 50)] == pytest.approx([0.5, 0.5])
    assert [falling.learning_rate(step, late) for step in (0, 50, 100)] == pytest.approx([0.5, 0.25, 0])


def test_the_gradient_is_bounded() -> None:
    for bound in (0.01, 0.0):
        player = agent_of(num_steps=4, max_grad_norm=bound)
        filled(player).learn(4)
        gradients = [parameter.grad.norm() for parameter in player.main.parameters() if parameter.grad is not None]
        norm = torch.stack(gradients).norm().item()
        assert norm == pytest.approx(0.01, rel=1e-3) if bound else norm > 0.1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_images_are_read_with_their_channels_last(precision: str) -> None:
    player = agent_of(num_envs=2, shape=(4, 36, 36), num_steps=3, num_minibatches=2, precision=precision)
    before = [parameter.clone() for parameter in player.main.parameters()]
    for rollout in range(4):
        filled(player, rollout)
        rows = player._observations()
        assert rows.is_contiguous(memory_format=torch.channels_last)
        assert rows[torch.tensor([4, 1])].is_contiguous(memory_format=torch.channels_last)
        np.testing.assert_array_equal(rows.numpy(), player.rollout.observation.reshape(6, 4, 36, 36))
        player.learn(6 * (rollout + 1))
    moved = [not torch.equal(old, new) for old, new in zip(before, player.main.parameters(), strict=True)]
    assert all(moved)


def small(**changes: Any) -> RunConfig[pqn.Config]:
    """120 agent steps of 3 games in rollouts of 15; a checkpoint at 51, within the fourth."""
    options = QUIET | {"env_id": "CartPole-v1", "total_timesteps": 120, "num_envs": 3, "checkpoint_frequency": 51}
    hyper = {"num_steps": 5, "num_minibatches": 3, "hidden": (8,)}
    return override(default_config("pqn"), options | hyper | changes)


def test_a_run_resumed_within_a_rollout_ends_the_same_bit_for_bit(tmp_path: Path) -> None:
    expected = digests(small(), keep=(51, tmp_path))[120]
    _, saved, _, _ = checkpoint.load_newest(tmp_path)
    assert saved["agent"]["rollout"]["length"] == 2
    assert digests(small(), saved)[120] == expected
    for lost in ("rollout", "optimizer", "rollouts"):
        _, damaged, _, _ = checkpoint.load_newest(tmp_path)
        if lost == "rollout":
            damaged["agent"]["rollout"]["value"][:] = 7
        elif lost == "optimizer":
            del damaged["agent"]["optimizer"]
        else:
            damaged["agent"]["rollouts"] = 0
        assert digests(small(), damaged)[120] != expected, lost


def test_pixels_resume_bit_for_bit(tmp_path: Path) -> None:
    options = {"env_id": "SpaceInvaders", "resize": (36, 36), "precision": "bf16", "total_timesteps": 66}
    expected = digests(small(**options), keep=(51, tmp_path))[66]
    _, saved, _, _ = checkpoint.load_newest(tmp_path)
    assert digests(small(**options), saved)[66] == expected


# ---- worlds with known answers ---------------------------------------------------------------------------------------


def learned(env_id: str, **changes: Any) -> pqn.Agent:
    """Return the agent of a finished run that has played at random."""
    options = QUIET | {"env_id": env_id, "total_timesteps": 10_000, "num_envs": 8, "checkpoint_frequency": 0}
    hyper = {"num_steps": 8, "num_minibatches": 2, "update_epochs": 4, "hidden": (32,), "learning_rate": 1e-2}
    play = {"start_e": 1.0, "end_e": 1.0, "anneal_learning_rate": True}
    agent = None
    for event in run(override(default_config("pqn"), options | hyper | play | changes)):
        if isinstance(event, Started):
            agent = event.agent
    assert isinstance(agent, pqn.Agent)
    return agent


def chain_values(agent: pqn.Agent) -> np.ndarray:
    with torch.no_grad():
        q: np.ndarray = agent.main(torch.eye(5)).numpy()
    return q


def test_one_step_targets_learn_the_best_values_from_random_play() -> None:
    """And with a long lambda they do not: the returns hold what random actions earned (Peng's returns are not cut)."""
    _, expected = exact.optimal_values(Chain.mdp)
    agent = learned("Chain-v0", gamma=0.9, q_lambda=0.0)
    assert np.abs(chain_values(agent) - expected).max() < 0.05
    assert np.abs(chain_values(pqn.Agent(agent.config, agent.setting)) - expected).max() > 0.3, "they were learned"
    uncut = chain_values(learned("Chain-v0", gamma=0.9, q_lambda=0.95))
    assert (uncut.max(axis=1) < expected.max(axis=1) - 0.05)[:4].all()


def test_with_falling_exploration_the_published_lambda_learns_the_best_values_too() -> None:
    _, expected = exact.optimal_values(Chain.mdp)
    agent = learned("Chain-v0", gamma=0.9, q_lambda=0.65, end_e=0.05, exploration_fraction=0.5)
    q = chain_values(agent)
    assert q.argmax(axis=1).tolist() == [1] * 5
    assert np.abs(q.max(axis=1) - expected.max(axis=1)).max() < 0.1


def value_of(env_id: str) -> float:
    return learned(env_id, gamma=0.5, q_lambda=0.0, total_timesteps=5_000).main(torch.ones(1, 1)).max().item()


def test_truncation_is_not_the_end_of_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reward 1 forever at gamma 1/2 is worth 2; cut off after two steps, it is worth that still.

    Where the world does end after two steps, half of the targets stop: Q = 1 + Q/4 = 4/3.
    """
    assert value_of("Truncated-v0") == pytest.approx(2, abs=0.05)
    assert value_of("Terminated-v0") == pytest.approx(4 / 3, abs=0.05)
    observe = pqn.Agent.observe

    def confused(self: pqn.Agent, action: Any, result: Step) -> None:
        observe(self, action, replace(result, terminated=result.ended, truncated=np.zeros_like(result.truncated)))

    monkeypatch.setattr(pqn.Agent, "observe", confused)
    assert value_of("Truncated-v0") == pytest.approx(4 / 3, abs=0.05), "the twin: the wrong answer"


@pytest.mark.learning
def test_pqn_solves_cart_pole() -> None:
    config, _ = configure("pqn", "CartPole-v1")
    scores = [event.evaluation.scores for event in run(config) if isinstance(event, Evaluated)]
    assert np.mean(scores[-1]) >= 475


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "--num-steps 0 is out of range: it must be at least 1"),
        ({"num_minibatches": 0}, "--num-minibatches 0 is out of range: it must be at least 1"),
        ({"num_minibatches": 4}, "--num-minibatches 4 does not divide the 15 agent steps of a rollout"),
        ({"num_steps": 41}, "--num-steps 41 of --num-envs 3 games are 123 agent steps, beyond --total-timesteps 120"),
        ({"q_lambda": 1.1}, r"--q-lambda 1.1 is out of range: it must be in \[0, 1\]"),
        ({"q_lambda": -0.1}, r"--q-lambda -0.1 is out of range: it must be in \[0, 1\]"),
        ({"q_lambda": math.nan}, "--q-lambda nan is out of range"),
        ({"end_e": 2.0}, "--end-e 2.0"),
        ({"max_grad_norm": -1.0}, "--max-grad-norm -1.0"),
        ({"hidden": (0,)}, "--hidden"),
    ],
)
def test_mistakes_are_answered_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        prepare(small(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("env_id", "reason"),
    [("Pendulum-v1", "needs a Discrete action space"), ("FrozenLake-v1", "pqn needs images or vectors")],
)
def test_worlds_it_cannot_serve(env_id: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"--env-id {env_id}.*{reason}"):
        next(run(small(env_id=env_id)))


@pytest.mark.parametrize("steps", [32, 4_096, 10**6])
def test_a_trial_has_the_minibatches_of_the_run(steps: int) -> None:
    config = small(total_timesteps=10**6, num_envs=32, num_steps=32, num_minibatches=8)
    trial = pqn.calibration(replace(config, total_timesteps=steps))
    assert trial.hyper.num_steps * 32 / trial.hyper.num_minibatches == 128
    assert trial.hyper.num_steps * 32 <= max(steps, 128)


def test_steps_after_the_last_whole_rollout_bring_no_update() -> None:
    rows = [event for event in run(small(total_timesteps=129)) if isinstance(event, Progress)]
    assert sum(row.metrics["updates"] for row in rows) == 8 * 6
