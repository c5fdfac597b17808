"""Every option acts: a table from each option to the test that compares its effect with its definition.

The first part is the table, the second the tests of options that several algorithms share.
"""

import ast
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from q2pi.algorithms import registry
from q2pi.algorithms.base import AgentSpec
from q2pi.algorithms.common.switches import OFF
from q2pi.buffers.episodes import Trajectory
from q2pi.buffers.frames import CompressedFrames, RawFrames
from q2pi.config import RunConfig
from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import Step
from q2pi.networks.output import OutputLayer

TESTS = Path(__file__).parents[1]
HERE = "algorithms/test_options.py"
ACTING = "algorithms/test_dqn_acting.py"
DQN = "algorithms/test_dqn.py"
RAINBOW = "algorithms/test_rainbow.py"
HEADS = "networks/test_rainbow_network.py"
EVALUATION = "evaluation/test_background.py"
Q_LEARNING = "algorithms/test_q_learning.py"
EXPLORATION = {
    **dict.fromkeys(("start_e", "end_e", "exploration_fraction"), f"{HERE}::test_acting_explores_by_the_schedule"),
    "eval_epsilon": f"{HERE}::test_evaluation_explores_by_its_own_rate",
}
SCHEDULE = dict.fromkeys(
    ("exploration_steps", "exploration_delay"), f"{HERE}::test_exploration_may_fall_later_and_over_a_number_of_steps"
)
NETWORK = SCHEDULE | {
    "hidden": f"{HERE}::test_layers_have_the_sizes_asked_for",
    "network": f"{HERE}::test_the_torso_is_the_one_asked_for",
}
POLICY = {
    "normalize_observations": f"{HERE}::test_networks_are_given_normalised_observations",
    "squash": f"{HERE}::test_actions_are_squashed_or_clipped",
    "log_std": f"{HERE}::test_the_initial_standard_deviation",
    "hidden": f"{HERE}::test_layers_have_the_sizes_asked_for",
    "evaluation_deterministic": f"{HERE}::test_evaluation_takes_the_mode_or_samples",
}
A2C = POLICY | {
    "learning_rate": "algorithms/test_a2c.py::test_rmsprop_by_hand",
    "anneal_learning_rate": f"{HERE}::test_the_learning_rate_of_a_rollout_is_that_of_its_first_step",
    "optimizer": "algorithms/test_a2c.py::test_adam_has_the_optimizers_epsilon",
    "optimizer_eps": "algorithms/test_a2c.py::test_rmsprop_by_hand",
    "num_steps": "algorithms/test_a2c.py::test_each_rollout_gives_one_update",
    "gamma": f"{HERE}::test_stored_discounts_are_gamma",
    "gae_lambda": "algorithms/test_a2c.py::test_lambda_zero_gives_one_step_targets",
    "normalize_advantages": "algorithms/test_a2c.py::test_advantages_are_normalised_only_if_asked_for",
    "value_coefficient": "algorithms/test_a2c.py::test_loss_and_gradient_by_hand",
    "entropy_coefficient": "algorithms/test_a2c.py::test_loss_and_gradient_by_hand",
    "max_grad_norm": "algorithms/test_a2c.py::test_the_gradient_is_bounded",
    "normalize_rewards": "algorithms/test_a2c.py::test_rewards_are_scaled_by_one_number_for_the_whole_rollout",
}
PQN = EXPLORATION | {
    **NETWORK,
    "num_steps": "algorithms/test_pqn.py::test_only_a_full_rollout_gives_updates",
    "num_minibatches": "algorithms/test_pqn.py::test_each_epoch_visits_every_step_once_in_its_own_order",
    "update_epochs": "algorithms/test_pqn.py::test_each_epoch_visits_every_step_once_in_its_own_order",
    "learning_rate": "algorithms/test_pqn.py::test_its_optimizer_equals_radam_after_five_updates",
    "anneal_learning_rate": "algorithms/test_pqn.py::test_schedules_are_at_the_step_at_which_the_rollout_began",
    "gamma": f"{HERE}::test_stored_discounts_are_gamma",
    "q_lambda": "algorithms/test_pqn_targets.py::test_targets_of_random_steps_equal_those_of_a_slow_oracle",
    "watkins": "algorithms/test_pqn_targets.py::test_watkins_cuts_the_return_before_an_exploring_action",
    "max_grad_norm": "algorithms/test_pqn.py::test_the_gradient_is_bounded",
}
DQN_OPTIONS = EXPLORATION | {
    **NETWORK,
    "gamma": f"{HERE}::test_replay_sums_n_discounted_rewards",
    "n_step": f"{HERE}::test_replay_sums_n_discounted_rewards",
    "buffer_size": f"{HERE}::test_replay_keeps_the_buffer_size",
    "replay_codec": f"{HERE}::test_images_are_stored_by_the_codec",
    "learning_starts": f"{DQN}::test_updates_due",
    "train_frequency": f"{DQN}::test_updates_due",
    "batch_size": f"{HERE}::test_a_batch_has_the_batch_size",
    "double": f"{DQN}::test_updates_are_those_of_slow_arithmetic",
    "learning_rate": f"{DQN}::test_updates_are_those_of_slow_arithmetic",
    "anneal_learning_rate": f"{DQN}::test_the_learning_rate_falls_linearly_with_the_agent_steps_if_annealed",
    "adam_eps": f"{DQN}::test_gradients_are_clipped_by_their_norm",
    "target_network_frequency": f"{DQN}::test_the_target_network_is_updated_at_its_agent_steps",
    "tau": f"{DQN}::test_the_target_network_is_updated_at_its_agent_steps",
    "loss": f"{DQN}::test_updates_are_those_of_slow_arithmetic",
    "max_grad_norm": f"{DQN}::test_gradients_are_clipped_by_their_norm",
    "initial_weights": "training/test_published_presets.py::test_initial_weights_of_dqn",
    "layer_norm": f"{DQN}::test_layer_norm_makes_a_layer_invariant_to_its_scale",
}
TABLE: dict[str, dict[str, str]] = {
    "run": {
        "algorithm": "test_seams.py::test_an_algorithm_is_one_module",
        "total_timesteps": "training/test_loop.py::test_a_checkpoint_is_due_when_a_multiple_is_reached_or_passed",
        "seed": "training/test_loop.py::test_episodes_follow_from_the_runs_seed",
        "actors": "training/test_actors.py::test_every_step_of_every_actor_is_learned_from_once",
        "actor_steps": "training/test_actors.py::test_with_older_weights_the_run_is_another",
        "num_envs": "training/test_loop.py::test_a_checkpoint_is_due_when_a_multiple_is_reached_or_passed",
        "device": "training/test_loop.py::test_devices",
        "precision": f"{HERE}::test_layers_compute_in_the_precision_asked_for",
        "threads": "training/test_loop.py::test_the_number_of_threads_is_set",
        "checkpoint_frequency": "training/test_loop.py::test_a_checkpoint_is_due_when_a_multiple_is_reached_or_passed",
        "log_frequency": "training/test_loop.py::test_metrics_are_due_by_frequency_and_before_every_checkpoint",
        "evaluation_frequency": "training/test_loop.py::test_evaluations_are_due_and_there_is_one_at_the_end",
        "preset": "reports/comparison/test_read.py::test_a_preset_that_differs_by_environment_is_one_method",
        "from_run": "runs/test_source.py::test_weights_and_statistics_are_those_of_the_source_and_the_rest_is_new",
        "from_digest": "runs/test_source.py::test_a_source_that_has_changed_is_not_used",
        "evaluation_episodes": f"{EVALUATION}::test_runs_of_different_seeds_are_evaluated_on_the_same_episodes",
    },
    "env": {
        "env_id": "envs/test_gymnasium.py::test_observations_rewards_and_ends_are_gymnasiums",
        "protocol": "envs/test_spec.py::test_nature",
        "repeat_action_probability": "envs/test_atari.py::test_the_previous_action_is_repeated_with_the_probability",
        "noop_max": "envs/test_atari.py::test_an_episode_begins_with_no_ops_up_to_the_bound",
        "fire_on_reset": "envs/test_atari.py::test_an_episode_begins_with_fire_if_asked_for",
        "life_loss_discount": f"{ACTING}::test_lost_lives_end_returns_under_nature_and_not_under_machado",
        "clip_rewards": f"{ACTING}::test_rewards_are_clipped_for_learning_and_scores_stay_raw",
        "grayscale": "envs/test_atari.py::test_channels_are_red_green_and_blue",
        "crop": "envs/test_atari.py::test_a_crop_keeps_the_middle_of_the_raw_frame",
        "resize": "envs/test_atari.py::test_our_resize_agrees_with_the_engines",
        "frame_skip": "envs/test_atari.py::test_equals_the_slow_oracle",
        "max_pool": "envs/test_atari.py::test_options_of_the_emulator",
        "stack": f"{ACTING}::test_sampled_observations_are_those_that_were_acted_on",
        "max_frames_per_episode": "envs/test_atari.py::test_the_bound_counts_emulator_frames",
        "full_action_space": "envs/test_atari.py::test_options_of_the_emulator",
        "action_masks": "algorithms/test_action_masks.py::test_masks_are_used_unless_switched_off",
        "env_options": "envs/test_gymnasium.py::test_env_options_reach_the_environment",
        "wrappers": "envs/test_wrappers.py::test_wrappers_are_applied_in_order",
        "obs_type": "envs/test_atari.py::test_memory_is_a_vector_in_0_to_1",
        "mode": "envs/test_atari.py::test_modes_and_difficulties_change_the_game",
        "difficulty": "envs/test_atari.py::test_modes_and_difficulties_change_the_game",
    },
    "a2c": A2C,
    # PPO inherits what acts of these options; what it computes itself has tests of its own.
    "ppo": A2C
    | {
        "num_steps": "algorithms/test_ppo.py::test_a_rollout_gives_epochs_times_minibatches_updates",
        "normalize_advantages": "algorithms/test_ppo.py::test_advantages_are_normalised_in_each_minibatch",
        "value_coefficient": "algorithms/test_ppo.py::test_entropy_and_value_loss_have_their_coefficients",
        "entropy_coefficient": "algorithms/test_ppo.py::test_entropy_and_value_loss_have_their_coefficients",
        "num_minibatches": "algorithms/test_ppo.py::test_each_epoch_shuffles_the_rollout_into_other_minibatches",
        "update_epochs": "algorithms/test_ppo.py::test_a_rollout_gives_epochs_times_minibatches_updates",
        "clip_coefficient": "algorithms/test_ppo.py::test_learning_rate_and_clip_coefficient_fall_linearly",
        "anneal_clip_coefficient": "algorithms/test_ppo.py::test_learning_rate_and_clip_coefficient_fall_linearly",
        "clip_value_loss": "algorithms/test_ppo.py::test_the_value_changes_by_at_most_the_clip",
        "target_kl": "algorithms/test_ppo.py::test_epochs_stop_by_the_mean_kl_of_the_newest_epoch",
    },
    "dqn": DQN_OPTIONS,
    "rainbow": DQN_OPTIONS
    | {
        **dict.fromkeys(("double", "n_step", "munchausen"), f"{RAINBOW}::test_the_loss_is_that_of_slow_arithmetic"),
        **dict.fromkeys(
            ("munchausen_alpha", "munchausen_temperature", "munchausen_floor"),
            f"{RAINBOW}::test_the_loss_is_that_of_slow_arithmetic",
        ),
        **dict.fromkeys(
            ("distribution", "atoms", "v_min", "v_max", "quantiles", "kappa", "tau_samples", "target_tau_samples"),
            f"{RAINBOW}::test_the_loss_is_that_of_slow_arithmetic",
        ),
        "acting_taus": f"{RAINBOW}::test_fractions_are_drawn_for_each_update",
        "cosines": f"{RAINBOW}::test_options_of_the_network_reach_it",
        "dueling": f"{RAINBOW}::test_options_of_the_network_reach_it",
        "width": f"{RAINBOW}::test_options_of_the_network_reach_it",
        "pool": f"{RAINBOW}::test_options_of_the_network_reach_it",
        "noisy_sigma": f"{RAINBOW}::test_options_of_the_network_reach_it",
        "spectral_norm": f"{RAINBOW}::test_each_update_makes_one_power_iteration",
        "prioritized": f"{RAINBOW}::test_the_sampler_is_the_one_asked_for",
        "alpha": f"{RAINBOW}::test_the_sampler_is_the_one_asked_for",
        "beta_start": f"{RAINBOW}::test_beta_rises_linearly_with_the_agent_steps",
        "beta_end": f"{RAINBOW}::test_beta_rises_linearly_with_the_agent_steps",
        "noisy": f"{RAINBOW}::test_acting_follows_the_noise_and_evaluation_the_means",
        "noisy_epsilon": f"{RAINBOW}::test_noise_replaces_epsilon",
    },
    "pqn": PQN,
    "pqn_laptop": PQN
    | {
        "recent_rollouts": "algorithms/test_pqn_laptop.py::test_minibatches_come_from_the_recent_rollouts",
        "ema_decay": "algorithms/test_pqn_laptop.py::test_the_weight_average_follows_the_trained_weights_and_acts",
        "apex_alpha": "algorithms/test_pqn_laptop.py::test_each_environment_has_its_own_exploration_rate",
        "mirror": "algorithms/test_pqn_laptop.py::test_half_of_the_steps_are_learned_from_in_a_mirror",
        "concurrent_updates": "algorithms/test_pqn_laptop.py::test_a_rollout_is_collected_during_the_last_updates",
    },
    "q_learning": EXPLORATION
    | {
        "target": f"{Q_LEARNING}::test_truncation_bootstraps_from_the_final_state_and_termination_does_not",
        "learning_rate": f"{Q_LEARNING}::test_q_learning_by_hand",
        "final_learning_rate": f"{Q_LEARNING}::test_the_learning_rate_falls_to_its_final_value",
        "gamma": f"{Q_LEARNING}::test_q_learning_by_hand",
    },
    "reinforce": POLICY
    | {
        "learning_rate": f"{HERE}::test_reinforce_has_a_learning_rate_for_each_network",
        "episodes_per_update": f"{HERE}::test_reinforce_waits_for_its_episodes",
        "return_kind": "algorithms/test_reinforce.py::test_weights_by_hand",
        "discount_states": "algorithms/test_reinforce.py::test_weights_by_hand",
        "gamma": f"{HERE}::test_reinforce_discounts_returns",
        "baseline": "algorithms/test_reinforce.py::test_weights_by_hand",
        "value_learning_rate": f"{HERE}::test_reinforce_has_a_learning_rate_for_each_network",
        "value_updates": f"{HERE}::test_reinforce_updates_its_value_as_often_as_asked",
        "normalize_returns": "algorithms/test_reinforce.py::test_normalised_weights",
        "entropy_coefficient": "algorithms/test_reinforce.py::test_the_entropy_bonus_is_the_mean_entropy_per_step",
        "max_grad_norm": f"{HERE}::test_reinforce_bounds_the_gradient_of_each_network",
    },
}
"""Owner (the run, its environment, or an algorithm) -> option -> test."""
NOT_YET: set[tuple[str, str]] = set()
"""Options without such a test."""

OWNERS: dict[str, type] = {"run": RunConfig, "env": EnvSpec} | {
    name: registry.find(name).Config for name in registry.names()
}


def functions(file: Path) -> set[str]:
    """Return the names of the tests in a file."""
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("owner", OWNERS)
def test_every_option_has_a_test(owner: str) -> None:
    options = {field.name for field in dataclasses.fields(OWNERS[owner])} - {"env", "hyper"}
    without = {option for option in options if (owner, option) in NOT_YET}
    table = TABLE.get(owner, {})
    assert table.keys() == options - without, "each option has an entry, or is in NOT_YET"
    for option, node in table.items():
        file, _, name = node.partition("::")
        assert (TESTS / file).is_file(), f"{owner}.{option}: {file} does not exist"
        assert name in functions(TESTS / file), f"{owner}.{option}: {file} has no test {name}"


def test_the_table_names_no_owner_that_does_not_exist() -> None:
    assert TABLE.keys() <= OWNERS.keys()
    assert {owner for owner, _ in NOT_YET} <= OWNERS.keys()


# ---- agents ----------------------------------------------------------------------------------------------------------

SMALL: dict[str, dict[str, Any]] = {
    "a2c": {"num_steps": 4},
    "dqn": {"buffer_size": 64, "batch_size": 4, "learning_starts": 0},
    "rainbow": {"buffer_size": 64, "batch_size": 4, "learning_starts": 0} | OFF,
    "ppo": {"num_steps": 4, "num_minibatches": 1},
    "pqn": {"num_steps": 4, "num_minibatches": 1},
    "pqn_laptop": {"num_steps": 4, "num_minibatches": 1},
    "q_learning": {},
    "reinforce": {"episodes_per_update": 2},
}
EXPLORERS = ["dqn", "rainbow", "pqn", "pqn_laptop", "q_learning"]
IMAGES = ["dqn", "rainbow", "pqn", "pqn_laptop"]
POLICIES = ["a2c", "ppo", "reinforce"]
ROLLOUTS = ["a2c", "ppo", "pqn", "pqn_laptop"]
BOX = spaces.Box(np.array([-2.0], np.float32), np.array([6.0], np.float32))


def agent_of(
    name: str,
    num_envs: int = 1,
    shape: tuple[int, ...] = (3,),
    space: Any = None,
    precision: str = "fp32",
    **hyper: Any,
) -> Any:
    """Return an agent with a budget of 1000 agent steps; observations are vectors, images or, for a table, numbers."""
    if name == "q_learning":
        frames = spaces.Box(0, 4, (1,), np.int64)
    elif len(shape) == 3:
        frames = spaces.Box(0, 255, shape, np.uint8)
    else:
        frames = spaces.Box(-np.inf, np.inf, shape, np.float32)
    spec = AgentSpec(
        env=EnvSpec("CartPole-v1", stack=1, clip_rewards=False, life_loss_discount=False),
        num_envs=num_envs,
        frame_space=frames,
        stack=1,
        action_space=space or spaces.Discrete(3),
        total_timesteps=1_000,
        seed=1,
        device=torch.device("cpu"),
        precision=precision,
    )
    module = registry.find(name)
    return module.Agent(module.Config(**(SMALL[name] | hyper)), spec)


def observation_of(agent: Any, value: float = 0.0) -> Any:
    return np.full((agent.spec.num_envs, *agent.spec.observation_shape), value, agent.spec.frame_dtype)


def play(agent: Any, step: int, reward: float = 1.0, terminated: bool = False) -> Any:
    """Act and observe one step of every environment; return the actions sent."""
    envs, observation = agent.spec.num_envs, observation_of(agent)
    action = agent.act(observation, step)
    false = np.zeros(envs, np.bool_)
    result = Step(
        observation, observation, np.full(envs, reward, np.float32), np.full(envs, terminated), false, false, ()
    )
    agent.observe(action, result)
    return action


def torsos(agent: Any) -> dict[str, list[nn.Linear]]:
    """Return the linear layers of each torso by its name."""
    found: dict[str, list[nn.Linear]] = {}
    for network in agent.networks().values():
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Linear) and "torso" in name:
                found.setdefault(f"{id(network)} {name.partition('torso')[0]}", []).append(layer)
    return found


# ---- acting ----------------------------------------------------------------------------------------------------------

MANY = 2_000
"""Environments: a share of actions has a standard deviation of at most 0.012."""


def preferring(name: str, **hyper: Any) -> Any:
    """Return an agent of many environments whose best action is 2."""
    agent = agent_of(name, MANY, **hyper)
    if name == "q_learning":
        agent.q[:, :, 2] = 1.0
        return agent
    with torch.no_grad():
        agent.acting_network.head.weight.zero_()
        agent.acting_network.head.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
    return agent


def explored(action: Any) -> float:
    """Return the exploration rate that actions show: two of three random actions are not the best."""
    return float(np.mean(np.asarray(action) != 2)) * 1.5


@pytest.mark.parametrize("name", EXPLORERS)
def test_acting_explores_by_the_schedule(name: str) -> None:
    """From 0.9 to 0.3 over a fifth of 1000 agent steps."""
    agent = preferring(name, start_e=0.9, end_e=0.3, exploration_fraction=0.2)
    for step, epsilon in ((0, 0.9), (100, 0.6), (200, 0.3), (900, 0.3)):
        assert explored(agent.act(observation_of(agent), step)) == pytest.approx(epsilon, abs=0.06)


@pytest.mark.parametrize("name", IMAGES)
def test_exploration_may_fall_later_and_over_a_number_of_steps(name: str) -> None:
    """From 0.9 to 0.3 over 200 agent steps, after 100 steps at 0.9; the share of the budget then has no effect."""
    rates = {"start_e": 0.9, "end_e": 0.3, "exploration_fraction": 1.0}
    agent = preferring(name, exploration_steps=200, exploration_delay=100, **rates)
    for step, epsilon in ((0, 0.9), (100, 0.9), (200, 0.6), (300, 0.3), (900, 0.3)):
        assert explored(agent.act(observation_of(agent), step)) == pytest.approx(epsilon, abs=0.06)


@pytest.mark.parametrize("name", EXPLORERS)
def test_evaluation_explores_by_its_own_rate(name: str) -> None:
    agent = preferring(name, start_e=0.0, end_e=0.0, eval_epsilon=0.6)
    observation = observation_of(agent)
    assert explored(agent.evaluation_act(observation, np.random.default_rng(0))) == pytest.approx(0.6, abs=0.06)
    greedy = preferring(name, start_e=1.0, end_e=1.0, eval_epsilon=0.0)
    assert explored(greedy.evaluation_act(observation, np.random.default_rng(0))) == 0


@pytest.mark.parametrize("name", EXPLORERS)
def test_a_deterministic_prediction_never_explores(name: str) -> None:
    agent = preferring(name, start_e=1.0, end_e=1.0, eval_epsilon=1.0)
    assert explored(agent.predict(observation_of(agent))[0]) == 0
    assert explored(agent.predict(observation_of(agent), deterministic=False)[0]) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("name", POLICIES)
def test_evaluation_takes_the_mode_or_samples(name: str) -> None:
    """An untrained policy is nearly uniform: samples differ from the mode in two of three cases."""
    for deterministic in (True, False):
        share = {"episodes_per_update": MANY} if name == "reinforce" else {}
        agent = agent_of(name, MANY, evaluation_deterministic=deterministic, **share)
        observation = observation_of(agent, 1.0)
        mode = agent.policy_at(observation).mode().numpy()
        differs = np.mean(agent.evaluation_act(observation, np.random.default_rng(0)) != mode)
        assert differs == 0 if deterministic else differs == pytest.approx(2 / 3, abs=0.05)
        assert (agent.predict(observation)[0] == mode).all()
        assert np.mean(agent.predict(observation, deterministic=False)[0] != mode) == pytest.approx(2 / 3, abs=0.05)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("squash", [True, False])
def test_actions_are_squashed_or_clipped(name: str, squash: bool) -> None:
    """Bounds -2 and 6. The policy's action is stored, the environment's is sent."""
    agent = agent_of(name, 2, space=BOX, squash=squash, log_std=1.5)
    sent = np.concatenate([play(agent, step) for step in range(3)]).ravel()
    if name == "reinforce":
        stored = np.concatenate([[rows["action"][t] for rows in agent.episodes.rows] for t in range(3)]).ravel()
    else:
        stored = agent.rollout.action[:3].ravel()
    expected = -2 + 8 * (1 + np.tanh(stored)) / 2 if squash else np.clip(stored, -2, 6)
    np.testing.assert_allclose(sent, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", POLICIES)
def test_the_initial_standard_deviation(name: str) -> None:
    agent = agent_of(name, space=BOX, log_std=-1.25)
    assert agent.policy_at(observation_of(agent)).log_std.tolist() == [[-1.25]]


@pytest.mark.parametrize("name", POLICIES)
def test_networks_are_given_normalised_observations(name: str) -> None:
    """Observations of mean 3 and standard deviation 2: the number 7 is 2 standard deviations above."""
    agent = agent_of(name, normalize_observations=True)
    agent.observations.update(np.array([[1.0] * 3, [5.0] * 3]))
    seen = []
    first = next(iter(agent.networks().values()))
    getattr(first, "policy", first).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    agent.act(observation_of(agent, 7.0), 0)
    agent.predict(observation_of(agent, 7.0))
    assert len(seen) == 2
    for given in seen:
        torch.testing.assert_close(given, torch.full((1, 3), 2.0))


# ---- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SMALL if name != "q_learning"])
def test_layers_have_the_sizes_asked_for(name: str) -> None:
    agent = agent_of(name, hidden=(7, 5))
    assert [[layer.out_features for layer in layers] for layers in torsos(agent).values()]
    for layers in torsos(agent).values():
        assert [(layer.in_features, layer.out_features) for layer in layers] == [(3, 7), (7, 5)]


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize(("network", "features"), [("nature", 512), ("nips", 256), ("minatar", 128)])
def test_the_torso_is_the_one_asked_for(name: str, network: str, features: int) -> None:
    agent = agent_of(name, shape=(1, 36, 36), network=network)
    assert agent.online.torso.features == features
    assert agent.acting_network.head.in_features == features
    assert agent.config.image_network == network


@pytest.mark.parametrize("name", [name for name in SMALL if name != "q_learning"])
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_layers_compute_in_the_precision_asked_for(name: str, precision: str, dtype: torch.dtype) -> None:
    """When acting: hidden layers in bf16, heads and parameters in float32."""
    agent = agent_of(name, precision=precision, **({"start_e": 0.0, "end_e": 0.0} if name in EXPLORERS else {}))
    network = agent.acting_network if name in IMAGES else next(iter(agent.networks().values()))
    found: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(
                lambda module, inputs, output: found[isinstance(module, OutputLayer)].add(output.dtype)
            )
    agent.act(observation_of(agent), 0)
    assert found == {True: {torch.float32}, False: {dtype}}
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


# ---- what is stored --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROLLOUTS)
def test_stored_discounts_are_gamma(name: str) -> None:
    agent = agent_of(name, gamma=0.25)
    play(agent, 0)
    play(agent, 1, terminated=True)
    assert agent.rollout.discount[:2, 0].tolist() == [0.25, 0]


def dqn_after(steps: int, **hyper: Any) -> Any:
    """Return DQN after `steps` steps with rewards 1, 2, 3, ..."""
    agent = agent_of("dqn", **hyper)
    agent.begin(observation_of(agent))
    for step in range(steps):
        play(agent, step, reward=step + 1)
    return agent


@pytest.mark.parametrize(("n_step", "reward", "discount"), [(1, 1, 0.5), (2, 1 + 1, 0.25), (3, 1 + 1 + 0.75, 0.125)])
def test_replay_sums_n_discounted_rewards(n_step: int, reward: float, discount: float) -> None:
    batch = dqn_after(5, gamma=0.5, n_step=n_step).replay.sample(np.array([0]))
    assert (batch.reward.tolist(), batch.discount.tolist()) == ([reward], [discount])


@pytest.mark.parametrize("size", [8, 20])
def test_replay_keeps_the_buffer_size(size: int) -> None:
    replay = dqn_after(60, buffer_size=size).replay
    assert len(replay) == replay.capacity == size


@pytest.mark.parametrize("size", [3, 9])
def test_a_batch_has_the_batch_size(size: int) -> None:
    agent = dqn_after(20, batch_size=size)
    assert [len(batch.action) for batch in agent.sample(2)] == [size, size]


@pytest.mark.parametrize(("codec", "store"), [("raw", RawFrames), ("zstd", CompressedFrames)])
def test_images_are_stored_by_the_codec(codec: str, store: type) -> None:
    assert type(agent_of("dqn", shape=(1, 36, 36), replay_codec=codec).replay.frames) is store


# ---- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a2c", "ppo"])
@pytest.mark.parametrize("anneal", [True, False])
def test_the_learning_rate_of_a_rollout_is_that_of_its_first_step(name: str, anneal: bool) -> None:
    """Budget 1000, rollouts of 4 steps: the one learned from at step 504 began at step 500."""
    agent = agent_of(name, learning_rate=0.01, anneal_learning_rate=anneal)
    for step in range(500, 504):
        play(agent, step)
    rates = [row["learning_rate"] for row in agent.learn(504)]
    assert rates == pytest.approx([0.005 if anneal else 0.01] * len(rates))
    assert rates


def trajectory(*reward: float) -> Trajectory:
    rows = np.ones((len(reward), 3), np.float32)
    return Trajectory(rows, np.zeros(len(reward), np.int64), np.array(reward, np.float32), rows[0], False)


def test_reinforce_discounts_returns() -> None:
    agent = agent_of("reinforce", gamma=0.5)
    credit = agent.credit([trajectory(1, 2, 4)], torch.ones(3, 3))
    assert credit.returns[:, 0].tolist() == [3, 4, 4]


def test_reinforce_has_a_learning_rate_for_each_network() -> None:
    """Adam's first step moves a weight with a gradient by the learning rate."""
    agent = agent_of("reinforce", learning_rate=0.01, value_learning_rate=0.03, value_updates=1)
    before = {name: [p.detach().clone() for p in net.parameters()] for name, net in agent.networks().items()}
    rows = torch.ones(3, 3)
    agent.update_policy([trajectory(1, 2, 4)], rows, agent.credit([trajectory(1, 2, 4)], rows))
    agent.update_value(rows, torch.tensor([3.0, 4.0, 4.0]))
    for name, rate in (("policy", 0.01), ("value", 0.03)):
        pairs = zip(agent.networks()[name].parameters(), before[name], strict=True)
        moved = max((new - old).abs().max().item() for new, old in pairs)
        assert moved == pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize("updates", [1, 7])
def test_reinforce_updates_its_value_as_often_as_asked(updates: int) -> None:
    agent = agent_of("reinforce", value_updates=updates)
    agent.update_value(torch.ones(3, 3), torch.tensor([3.0, 4.0, 4.0]))
    steps = {int(slots["step"]) for slots in agent.optimizers["value"].state.values()}
    assert steps == {updates}


@pytest.mark.parametrize(("envs", "episodes"), [(1, 2), (2, 2), (2, 6)])
def test_reinforce_waits_for_its_episodes(envs: int, episodes: int) -> None:
    """Episodes of one step: an update after each `episodes` of them, over all environments."""
    agent = agent_of("reinforce", envs, episodes_per_update=episodes)
    made = []
    for step in range(0, 12, envs):
        play(agent, step, terminated=True)
        made.append(len(agent.learn(step + envs)))
    expected = [int((step + envs) % episodes == 0) for step in range(0, 12, envs)]
    assert made == expected


@pytest.mark.parametrize("bound", [0.01, 0.0])
def test_reinforce_bounds_the_gradient_of_each_network(bound: float) -> None:
    agent = agent_of("reinforce", max_grad_norm=bound, value_updates=1)
    rows = torch.ones(3, 3)
    agent.update_policy([trajectory(100, 200, 400)], rows, agent.credit([trajectory(100, 200, 400)], rows))
    agent.update_value(rows, torch.tensor([300.0, 400.0, 400.0]))
    for network in agent.networks().values():
        norm = torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm().item()
        assert norm == pytest.approx(bound, rel=1e-3) if bound else norm > 1


@pytest.mark.parametrize("name", EXPLORERS)
def test_ties_are_broken_at_random_and_in_predictions_by_the_lowest_action(name: str) -> None:
    """Of three equal Q-values, without exploration."""
    agent = preferring(name, start_e=0.0, end_e=0.0, eval_epsilon=0.0)
    if name == "q_learning":
        agent.q[:] = 0.0
    else:
        torch.nn.init.zeros_(agent.acting_network.head.bias)
    observation = observation_of(agent)
    for action in (agent.act(observation, 0), agent.evaluation_act(observation, np.random.default_rng(0))):
        np.testing.assert_allclose(np.bincount(action, minlength=3) / MANY, 1 / 3, atol=0.06)
    assert set(agent.predict(observation)[0]) == {0}
