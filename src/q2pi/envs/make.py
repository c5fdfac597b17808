"""Environments: a specification in, N seeded environments out.

envs = make_envs(EnvSpec("SpaceInvaders"), num_envs=8, seed=0)
observation = envs.reset()                  # [8, 4, 84, 84] uint8
envs.send(actions)                          # returns at once
step = envs.recv()                          # step.next_observation, step.reward, step.terminated, ...
"""

from q2pi import rng
from q2pi.envs.interface import Engine
from q2pi.envs.spec import EnvSpec, is_atari, resolve
from q2pi.envs.vector import VectorEnv
from q2pi.errors import UserError


def make_envs(spec: EnvSpec, num_envs: int, seed: int, *, stream: str = "episode") -> VectorEnv:
    """Return N environments whose episodes depend only on the specification, the seed and the actions.

    Args:
        spec: the environment and its rules; it is resolved here.
        num_envs: N.
        seed: the run's seed.
        stream: name of the random stream of episode seeds; training and evaluation use different ones.

    Raises:
        UserError: a mistake in the specification, or fewer than one environment.
    """
    if num_envs < 1:
        raise UserError(f"--num-envs {num_envs} is less than 1")
    spec = resolve(spec)

    def seed_of(env_index: int, episode_index: int) -> int:
        return rng.derive(seed, stream, env_index, episode_index)

    return VectorEnv(_engine(spec, num_envs), spec, seed_of)


def _engine(spec: EnvSpec, num_envs: int) -> Engine:
    # Imported here so that a specification can be read without loading Gymnasium or ALE.
    if is_atari(spec.env_id):
        from q2pi.envs.atari import AtariEngine

        return AtariEngine(spec, num_envs)
    from q2pi.envs.gymnasium import GymnasiumEngine

    return GymnasiumEngine(spec, num_envs)
