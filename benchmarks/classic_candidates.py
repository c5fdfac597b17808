"""What `training_speed.py --task classic` times: DQN, PPO and A2C on CartPole, ours, the peer's and a bare torch loop.

The settings are those of the RL Baselines3 Zoo for CartPole-v1, on one thread: DQN with one environment, an MLP of
256 x 256, batches of 64 and 128 updates every 256 steps (here: one every 2 steps); PPO with 8 environments x 32 steps
and 20 epochs of one minibatch of 256; A2C with 8 environments x 5 steps. The bare loop is the least that DQN needs: a
ring of numpy arrays, two networks, Adam; no episode records, no n-step returns, no checkpoints, no statistics.
"""

from collections.abc import Callable
from typing import Any

from candidates import Stopwatch, q2pi, sb3_watched

ENV_ID = "CartPole-v1"
DQN = {"learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000, "learning_starts": 1_000}
WARM_UP = 500
"""Agent steps after learning has begun that are not timed."""
ROLLOUT = 256
"""Agent steps of one rollout of PPO."""


def q2pi_dqn(steps: int, threads: int) -> float:
    """Time our DQN."""
    options = DQN | {
        "hidden": (256, 256),
        "train_frequency": 2,
        "target_network_frequency": 10,
        "num_envs": 1,
        "double": False,
    }
    exploration = {"start_e": 0.04, "end_e": 0.04}
    begin = 1_000 + WARM_UP
    return q2pi(steps, threads, "dqn", begin, 100, ENV_ID, **options, **exploration)


def q2pi_ppo(steps: int, threads: int) -> float:
    """Time our PPO."""
    options = {"num_envs": 8, "num_steps": 32, "update_epochs": 20, "num_minibatches": 1, "clip_value_loss": False}
    return q2pi(steps, threads, "ppo", ROLLOUT, ROLLOUT, ENV_ID, **options)


def q2pi_a2c(steps: int, threads: int) -> float:
    """Time our A2C."""
    return q2pi(steps, threads, "a2c", 400, 40, ENV_ID, num_envs=8, num_steps=5)


def _sb3_envs(threads: int, num_envs: int) -> Any:
    import torch
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(threads)
    return make_vec_env(ENV_ID, n_envs=num_envs, seed=1)


def sb3_dqn(steps: int, threads: int) -> float:
    """Time Stable-Baselines3's DQN; one update every 2 steps, as ours."""
    from stable_baselines3 import DQN as Model

    exploration = {"exploration_initial_eps": 0.04, "exploration_final_eps": 0.04, "target_update_interval": 10}
    every = {"train_freq": 2, "gradient_steps": 1, "policy_kwargs": {"net_arch": [256, 256]}}
    model = Model("MlpPolicy", _sb3_envs(threads, 1), **DQN, **exploration, **every, seed=1, device="cpu")
    return sb3_watched(model, 1_000 + WARM_UP, steps)


def sb3_ppo(steps: int, threads: int) -> float:
    """Time Stable-Baselines3's PPO."""
    from stable_baselines3 import PPO

    settings = {"n_steps": 32, "batch_size": 256, "n_epochs": 20, "gae_lambda": 0.8, "gamma": 0.98, "ent_coef": 0.0}
    model = PPO("MlpPolicy", _sb3_envs(threads, 8), **settings, seed=1, device="cpu")
    return sb3_watched(model, ROLLOUT, steps)


def sb3_a2c(steps: int, threads: int) -> float:
    """Time Stable-Baselines3's A2C."""
    from stable_baselines3 import A2C

    model = A2C("MlpPolicy", _sb3_envs(threads, 8), n_steps=5, ent_coef=0.0, seed=1, device="cpu")
    return sb3_watched(model, 400, steps)


def bare_dqn(steps: int, threads: int) -> float:
    """Time the least that DQN needs."""
    import gymnasium
    import numpy as np
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    env, noise = gymnasium.make(ENV_ID), np.random.default_rng(1)

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2))

    online, target = network(), network()
    target.load_state_dict(online.state_dict())
    optimizer = torch.optim.Adam(online.parameters(), lr=2.3e-3, fused=True)
    size, batch = 100_000, 64
    states, next_states = np.zeros((size, 4), np.float32), np.zeros((size, 4), np.float32)
    actions, rewards, discounts = np.zeros(size, np.int64), np.zeros(size, np.float32), np.zeros(size, np.float32)
    watch = Stopwatch(1_000 + WARM_UP, 1_000 + WARM_UP + steps)
    state, _ = env.reset(seed=1)
    for step in range(1, watch.end + 1):
        if noise.random() < 0.04:
            action = int(noise.integers(2))
        else:
            with torch.inference_mode():
                action = int(online(torch.from_numpy(state)).argmax())
        next_state, reward, terminated, truncated, _ = env.step(action)
        row = (step - 1) % size
        states[row], next_states[row], actions[row] = state, next_state, action
        rewards[row], discounts[row] = reward, 0.0 if terminated else 0.99
        state = env.reset()[0] if terminated or truncated else next_state
        if step > 1_000 and step % 2 == 0:
            rows = noise.integers(min(step, size), size=batch)
            with torch.no_grad():
                best = target(torch.from_numpy(next_states[rows])).amax(dim=1)
                target_q = torch.from_numpy(rewards[rows]) + torch.from_numpy(discounts[rows]) * best
            chosen = online(torch.from_numpy(states[rows])).gather(1, torch.from_numpy(actions[rows])[:, None])[:, 0]
            loss = nn.functional.mse_loss(chosen, target_q)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 10 == 0:
                target.load_state_dict(online.state_dict())
        watch.tick(step)
    return watch.speed()


CLASSIC: dict[str, Callable[[int, int], float]] = {
    "Stable-Baselines3 DQN": sb3_dqn,
    "bare torch loop of DQN": bare_dqn,
    "q2pi DQN": q2pi_dqn,
    "Stable-Baselines3 PPO": sb3_ppo,
    "q2pi PPO": q2pi_ppo,
    "Stable-Baselines3 A2C": sb3_a2c,
    "q2pi A2C": q2pi_a2c,
}
