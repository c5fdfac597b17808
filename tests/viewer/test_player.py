"""Episodes of one agent, step by step: equal to evaluations and recordings, in colour and preprocessed in lockstep."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_runs import CARTPOLE, INVADERS
from stage import new_agent

from q2pi.envs.make import make_envs
from q2pi.envs.spec import resolve
from q2pi.errors import UserError
from q2pi.viewer.player import Player


def player_of(options: dict[str, Any], seed: int = 3) -> Player:
    agent, _ = new_agent("dqn", options | {"num_envs": 1, "buffer_size": 200})
    return Player(agent, agent.spec.env, seed)


def test_an_episode_depends_on_its_seed_only() -> None:
    player = player_of(CARTPOLE)
    first = [player.advance().observation for _ in range(8)]
    player.restart(4)
    other = [player.advance().observation for _ in range(8)]
    player.restart(3)
    again = [player.advance().observation for _ in range(8)]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_observations_are_those_of_an_environment_with_this_seed_and_these_actions() -> None:
    player = player_of(INVADERS)
    for _ in range(6):
        player.advance()
    envs = make_envs(resolve(player.spec), 1, 0)
    envs.seed_of = lambda env_index, episode_index: 3
    observation = envs.reset()
    for action in player.actions:
        envs.send(np.array([action]))
        observation = envs.recv().next_observation
    np.testing.assert_array_equal(player.moment.observation, observation[0])
    envs.close()
    player.close()


def test_screen_and_observation_show_the_same_moment() -> None:
    """Of the four frames of the stack, the newest is most like the colour screen, gray and resized to 36 x 36."""
    player = player_of(INVADERS)
    for _ in range(40):
        player.advance()
    assert player.moment.screen is not None
    gray = (player.moment.screen.astype(float) @ [0.299, 0.587, 0.114]).astype(np.uint8)
    assert gray.shape == (210, 160)
    small = np.asarray(Image.fromarray(gray).resize((36, 36), Image.Resampling.BOX)).astype(float)
    similar = [np.corrcoef(small.ravel(), frame.ravel())[0, 1] for frame in player.moment.observation]
    assert similar[3] > 0.99
    assert int(np.argmax(similar)) == 3
    player.close()


def test_the_persons_action_is_taken_instead_of_the_agents() -> None:
    player = player_of(CARTPOLE)
    for _ in range(3):
        player.advance(1)
    assert player.actions == [1, 1, 1]
    pushed = player.moment.observation[1]
    player.restart(3)
    for _ in range(3):
        player.advance(0)
    assert pushed > 0 > player.moment.observation[1]


def test_return_adds_up_and_the_end_has_no_action() -> None:
    player = player_of(CARTPOLE)
    while not player.advance(1).has_ended:
        assert player.moment.action is not None
    assert player.moment.episode_return == player.moment.step == len(player.actions)
    assert player.moment.action is None
    assert player.moment.is_terminal


def test_an_episode_restarts_in_the_middle() -> None:
    player = player_of(CARTPOLE)
    for _ in range(5):
        player.advance()
    expected, actions = player.moment, list(player.actions)
    player.advance()
    moment = player.restart(3, actions)
    np.testing.assert_array_equal(moment.observation, expected.observation)
    assert (moment.step, moment.action, moment.episode_return) == (5, expected.action, expected.episode_return)
    with pytest.raises(UserError, match="seed 3 ended after"):
        player.restart(3, [1] * 400)


def test_an_environment_without_pictures_is_played_without_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    from q2pi.reports import video

    def refuse(env: Any, env_id: str) -> Any:
        raise UserError(f"{env_id} cannot be drawn: no pictures")

    monkeypatch.setattr(video, "screen_of", refuse)
    player = player_of(CARTPOLE)
    assert player.moment.screen is None
    assert player.cannot_draw == "CartPole-v1 cannot be drawn: no pictures"
    assert player.advance().step == 1
