"""The variance of the policy gradient with each kind of weight, and what it does to the speed of learning.

The environments are random MDPs with a reward at every step (`lab.sampling.random_mdp`), one for each seed. If only
the last step had a reward, the whole return would equal the reward-to-go up to discounting. Every estimate has the form

    g = mean over M episodes of sum over t of weight_t * d log pi(a_t | s_t) / d theta

and differs in the weight: the whole return, the reward-to-go, the reward-to-go minus the mean of the other episodes,
minus the exact value V(s), and generalized advantages. The weights come from the library: `reinforce.weights` and
`returns.generalized_advantages`. The variance is the sum of the variances of all components of g, relative to the
squared norm of the exact gradient. The learning curves make the same number of gradient steps of the same size from
the uniform policy, each from M new episodes; their returns are exact. Sources: Williams 1992; Schulman et al. 2016.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from q2pi.equations import exact
from q2pi.equations.exact import MDP, Array
from q2pi.lab.claim import Claim, Data, Rule, Settings
from q2pi.lab.sampling import Episodes, episode_gradients, random_mdp, sample
from q2pi.rng import stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAMMA = 0.99
KINDS = ("whole return", "reward-to-go", "batch mean", "exact value", "GAE 0.9")
LABELS = ("whole\nreturn", "reward\nto-go", "- batch\nmean", "- exact\nvalue", "GAE\n0.9")


def weights(kind: str, episodes: Episodes, value: Array) -> Array:
    """Return the weight [T, M] of each step's score function.

    Args:
        kind: one of KINDS.
        episodes: M episodes.
        value: [S] exact values of the policy.
    """
    import torch

    from q2pi.algorithms.configs.reinforce import Config
    from q2pi.algorithms.reinforce import Credit
    from q2pi.algorithms.reinforce import weights as reinforce_weights
    from q2pi.equations.returns import generalized_advantages

    here = torch.from_numpy(np.where(episodes.valid, value[episodes.state], 0.0))
    if kind == "GAE 0.9":
        following = torch.cat([here[1:], torch.zeros_like(here[:1])])
        discount = GAMMA * torch.from_numpy((episodes.valid & ~episodes.ended).astype(np.float64))
        ended = torch.from_numpy(episodes.ended | ~episodes.valid)
        reward = torch.from_numpy(episodes.reward)
        advantage = generalized_advantages(reward, discount, here, following, ended, 0.9)
        discounted: Array = GAMMA ** np.arange(len(here))[:, None] * advantage.numpy()
        return discounted
    config = Config(
        gamma=GAMMA,
        return_kind="whole" if kind == "whole return" else "to_go",
        baseline={"batch mean": "batch_mean", "exact value": "value"}.get(kind, "none"),  # type: ignore[arg-type]
        discount_states=True,
        normalize_returns=False,
    )
    credit = Credit(torch.from_numpy(episodes.returns(GAMMA)), here, torch.from_numpy(episodes.valid))
    found: Array = reinforce_weights(credit, config).numpy()
    return found


def gradients(kind: str, mdp: MDP, policy: Array, batch: int, groups: int, noise: np.random.Generator) -> Array:
    """Return `groups` independent estimates [groups, S, A], each from `batch` episodes."""
    value = exact.policy_value(mdp, policy)[0]
    found = []
    for _ in range(groups):
        episodes = sample(mdp, policy, batch, noise)
        weight = weights(kind, episodes, value)
        found.append(episode_gradients(policy, episodes.state, episodes.action, weight, episodes.valid).mean(axis=0))
    return np.stack(found)


def learning_curve(kind: str, mdp: MDP, settings: Settings, noise: np.random.Generator) -> list[float]:
    """Return the exact return before each gradient step and after the last."""
    theta, curve = np.zeros((mdp.states, mdp.actions)), []
    for _ in range(settings["updates"]):
        policy = exact.softmax_policy(theta)
        curve.append(exact.expected_return(mdp, policy))
        theta = theta + settings["learning_rate"] * gradients(kind, mdp, policy, settings["batch"], 1, noise)[0]
    return [*curve, exact.expected_return(mdp, exact.softmax_policy(theta))]


def experiment(seed: int, settings: Settings) -> Data:
    noise = stream(seed, "gradient variance")
    mdp = random_mdp(8, 3, 3, GAMMA, noise)
    theta = noise.normal(0, 0.5, size=(mdp.states, mdp.actions))
    policy = exact.softmax_policy(theta)
    norm = np.square(exact.softmax_gradient(mdp, theta, np.arange(mdp.states))).sum()
    variance: dict[str, list[float]] = {}
    for kind in KINDS:
        found = [gradients(kind, mdp, policy, size, settings["groups"], noise) for size in settings["sizes"]]
        variance[kind] = [float(one.var(axis=0).sum() / norm) for one in found]
    return {
        "sizes": list(settings["sizes"]),
        "variance": variance,
        "curves": {kind: learning_curve(kind, mdp, settings, noise) for kind in KINDS},
    }


def _ratio(data: Data, first: str, second: str) -> float:
    """Return log10 of the variance of one kind over that of another, mean over the numbers of episodes."""
    return float(np.mean(np.log10(np.array(data["variance"][first]) / np.array(data["variance"][second]))))


def _faster(data: Data) -> float:
    """Return the mean return over the learning curve with the exact value minus that with the whole return."""
    return float(np.mean(data["curves"]["exact value"]) - np.mean(data["curves"]["whole return"]))


def figure(data: Sequence[Data]) -> "Figure":
    from q2pi.lab import figures

    drawn, (kinds, sizes, curves) = figures.panels(3, width=4.2)
    figures.bars(kinds, LABELS, [[one["variance"][kind][-1] for kind in KINDS] for one in data])
    kinds.set_yscale("log")
    episodes = data[0]["sizes"]
    figures.label(kinds, "weight", "variance / |gradient|^2", f"variance with {episodes[-1]} episodes")
    updates = np.arange(len(data[0]["curves"][KINDS[0]]))
    for style, kind in enumerate(KINDS):
        figures.curve(sizes, episodes, [one["variance"][kind] for one in data], kind, style)
        if kind != KINDS[0]:
            # Paired: the spread between the random MDPs would hide every difference.
            rows = [np.subtract(one["curves"][kind], one["curves"][KINDS[0]]) for one in data]
            figures.curve(curves, updates, rows, kind, style)
    curves.axhline(0, color="black", linewidth=0.8)
    figures.log_x(sizes, episodes)
    sizes.set_yscale("log")
    figures.label(sizes, "episodes M per estimate", "variance / |gradient|^2", "more episodes", legend=True)
    figures.label(curves, "gradient steps", "return minus that with whole return", "learning with each weight")
    figures.footnote(drawn, f"random MDPs, 8 states, 3 actions, exact returns; {figures.interval_words(len(data))}")
    return drawn


CLAIM = Claim(
    name="gradient_variance",
    sentence="Variance is the price of policy gradients: the reward-to-go, a baseline and generalized advantages each "
    "lower it, and learning gets faster.",
    rules=(
        Rule(
            "variance of the whole return over that of the reward-to-go",
            "powers of ten",
            lambda data: _ratio(data, "whole return", "reward-to-go"),
            0.0,
        ),
        Rule(
            "variance of the reward-to-go over that with the exact value as a baseline",
            "powers of ten",
            lambda data: _ratio(data, "reward-to-go", "exact value"),
            0.0,
        ),
        Rule(
            "variance with the exact value as a baseline over that of generalized advantages",
            "powers of ten",
            lambda data: _ratio(data, "exact value", "GAE 0.9"),
            0.0,
        ),
        Rule("mean return of learning with the exact value minus that with the whole return", "return", _faster, 0.0),
    ),
    experiment=experiment,
    figure=figure,
    quick={"sizes": (2, 4), "groups": 10, "updates": 5, "batch": 4, "learning_rate": 0.05},
    full={"sizes": (2, 8, 32), "groups": 400, "updates": 200, "batch": 8, "learning_rate": 0.05},
)
