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

from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    pass
from q2pi.envs.aliased_vacuum import TIME_LIMIT


def register_envs() -> None:
    """Make the worlds of this house known to Gymnasium; asking again changes nothing.

    The aliased vacuum (walls as a vector, `Discrete` for tables, `Cells` with all cells told apart); FrozenLake without
    slipping; CliffWalking with a time limit, without which an agent that runs into a wall never ends; and Taxi-v3 where
    Gymnasium has dropped it for Taxi-v4, whose default rules are the same.
    """
    vacuum, toys = "q2pi.envs.aliased_vacuum:AliasedVacuum", "gymnasium.envs.toy_text"
    worlds: dict[str, tuple[str, int, dict[str, Any]]] = {
        "q2pi/AliasedVacuum-v0": (vacuum, TIME_LIMIT, {}),
        "q2pi/AliasedVacuumDiscrete-v0": (vacuum, TIME_LIMIT, {"observation": "discrete"}),
        "q2pi/AliasedVacuumCells-v0": (vacuum, TIME_LIMIT, {"observation": "cell"}),
        "q2pi/FrozenLakeNoSlip-v1": (f"{toys}.frozen_lake:FrozenLakeEnv", 100, {"is_slippery": False}),
        "q2pi/CliffWalking-v1": (f"{toys}.cliffwalking:CliffWalkingEnv", 200, {}),
        "Taxi-v3": (f"{toys}.taxi:TaxiEnv", 200, {}),
    }
    for name, (entry_point, limit, options) in worlds.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=entry_point, max_episode_steps=limit, kwargs=options)
