"""What `training_speed.py` times: ours and the peers', each a function from steps and threads to agent steps a second.

All of a task train the same algorithm on Space Invaders with the Nature network. Time is taken between two agent-step
counts, after learning has begun and warmed up. Peers are imported where they are used: they have their own environment.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

STARTS, WARM_UP, BUFFER, EPSILON = 1_000, 400, 10_000, 0.05
ROLLOUT = 8 * 128
"""Agent steps of one rollout of PPO: 8 games, 128 steps."""


class Stopwatch:
    """Agent steps per second between step `begin` and step `end`; call `tick` at every step."""

    def __init__(self, begin: int, end: int) -> None:
        self.begin, self.end = begin, end
        self.times: dict[int, float] = {}

    def tick(self, step: int) -> None:
        """Note the time of the two steps that count."""
        if step in (self.begin, self.end):
            self.times[step] = time.perf_counter()

    def speed(self) -> float:
        """Return agent steps per second."""
        return (self.end - self.begin) / (self.times[self.end] - self.times[self.begin])


def q2pi(
    steps: int,
    threads: int,
    algorithm: str,
    begin: int,
    every: int,
    env_id: str = "SpaceInvaders",
    preset: str | None = None,
    **options: Any,
) -> float:
    """Time our loop, which yields `Progress` every `every` steps."""
    from q2pi.config import override, resolve
    from q2pi.training.events import Progress
    from q2pi.training.loop import run
    from q2pi.training.presets import configure

    quiet = {"checkpoint_frequency": 0, "evaluation_episodes": 0, "evaluation_frequency": 0}
    config, _ = configure(algorithm, env_id, preset)
    config = override(
        config, quiet | {"total_timesteps": begin + steps, "threads": threads, "log_frequency": every} | options
    )
    watch = Stopwatch(begin, begin + steps)
    for event in run(resolve(config)):
        if isinstance(event, Progress):
            watch.tick(event.step)
    return watch.speed()


def q2pi_dqn(steps: int, threads: int, num_envs: int, precision: str) -> float:
    """Time our DQN; not Double, as the peers' is not."""
    options = {"num_envs": num_envs, "precision": precision, "double": False, "start_e": EPSILON, "end_e": EPSILON}
    replay = {"learning_starts": STARTS, "buffer_size": BUFFER, "replay_codec": "raw"}
    return q2pi(steps, threads, "dqn", STARTS + WARM_UP, 200, preset="nature", **options, **replay)


def q2pi_ppo(steps: int, threads: int, precision: str) -> float:
    """Time our PPO, 8 games."""
    return q2pi(steps, threads, "ppo", ROLLOUT, ROLLOUT, preset="quick", num_envs=8, precision=precision)


def sb3_watched(model: Any, begin: int, steps: int) -> float:
    from stable_baselines3.common.callbacks import BaseCallback

    watch = Stopwatch(begin, begin + steps)

    class Ticks(BaseCallback):
        def _on_step(self) -> bool:
            watch.tick(self.num_timesteps)
            return True

    model.learn(begin + steps, callback=Ticks())
    return watch.speed()


def _sb3_games(threads: int, num_envs: int) -> Any:
    import ale_py
    import gymnasium
    import torch
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    gymnasium.register_envs(ale_py)
    torch.set_num_threads(threads)
    return VecFrameStack(make_atari_env("SpaceInvadersNoFrameskip-v4", n_envs=num_envs, seed=1), n_stack=4)


def sb3_dqn(steps: int, threads: int, device: str = "cpu") -> float:
    """Time Stable-Baselines3's DQN, one game."""
    from stable_baselines3 import DQN

    settings = {"learning_rate": 1e-4, "batch_size": 32, "train_freq": 4, "gradient_steps": 1}
    exploration = {"exploration_initial_eps": EPSILON, "exploration_final_eps": EPSILON}
    replay = {"buffer_size": BUFFER, "learning_starts": STARTS, "target_update_interval": 1_000}
    games = _sb3_games(threads, 1)
    model = DQN("CnnPolicy", games, **settings, **exploration, **replay, seed=1, device=device)
    return sb3_watched(model, STARTS + WARM_UP, steps)


def sb3_ppo(steps: int, threads: int) -> float:
    """Time Stable-Baselines3's PPO with the RL Zoo's settings for Atari, 8 games."""
    from stable_baselines3 import PPO

    settings = {"n_steps": 128, "n_epochs": 4, "batch_size": 256, "learning_rate": 2.5e-4, "clip_range": 0.1}
    model = PPO("CnnPolicy", _sb3_games(threads, 8), **settings, vf_coef=0.5, ent_coef=0.01, seed=1, device="cpu")
    # The callback sees a rollout's last step before its update, so a span of whole rollouts holds as many updates.
    return sb3_watched(model, ROLLOUT, steps)


def cleanrl_dqn(steps: int, threads: int) -> float:
    """Time CleanRL's single-file DQN for Atari, its structure in our words: one game, Stable-Baselines3's buffer."""
    import gymnasium as gym
    import numpy as np
    import torch
    from stable_baselines3.common.buffers import ReplayBuffer
    from torch import nn

    envs = gym.vector.SyncVectorEnv([_cleanrl_game], autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
    torch.set_num_threads(threads)
    actions = int(envs.single_action_space.n)

    def network() -> nn.Module:
        convolutions = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU()]
        convolutions += [nn.Conv2d(64, 64, 3, 1), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*convolutions, nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, actions))

    main, target = network(), network()
    target.load_state_dict(main.state_dict())
    optimizer = torch.optim.Adam(main.parameters(), lr=1e-4)
    replay = ReplayBuffer(
        BUFFER, envs.single_observation_space, envs.single_action_space, "cpu", handle_timeout_termination=False
    )
    watch = Stopwatch(STARTS + WARM_UP, STARTS + WARM_UP + steps)
    noise = np.random.default_rng(1)
    seen, _ = envs.reset(seed=1)
    for step in range(1, watch.end + 1):
        if noise.random() < EPSILON:
            action = np.array([envs.single_action_space.sample()])
        else:
            with torch.no_grad():
                action = main(torch.as_tensor(seen) / 255.0).argmax(dim=1).numpy()
        following, reward, terminated, truncated, infos = envs.step(action)
        true_following = following.copy()
        for game in np.flatnonzero(truncated):
            true_following[game] = infos["final_obs"][game]
        replay.add(seen, true_following, action, reward, terminated, [infos])
        seen = following
        if step > STARTS and step % 4 == 0:
            batch = replay.sample(32)
            with torch.no_grad():
                best = target(batch.next_observations / 255.0).max(dim=1).values
                target_q = batch.rewards.flatten() + 0.99 * best * (1 - batch.dones.flatten())
            chosen = main(batch.observations / 255.0).gather(1, batch.actions).squeeze()
            loss = nn.functional.mse_loss(target_q, chosen)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 1_000 == 0:
                target.load_state_dict(main.state_dict())
        watch.tick(step)
    return watch.speed()


def _cleanrl_game() -> Any:
    import ale_py
    import gymnasium as gym
    from stable_baselines3.common import atari_wrappers as wrap

    gym.register_envs(ale_py)
    game = gym.wrappers.RecordEpisodeStatistics(gym.make("SpaceInvadersNoFrameskip-v4"))
    game = wrap.MaxAndSkipEnv(wrap.NoopResetEnv(game, noop_max=30), skip=4)
    game = wrap.ClipRewardEnv(wrap.FireResetEnv(wrap.EpisodicLifeEnv(game)))
    game = gym.wrappers.GrayscaleObservation(gym.wrappers.ResizeObservation(game, (84, 84)))
    return gym.wrappers.FrameStackObservation(game, 4)


ATARI: dict[str, dict[str, Callable[[int, int], float]]] = {
    "dqn": {
        "Stable-Baselines3 DQN, 1 game": sb3_dqn,
        "CleanRL's DQN loop, 1 game": cleanrl_dqn,
        "q2pi DQN, fp32, 1 game": partial(q2pi_dqn, num_envs=1, precision="fp32"),
        "q2pi DQN, fp32, 8 games": partial(q2pi_dqn, num_envs=8, precision="fp32"),
        "q2pi DQN, bf16, 8 games": partial(q2pi_dqn, num_envs=8, precision="bf16"),
    },
    "ppo": {
        "Stable-Baselines3 PPO, 8 games": sb3_ppo,
        "q2pi PPO, fp32, 8 games": partial(q2pi_ppo, precision="fp32"),
        "q2pi PPO, bf16, 8 games": partial(q2pi_ppo, precision="bf16"),
    },
}
"""For each task its candidates."""
