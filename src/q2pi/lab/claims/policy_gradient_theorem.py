"""The policy gradient, estimated from sampled episodes alone, against the exact gradient.

The environment is the aliased vacuum of five cells, whose transition probabilities are known, so the exact gradient of
the expected discounted return is a linear solve (`equations.exact.softmax_gradient`). The estimate sees only
observations, actions and rewards:

    g = mean over M episodes of sum over t of gamma^t * G_t * d log policy(a_t | o_t) / d theta

Each seed draws a policy and a pool of episodes. The error of M episodes is the root mean square of |g - exact| over
groups of M episodes, relative to |exact|. An unbiased estimate has an error proportional to M^(-1/2). Source: Sutton et
al. 2000, "Policy Gradient Methods for Reinforcement Learning with Function Approximation".
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from q2pi.envs.aliased_vacuum import AliasedVacuum
from q2pi.equations import exact
from q2pi.lab.claim import Claim, Data, Rule, Settings
from q2pi.lab.sampling import episode_gradients, sample
from q2pi.rng import stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAMMA = 0.99
LEAST_GROUPS = 16
"""Groups over which an error is averaged at least."""


def experiment(seed: int, settings: Settings) -> Data:
    noise = stream(seed, "policy gradient")
    mdp, observation = AliasedVacuum(5).mdp(GAMMA)
    theta = noise.normal(0, 0.5, size=(int(observation.max()) + 1, 4))
    policy = exact.softmax_policy(theta)
    gradient = exact.softmax_gradient(mdp, theta, observation)
    pool = []
    for _ in range(settings["episodes"] // settings["batch"]):
        episodes = sample(mdp, exact.policy_over_states(policy, observation), settings["batch"], noise)
        weight = GAMMA ** np.arange(len(episodes.reward))[:, None] * episodes.returns(GAMMA)
        seen = observation[episodes.state]
        pool.append(episode_gradients(policy, seen, episodes.action, weight, episodes.valid))
    gradients = np.concatenate(pool)
    sizes = [2**power for power in range(0, 21, 2) if 2**power * LEAST_GROUPS <= len(gradients)]
    norm = float(np.linalg.norm(gradient))
    errors = []
    for size in sizes:
        groups = gradients[: len(gradients) // size * size].reshape(-1, size, *gradient.shape).mean(axis=1)
        errors.append(float(np.sqrt(np.square(groups - gradient).sum(axis=(1, 2)).mean())) / norm)
    slope = float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])
    bias = float(np.linalg.norm(gradients.mean(axis=0) - gradient)) / norm
    return {"episodes": sizes, "error": errors, "slope": slope, "error_of_all": bias}


def figure(data: Sequence[Data]) -> "Figure":
    from q2pi.lab import figures

    drawn, (errors, slopes) = figures.panels(2)
    sizes = data[0]["episodes"]
    figures.curve(errors, sizes, [one["error"] for one in data], "sampled gradient", 0)
    first = float(np.mean([one["error"][0] for one in data]))
    errors.plot(sizes, first / np.sqrt(sizes), color="black", linewidth=1, linestyle=":", label="slope -1/2")
    figures.log_x(errors, sizes)
    errors.set_yscale("log")
    figures.label(
        errors, "episodes M", "relative error of the gradient", "error against the exact gradient", legend=True
    )
    figures.bars(slopes, ["slope"], [[one["slope"]] for one in data])
    slopes.axhline(-0.5, color="black", linestyle=":", linewidth=1)
    slopes.set_xlim(-1.5, 1.5)
    figures.label(slopes, "", "slope of log error against log M", "dotted: -1/2")
    figures.footnote(drawn, f"aliased vacuum, 5 cells, random softmax policies; {figures.interval_words(len(data))}")
    return drawn


CLAIM = Claim(
    name="policy_gradient_theorem",
    sentence="The gradient of the expected return can be estimated from episodes alone, without a model of the "
    "environment: the error falls with the square root of their number.",
    rules=(
        Rule(
            "distance of the slope of log error against log episodes from -1/2",
            "",
            lambda data: abs(float(data["slope"]) + 0.5),
            0.05,
            "below",
        ),
        Rule("relative error with all episodes", "", lambda data: float(data["error_of_all"]), 0.1, "below"),
    ),
    experiment=experiment,
    figure=figure,
    quick={"episodes": 1_024, "batch": 1_024},
    full={"episodes": 131_072, "batch": 8_192},
)
