"""The aliased vacuum: a corridor with two cells that have the same observation and opposite optimal actions.

      +---+---+---+---+---+
      | 0   1   2   3   4 |      a vacuum cleaner starts in a cell of the corridor, observes only the walls
      +   +---+   +---+   +      around it, must reach the dust (*) and must not touch a hamster (h)
      | h |   | * |   | h |
      +---+   +---+   +---+

In cell 1 the dust is east, in cell 3 it is west, and both cells have exactly the walls north and south: they are
*aliased*. A policy with one action for both is wrong in one of them and oscillates there forever. A policy that goes
east or west at random there always reaches the dust. Greedy or epsilon-greedy Q-values cannot express this policy; a
policy network can. Source of the idea: Singh, Jaakkola and Jordan 1994, "Learning Without State-Estimation in
Partially Observable Markovian Decision Processes".

`AliasedVacuum.mdp` is the same environment as matrices and `solutions` solves it exactly, so the best possible return
of each kind of policy is computed, not measured.
"""

from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from q2pi.equations import exact
from q2pi.equations.exact import MDP
from q2pi.types import Array

NORTH, EAST, SOUTH, WEST = range(4)
DUST_REWARD, HAMSTER_REWARD = 1.0, -1.0
STEP_REWARD = -0.005
"""Reward of every other step. Small enough that wandering forever is better than touching a hamster for any discount
factor up to 0.995 and within the time limit; a larger cost would make the hamster the second-best policy."""


class AliasedVacuum(gymnasium.Env[Any, Any]):
    """The corridor. Actions are north, east, south and west; an action into a wall takes a step and changes nothing.

    Every episode starts in a cell drawn uniformly from the corridor, except the cell above the dust, and terminates at
    the dust (reward 1) or at a hamster (reward -1). Any other step has reward -0.005.

    Args:
        length: number of cells of the corridor, at least 4; the hamsters are below the two end cells.
        dust: index of the cell above the dust, from 1 to length - 2; None is the middle cell. At 1 or length - 2 all
            aliased cells have the same optimal action, so aliasing costs nothing.
        observation: "walls", float32 [4], 1 for a wall north, east, south, west; "discrete", the same as one integer
            0..15 (1, 2, 4 and 8 for the four walls); "cell", the index of the cell, so that nothing is aliased
            (`length` is every place below the corridor).
        render_mode: "rgb_array" or None.

    Raises:
        ValueError: a length, dust or observation out of its bounds.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        length: int = 5,
        dust: int | None = None,
        observation: Literal["walls", "discrete", "cell"] = "walls",
        render_mode: str | None = None,
    ) -> None:
        dust = length // 2 if dust is None else dust
        if length < 4:
            raise ValueError(f"length {length} is less than 4: no cell would be aliased")
        if not 1 <= dust <= length - 2:
            raise ValueError(f"dust {dust} is outside [1, {length - 2}]: the hamsters are below the end cells")
        if observation not in ("walls", "discrete", "cell"):
            raise ValueError(f"observation {observation!r} is not one of 'walls', 'discrete', 'cell'")
        self.length, self.dust, self.observation, self.render_mode = length, dust, observation, render_mode
        self.walls = np.zeros((length + 1, 4), np.bool_)
        """bool [length + 1, 4]: walls north, east, south, west of each cell; the last row is any place below."""
        self.walls[:length, [NORTH, SOUTH]] = True
        self.walls[[0, length - 1, dust], SOUTH] = False
        self.walls[0, WEST] = self.walls[length - 1, EAST] = True
        self.walls[length, [EAST, SOUTH, WEST]] = True
        self.starts = np.array([cell for cell in range(length) if cell != dust])
        self.cell = int(self.starts[0])
        self.below = False
        """Whether the vacuum has gone south from `cell`, which ended the episode."""
        self.action_space = spaces.Discrete(4)
        self.observation_space: Any = {
            "walls": spaces.Box(0.0, 1.0, (4,), np.float32),
            "discrete": spaces.Discrete(16),
            "cell": spaces.Discrete(length + 1),
        }[observation]

    @property
    def codes(self) -> Array:
        """int64 [length]: the walls around each cell as one integer; equal for cells with the same observation."""
        codes: Array = self.walls[: self.length] @ np.array([1, 2, 4, 8])
        return codes

    @property
    def aliased(self) -> Array:
        """int64 [length - 3]: the cells with exactly the walls north and south, which have the same observation."""
        return np.flatnonzero(self.codes == 1 + 4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; `options={"cell": k}` starts it in cell k."""
        super().reset(seed=seed)
        start = int(self.np_random.choice(self.starts))
        self.cell, self.below = int((options or {}).get("cell", start)), False
        return self._observe(), {"cell": self.cell}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"action {action!r} is not one of 0..3"
        assert not self.below, "the episode has ended"
        self.cell, self.below, reward = self.move(self.cell, int(action))
        return self._observe(), reward, self.below, False, {"cell": self.cell}

    def move(self, cell: int, action: int) -> tuple[int, bool, float]:
        """Return (next cell, whether the vacuum went below the corridor, reward) of an action in a cell."""
        if self.walls[cell, action]:
            return cell, False, STEP_REWARD
        if action == SOUTH:
            return cell, True, DUST_REWARD if cell == self.dust else HAMSTER_REWARD
        return cell + (1 if action == EAST else -1), False, STEP_REWARD

    def mdp(self, gamma: float = 0.99) -> tuple[MDP, Array]:
        """Return (the MDP over the cells, observation int64 [length] of each cell), without the time limit.

        Aliased cells have the same observation; observations are 0, 1, ... in the order of `codes`.
        """
        transition, reward = np.zeros((self.length, 4, self.length)), np.zeros((self.length, 4))
        for cell in range(self.length):
            for action in range(4):
                next_cell, below, reward[cell, action] = self.move(cell, action)
                transition[cell, action, next_cell] = 0.0 if below else 1.0
        start = np.zeros(self.length)
        start[self.starts] = 1 / len(self.starts)
        observation: Array = np.unique(self.codes, return_inverse=True)[1]
        return MDP(transition, reward, gamma, start), observation

    def render(self) -> Any:
        """Return an image, uint8 [148, 20 + 64 * length, 3], or None without a render mode."""
        return None if self.render_mode is None else _image(self)

    def _observe(self) -> Any:
        row = self.length if self.below else self.cell
        if self.observation == "cell":
            return np.int64(row)
        if self.observation == "discrete":
            return np.int64(self.walls[row] @ np.array([1, 2, 4, 8]))
        return self.walls[row].astype(np.float32)


@dataclass(frozen=True)
class Solutions:
    """Best expected discounted return of each class of policies."""

    fully_observed: float
    """Policies of the cell: mean of V* over the start cells."""
    deterministic: float
    """One action per observation: a greedy policy of Q-values."""
    epsilon: float
    """Exploration rate of the best epsilon-greedy policy."""
    epsilon_greedy: float
    """Epsilon-greedy policies with this rate."""
    stochastic: float
    """Action probabilities per observation: a policy network."""
    east: float
    """Probability of east in the aliased cells under the best stochastic policy."""
    west: float
    """Probability of west in the aliased cells under the best stochastic policy."""
    steps: float
    """Expected episode length under the best stochastic policy, in steps."""


def solutions(env: AliasedVacuum, gamma: float = 0.99) -> Solutions:
    """Solve an aliased vacuum exactly.

    Args:
        env: the environment; without a time limit.
        gamma: discount factor, less than 1 (a deterministic policy may never terminate).
    """
    mdp, observation = env.mdp(gamma)
    policy, stochastic = exact.best_memoryless_stochastic(mdp, observation)
    epsilon, _, epsilon_greedy = exact.best_epsilon_greedy(mdp, observation)
    aliased = policy[observation[env.aliased[0]]]
    return Solutions(
        fully_observed=float(mdp.start @ exact.optimal_values(mdp)[0]),
        deterministic=exact.best_memoryless_deterministic(mdp, observation)[1],
        epsilon=epsilon,
        epsilon_greedy=epsilon_greedy,
        stochastic=stochastic,
        east=float(aliased[EAST]),
        west=float(aliased[WEST]),
        steps=exact.expected_steps(mdp, exact.policy_over_states(policy, observation)),
    )


_CELL, _MARGIN, _FINE = 64, 10, 3
_FLOOR, _ALIASED, _ALCOVE, _WALL = (245, 243, 238), (221, 230, 244), (228, 224, 214), (52, 58, 70)
_VACUUM, _DARK, _HAMSTER, _DUST = (40, 118, 178), (24, 60, 96), (196, 128, 64), (122, 116, 108)


def _image(env: AliasedVacuum) -> Array:
    """Draw the corridor and the places below it, with aliased cells in one tint, at 3 x 3 samples per pixel."""
    shape = (2 * _MARGIN + 2 * _CELL, 2 * _MARGIN + env.length * _CELL)
    canvas = np.full((shape[0] * _FINE, shape[1] * _FINE, 3), _WALL, np.uint8)
    y, x = (np.indices(canvas.shape[:2]) + 0.5) / _FINE - _MARGIN

    def box(left: float, top: float, right: float, bottom: float, colour: tuple[int, int, int]) -> None:
        canvas[(x >= left) & (x < right) & (y >= top) & (y < bottom)] = colour

    def disc(centre_x: float, centre_y: float, radius: float, colour: tuple[int, int, int]) -> None:
        canvas[(x - centre_x) ** 2 + (y - centre_y) ** 2 < radius**2] = colour

    aliased = set(env.aliased.tolist())
    for cell in range(env.length):
        left, middle = cell * _CELL, (cell + 0.5) * _CELL
        box(left, 0, left + _CELL, _CELL, _ALIASED if cell in aliased else _FLOOR)
        if env.walls[cell, SOUTH]:
            continue
        box(left + 4, _CELL, left + _CELL - 4, 2 * _CELL, _ALCOVE)
        if cell == env.dust:
            if not env.below:
                for dx, dy, radius in ((-12, 6, 4), (-3, -4, 5), (7, 4, 6), (14, -7, 3), (-8, -12, 3), (2, 14, 4)):
                    disc(middle + dx, 1.5 * _CELL + dy, radius, _DUST)
            continue
        for side in (-1, 1):
            disc(middle + 10 * side, 1.5 * _CELL - 12, 6, _HAMSTER)
        disc(middle, 1.5 * _CELL, 16, _HAMSTER)
        for side in (-1, 1):
            disc(middle + 6 * side, 1.5 * _CELL - 4, 2.5, (20, 20, 20))
        disc(middle, 1.5 * _CELL + 4, 2.5, (232, 150, 150))
    centre_x, centre_y = (env.cell + 0.5) * _CELL, (1.5 if env.below else 0.5) * _CELL
    disc(centre_x, centre_y, 21, _DARK)
    disc(centre_x, centre_y, 18, _VACUUM)
    disc(centre_x, centre_y - 8, 5, (235, 240, 245))
    averaged = canvas.reshape(shape[0], _FINE, shape[1], _FINE, 3).mean(axis=(1, 3))
    image: Array = averaged.round().astype(np.uint8)
    return image
