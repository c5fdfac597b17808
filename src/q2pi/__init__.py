"""q2pi: deep reinforcement learning from Q to pi.

    import q2pi

    agent = q2pi.train("dqn", env_id="CartPole-v1", total_timesteps=50_000)
    action, _ = agent.predict(observation)
    agent = q2pi.load("runs/CartPole-v1-dqn-1")

torch, numpy and Gymnasium are imported on first use. q2pi's environments are registered when Gymnasium is imported,
before or after q2pi: `import q2pi, gymnasium; gymnasium.make("q2pi/AliasedVacuum-v0")`.
"""

import sys
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


def _register_envs() -> None:
    import_module("q2pi.envs.registration").register_envs()


class _GymnasiumImportHook:
    """Finder on `sys.meta_path` that registers q2pi's environments once Gymnasium has been imported.

    Importing Gymnasium here instead would make `import q2pi` several times slower.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "gymnasium":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: Any) -> None:
            # Remove the hook here, not in find_spec: a program may look up Gymnasium without importing it.
            sys.meta_path.remove(self)
            del loader.exec_module
            execute(module)
            _register_envs()

        loader.exec_module = exec_module
        return spec


if "gymnasium" in sys.modules:
    _register_envs()
else:
    sys.meta_path.insert(0, _GymnasiumImportHook())
