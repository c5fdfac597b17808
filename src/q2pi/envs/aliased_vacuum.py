"""The aliased vacuum: a corridor in which two places look the same and want opposite actions.

      +---+---+---+---+---+
      | 0   1   2   3   4 |      a vacuum cleaner starts in a cell of the corridor, perceives nothing but the walls
      +   +---+   +---+   +      around it, must reach the dust (*) and must not touch a hamster (h)
      | h |   | * |   | h |
      +---+   +---+   +---+

In cell 1 the dust is east, in cell 3 it is west, and both have walls north and south and nothing else: they are
*aliased*. One action for both is wrong in one of them, and the vacuum goes to and fro for ever. A policy that tosses a
coin there always arrives. A table or a network of Q-values, played greedily or epsilon-greedily, cannot express that
coin; a policy network can. Source of the idea: Singh, Jaakkola and Jordan 1994, "Learning Without State-Estimation in
Partially Observable Markovian Decision Processes".

`AliasedVacuum.mdp` is the same world as a matrix and `solutions` solves it exactly, so what a learner should reach is
computed and never measured.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from q2pi.types import Array

if TYPE_CHECKING:
    from q2pi.equations.exact import MDP


NORTH, EAST, SOUTH, WEST = range(4)
DUST_REWARD, HAMSTER_REWARD = 1.0, -1.0
STEP_REWARD = -0.005
"""Every step that reaches neither. Small enough that wandering for ever is better than touching a hamster, for any
discount factor up to 0.995, and within the time limit: the second-best policy should not be a cruel one."""
TIME_LIMIT = 100


class AliasedVacuum(gymnasium.Env[Any, Any]):
    """The corridor world. Actions are north, east, south and west; running into a wall takes a step and stays.

    Every episode starts in a cell of the corridor drawn uniformly, the one above the dust excepted, and ends at the
    dust (reward 1) or at a hamster (reward -1). Any other step has reward -0.005.

    Args:
        length: cells of the corridor, at least 4; hamsters wait below the two end cells.
        dust: the cell with the dust below it, from 1 to length - 2; None is the middle one. At 1 or length - 2 all
            aliased cells want the same action, and nothing is lost by aliasing.
        observation: what is perceived: "walls", float32 [4], 1 where there is a wall north, east, south, west;
            "discrete", the same as one number 0..15 (1, 2, 4 and 8 for the four walls); "cell", the cell itself, so
            that all are told apart (`length` is the number of the places below).
        render_mode: "rgb_array" or None.

    Raises:
        ValueError: a length, dust or observation out of its bounds.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (as Gymnasium has it)

    def __init__(
        self,
        length: int = 5,
        dust: int | None = None,
        observation: Literal["walls", "discrete", "cell"] = "walls",
        render_mode: str | None = None,
    ) -> None:
        dust = length // 2 if dust is None else dust
        if length < 4:
            raise ValueError(f"length {length} is less than 4: no two cells could be told from the ends and the dust")
        if not 1 <= dust <= length - 2:
            raise ValueError(f"dust {dust} is outside [1, {length - 2}]: hamsters live below the end cells")
        if observation not in ("walls", "discrete", "cell"):
            raise ValueError(f"observation {observation!r} is not one of 'walls', 'discrete', 'cell'")
        self.length, self.dust, self.observation, self.render_mode = length, dust, observation, render_mode
        self.walls = np.zeros((length + 1, 4), np.bool_)
        """[length + 1, 4] walls north, east, south, west of each cell; the last row is any place below."""
        self.walls[:length, [NORTH, SOUTH]] = True
        self.walls[[0, length - 1, dust], SOUTH] = False
        self.walls[0, WEST] = self.walls[length - 1, EAST] = True
        self.walls[length, [EAST, SOUTH, WEST]] = True
        self.starts = np.array([cell for cell in range(length) if cell != dust])
        self.cell = int(self.starts[0])
        self.below = False
        """Whether the vacuum has gone south out of `cell`, where the episode ended."""
        self.action_space = spaces.Discrete(4)
        self.observation_space: Any = {
            "walls": spaces.Box(0.0, 1.0, (4,), np.float32),
            "discrete": spaces.Discrete(16),
            "cell": spaces.Discrete(length + 1),
        }[observation]

    @property
    def codes(self) -> Array:
        """int64 [length]: the walls around each cell as one number, equal where two cells look the same."""
        codes: Array = self.walls[: self.length] @ np.array([1, 2, 4, 8])
        return codes

    @property
    def aliased(self) -> Array:
        """int64 [length - 3]: the cells that look the same, walls north and south and nothing else."""
        return np.flatnonzero(self.codes == 1 + 4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; `options={"cell": k}` begins it in cell k."""
        super().reset(seed=seed)
        drawn = int(self.np_random.choice(self.starts))
        self.cell, self.below = int((options or {}).get("cell", drawn)), False
        return self._perceive(), {"cell": self.cell}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"action {action!r} is not one of 0..3"
        assert not self.below, "the episode has ended"
        self.cell, self.below, reward = self.move(self.cell, int(action))
        return self._perceive(), reward, self.below, False, {"cell": self.cell}

    def move(self, cell: int, action: int) -> tuple[int, bool, float]:
        """Return (cell, whether the vacuum went below it, reward) of an action in a cell."""
        if self.walls[cell, action]:
            return cell, False, STEP_REWARD
        if action == SOUTH:
            return cell, True, DUST_REWARD if cell == self.dust else HAMSTER_REWARD
        return cell + (1 if action == EAST else -1), False, STEP_REWARD

    def mdp(self, gamma: float = 0.99) -> "tuple[MDP, Array]":
        """Return (the world as an MDP over its cells, observation int64 [length]), without the time limit.

        Cells that look the same have the same observation; those are numbered 0, 1, ... in the order of `codes`.
        """
        from q2pi.equations.exact import MDP

        transition, reward = np.zeros((self.length, 4, self.length)), np.zeros((self.length, 4))
        for cell in range(self.length):
            for action in range(4):
                following, below, reward[cell, action] = self.move(cell, action)
                transition[cell, action, following] = 0.0 if below else 1.0
        start = np.zeros(self.length)
        start[self.starts] = 1 / len(self.starts)
        observation: Array = np.unique(self.codes, return_inverse=True)[1]
        return MDP(transition, reward, gamma, start), observation

    def render(self) -> Any:
        """Return a picture, uint8 [148, 20 + 64 * length, 3], or None where no render mode was asked for."""
        return None if self.render_mode is None else _picture(self)

    def _perceive(self) -> Any:
        place = self.length if self.below else self.cell
        if self.observation == "cell":
            return np.int64(place)
        if self.observation == "discrete":
            return np.int64(self.walls[place] @ np.array([1, 2, 4, 8]))
        return self.walls[place].astype(np.float32)


@dataclass(frozen=True)
class Solutions:
    """What the classes of policies can reach at most, as expected discounted returns."""

    told_apart: float
    """Of any policy that sees the cell: the start's mean of V*."""
    deterministic: float
    """Of one action per observation: greedy play of Q-values."""
    epsilon: float
    """The exploration rate at which epsilon-greedy play is best."""
    epsilon_greedy: float
    """Of epsilon-greedy play at that rate."""
    stochastic: float
    """Of probabilities per observation: a policy network."""
    east: float
    """Probability of going east in the aliased cells under the best stochastic policy."""
    west: float
    steps: float
    """Expected length, in steps, of an episode under the best stochastic policy."""


def solutions(world: AliasedVacuum, gamma: float = 0.99) -> Solutions:
    """Solve a world exactly.

    Args:
        world: the world; its time limit is not known here.
        gamma: discount factor, below 1 (a deterministic policy may go on for ever).
    """
    from q2pi.equations import exact

    mdp, observation = world.mdp(gamma)
    policy, stochastic = exact.best_memoryless_stochastic(mdp, observation)
    epsilon, _, epsilon_greedy = best_epsilon_greedy(mdp, observation)
    aliased = policy[observation[world.aliased[0]]]
    return Solutions(
        told_apart=float(mdp.start @ exact.optimal_values(mdp)[0]),
        deterministic=exact.best_memoryless_deterministic(mdp, observation)[1],
        epsilon=epsilon,
        epsilon_greedy=epsilon_greedy,
        stochastic=stochastic,
        east=float(aliased[EAST]),
        west=float(aliased[WEST]),
        steps=expected_steps(mdp, exact.policy_over_states(policy, observation)),
    )


def epsilon_greedy_at(mdp: "MDP", observation: Array, epsilon: float) -> tuple[Array, float]:
    """Return (greedy policy [O, A], J) of the best epsilon-greedy policy over observations at exploration `epsilon`.

    Such a policy is a deterministic one in a world where every action is replaced, with probability epsilon, by one
    drawn uniformly.
    """
    from q2pi.equations.exact import best_memoryless_deterministic

    noisy = replace(
        mdp,
        transition=(1 - epsilon) * mdp.transition + epsilon * mdp.transition.mean(axis=1, keepdims=True),
        reward=(1 - epsilon) * mdp.reward + epsilon * mdp.reward.mean(axis=1, keepdims=True),
    )
    return best_memoryless_deterministic(noisy, observation)


def best_epsilon_greedy(mdp: "MDP", observation: Array) -> tuple[float, Array, float]:
    """Return (epsilon, greedy policy [O, A], J) of the best epsilon-greedy policy over observations, at any epsilon.

    A grid of 21 exploration rates, then a search between the neighbours of the best one, to 1e-6.
    """
    from scipy.optimize import minimize_scalar

    def loss(epsilon: float) -> float:
        return -epsilon_greedy_at(mdp, observation, float(epsilon))[1]

    grid = np.linspace(0, 1, 21)
    best = float(min(grid, key=loss))
    bounds = (max(0.0, best - 0.05), min(1.0, best + 0.05))
    found = float(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)
    epsilon = min((best, found), key=loss)
    return (epsilon, *epsilon_greedy_at(mdp, observation, epsilon))


def expected_steps(mdp: "MDP", pi: Array) -> float:
    """Return the expected length of an episode under policy `pi` [S, A], in steps, without a time limit."""
    from q2pi.equations.exact import state_distribution

    return float(state_distribution(replace(mdp, gamma=1.0), pi).sum())


def expected_score(mdp: "MDP", pi: Array, limit: int = TIME_LIMIT) -> float:
    """Return the expected undiscounted return of an episode cut at `limit` steps: what an evaluation measures."""
    reward, transition = (pi * mdp.reward).sum(-1), np.einsum("sa,sat->st", pi, mdp.transition)
    score, alive = 0.0, mdp.start
    for _ in range(limit):
        score += float(alive @ reward)
        alive = alive @ transition
    return score


_CELL, _MARGIN, _FINE = 64, 10, 3
_FLOOR, _ALIASED, _ALCOVE, _WALL = (245, 243, 238), (221, 230, 244), (228, 224, 214), (52, 58, 70)
_VACUUM, _DARK, _HAMSTER, _DUST = (40, 118, 178), (24, 60, 96), (196, 128, 64), (122, 116, 108)


def _picture(world: AliasedVacuum) -> Array:
    """Draw the corridor above and the places below; aliased cells have one tint. Drawn finely, then averaged."""
    shape = (2 * _MARGIN + 2 * _CELL, 2 * _MARGIN + world.length * _CELL)
    canvas = np.full((shape[0] * _FINE, shape[1] * _FINE, 3), _WALL, np.uint8)
    y, x = (np.indices(canvas.shape[:2]) + 0.5) / _FINE - _MARGIN

    def box(left: float, top: float, right: float, bottom: float, colour: tuple[int, int, int]) -> None:
        canvas[(x >= left) & (x < right) & (y >= top) & (y < bottom)] = colour

    def disc(centre_x: float, centre_y: float, radius: float, colour: tuple[int, int, int]) -> None:
        canvas[(x - centre_x) ** 2 + (y - centre_y) ** 2 < radius**2] = colour

    aliased = set(world.aliased.tolist())
    for cell in range(world.length):
        left, middle = cell * _CELL, (cell + 0.5) * _CELL
        box(left, 0, left + _CELL, _CELL, _ALIASED if cell in aliased else _FLOOR)
        if world.walls[cell, SOUTH]:
            continue
        box(left + 4, _CELL, left + _CELL - 4, 2 * _CELL, _ALCOVE)
        if cell == world.dust:
            if not world.below:
                for dx, dy, radius in ((-12, 6, 4), (-3, -4, 5), (7, 4, 6), (14, -7, 3), (-8, -12, 3), (2, 14, 4)):
                    disc(middle + dx, 1.5 * _CELL + dy, radius, _DUST)
            continue
        for side in (-1, 1):
            disc(middle + 10 * side, 1.5 * _CELL - 12, 6, _HAMSTER)
        disc(middle, 1.5 * _CELL, 16, _HAMSTER)
        for side in (-1, 1):
            disc(middle + 6 * side, 1.5 * _CELL - 4, 2.5, (20, 20, 20))
        disc(middle, 1.5 * _CELL + 4, 2.5, (232, 150, 150))
    centre_x, centre_y = (world.cell + 0.5) * _CELL, (1.5 if world.below else 0.5) * _CELL
    disc(centre_x, centre_y, 21, _DARK)
    disc(centre_x, centre_y, 18, _VACUUM)
    disc(centre_x, centre_y - 8, 5, (235, 240, 245))
    averaged = canvas.reshape(shape[0], _FINE, shape[1], _FINE, 3).mean(axis=(1, 3))
    picture: Array = averaged.round().astype(np.uint8)
    return picture
