"""Environments: a specification in, a vector of N seeded games out.

games = make_envs(EnvSpec("SpaceInvaders"), num_envs=8, seed=0)
observation = games.reset()                 # [8, 4, 84, 84] uint8
games.send(actions)                         # returns at once
step = games.recv()                         # step.next_observation, step.reward, step.terminated, ...
"""

from typing import TYPE_CHECKING

from q2pi.envs.spec import SPACE_INVADERS_CROP, EnvSpec, is_atari, resolve
from q2pi.errors import UserError

if TYPE_CHECKING:
    from q2pi.envs.vector import Engine, VectorEnv

__all__ = ["SPACE_INVADERS_CROP", "EnvSpec", "is_atari", "make_envs", "resolve"]


def make_envs(spec: EnvSpec, num_envs: int, seed: int, *, stream: str = "episode") -> "VectorEnv":
    """Return N games whose episodes depend on nothing but the specification, the seed and the actions.

    Args:
        spec: the environment and its rules; it is resolved here.
        num_envs: N.
        seed: the run's seed.
        stream: the name of the stream of episode seeds; training and evaluation take different ones.

    Raises:
        UserError: a mistake in the specification, or fewer than one game.
    """
    from q2pi import rng
    from q2pi.envs.vector import VectorEnv

    if num_envs < 1:
        raise UserError(f"--num-envs {num_envs} is less than 1")
    spec = resolve(spec)
    return VectorEnv(_engine(spec, num_envs), spec, lambda game, number: rng.derive(seed, stream, game, number))


def _engine(spec: EnvSpec, num_envs: int) -> "Engine":
    if is_atari(spec.env_id):
        from q2pi.envs.atari import AtariEngine

        return AtariEngine(spec, num_envs)
    from q2pi.envs.gymnasium import GymnasiumEngine

    return GymnasiumEngine(spec, num_envs)
