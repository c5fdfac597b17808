"""q2pi: deep reinforcement learning from Q to pi.

    import q2pi

    agent = q2pi.train("dqn", env_id="CartPole-v1", total_timesteps=50_000)
    action, _ = agent.predict(observation)
    agent = q2pi.load("runs/CartPole-v1-dqn-1")

Nothing heavy is imported until it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "evaluate", "load", "make_envs", "train"]

if TYPE_CHECKING:
    from q2pi.api import evaluate, load, make_envs, train
    from q2pi.errors import UserError


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("q2pi.errors" if name == "UserError" else "q2pi.api"), name)
    raise AttributeError(f"module 'q2pi' has no attribute {name!r}")
