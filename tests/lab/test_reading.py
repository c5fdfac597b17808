"""The statements of docs/reading.md, shown."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from q2pi.buffers.replay import Replay
from q2pi.envs.aliased_vacuum import AliasedVacuum
from q2pi.equations import exact
from q2pi.lab.road import NAMES
from q2pi.networks.torsos import ImageTorso

GAMMA = 0.5
EPISODE = (1.0, 2.0, 3.0, 4.0)
"""Observations of an episode that the time limit cuts after its third action; the next one starts again at 1."""
ROOT = Path(__file__).parent.parent.parent


class OneArray:
    """A replay that keeps the next observation of row t in row t + 1, and `done` as it is passed."""

    def __init__(self, size: int) -> None:
        self.observation, self.done = np.zeros(size), np.zeros(size)
        self.place = 0

    def add(self, observation: float, next_observation: float, done: bool) -> None:
        self.observation[self.place] = observation
        self.observation[self.place + 1] = next_observation
        self.done[self.place] = done
        self.place += 1

    def target(self, row: int, reward: float) -> float:
        """Return r + gamma * V(next observation), where V is the observation itself."""
        return reward + GAMMA * float((1 - self.done[row]) * self.observation[row + 1])


def filled(passes_every_end: bool) -> OneArray:
    replay = OneArray(10)
    for _ in range(2):
        for t in range(3):
            replay.add(EPISODE[t], EPISODE[t + 1], done=passes_every_end and t == 2)
    return replay


def test_one_array_bootstraps_a_truncated_step_from_the_next_episode() -> None:
    assert filled(passes_every_end=False).target(2, reward=1.0) == 1 + GAMMA * EPISODE[0], "not of the final one"
    assert filled(passes_every_end=False).target(1, reward=1.0) == 1 + GAMMA * EPISODE[2], "other steps are right"


def test_one_array_with_every_end_learns_the_time_limit_as_a_termination() -> None:
    assert filled(passes_every_end=True).target(2, reward=1.0) == 1.0


def test_a_row_for_the_final_observation_is_right() -> None:
    replay = Replay(10, 1, (1,), np.float32, stack=1, n_step=1, gamma=GAMMA)
    one = np.ones(1, np.float32)
    replay.begin(one[None] * EPISODE[0])
    for t in range(3):
        first = one[None] * EPISODE[0]
        replay.extend(np.zeros(1), one, one, one[None] * EPISODE[t + 1], np.array([t == 2]), first)
    (row,) = np.flatnonzero(replay.age[:4] == 2)
    batch = replay.sample(np.array([row]))
    assert float(batch.reward[0] + batch.discount[0] * batch.next_observation[0, 0]) == 1 + GAMMA * EPISODE[3]


def test_the_nature_network_has_3136_features_before_its_linear_layer() -> None:
    torso = ImageTorso(4, 84, 84)
    assert torso.linear.in_features == 3_136
    assert torso(torch.zeros(2, 4, 84, 84, dtype=torch.uint8)).shape == (2, 512)


def test_a_softmax_over_values_can_be_any_policy() -> None:
    """With Q = temperature * log pi it is the best stochastic policy, which no greedy policy reaches."""
    mdp, observation = AliasedVacuum(5).mdp(0.99)
    best, value = exact.best_memoryless_stochastic(mdp, observation)
    q = 0.7 * np.log(np.maximum(best, 1e-12))
    policy = exact.softmax_policy(q / 0.7)
    assert exact.expected_return(mdp, exact.policy_over_states(policy, observation)) == pytest.approx(value, abs=1e-6)
    greedy = exact.policy_over_states(exact.greedy(q), observation)
    assert exact.expected_return(mdp, greedy) < value - 0.3


def test_the_page_names_claims_and_files_that_exist() -> None:
    text = (ROOT / "docs" / "reading.md").read_text()
    assert set(re.findall(r"q2pi lab run (\w+)", text)) <= set(NAMES)
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert link.startswith("http") or link == "lab.md" or (ROOT / "docs" / link).exists(), link
