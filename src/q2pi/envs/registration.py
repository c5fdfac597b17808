"""Registration of q2pi's environments with Gymnasium. `import q2pi` calls it as soon as Gymnasium is imported.

Gymnasium 1.0 removed entry points: nothing can register an environment before its package is imported. A program that
does not import q2pi names the module in the id: `gymnasium.make("q2pi:q2pi/AliasedVacuum-v0")`.
"""

from typing import Any

ALIASED_VACUUM_TIME_LIMIT = 100
MINATAR_TIME_LIMIT = 10_000
"""MinAtar itself has none; an agent that learned to survive would never finish an evaluation."""


def register_envs() -> None:
    """Register q2pi's environments with Gymnasium; a second call changes nothing.

    The aliased vacuum (walls as a vector, `Discrete` for tables, `Cells` without aliasing); FrozenLake without
    slipping; CliffWalking with a time limit, because an agent that always runs into a wall never terminates; Taxi-v3 if
    Gymnasium has dropped it for Taxi-v4, whose default rules are the same; and MinAtar's games under the ids of its
    package, which is imported only when one is made.
    """
    import gymnasium

    vacuum, toys = "q2pi.envs.aliased_vacuum:AliasedVacuum", "gymnasium.envs.toy_text"
    envs: dict[str, tuple[str, int, dict[str, Any]]] = {
        "q2pi/AliasedVacuum-v0": (vacuum, ALIASED_VACUUM_TIME_LIMIT, {}),
        "q2pi/AliasedVacuumDiscrete-v0": (vacuum, ALIASED_VACUUM_TIME_LIMIT, {"observation": "discrete"}),
        "q2pi/AliasedVacuumCells-v0": (vacuum, ALIASED_VACUUM_TIME_LIMIT, {"observation": "cell"}),
        "q2pi/FrozenLakeNoSlip-v1": (f"{toys}.frozen_lake:FrozenLakeEnv", 100, {"is_slippery": False}),
        "q2pi/CliffWalking-v1": (f"{toys}.cliffwalking:CliffWalkingEnv", 200, {}),
        "Taxi-v3": (f"{toys}.taxi:TaxiEnv", 200, {}),
    }
    for game in ("asterix", "breakout", "freeway", "seaquest", "space_invaders"):
        env_id = f"MinAtar/{game.title().replace('_', '')}-v1"
        options = {"game": game, "use_minimal_action_set": True}
        envs[env_id] = ("q2pi.envs.minatar:MinAtar", MINATAR_TIME_LIMIT, options)
    for env_id, (entry_point, time_limit, options) in envs.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point=entry_point, max_episode_steps=time_limit, kwargs=options)
