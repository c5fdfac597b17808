"""Reusing on-policy samples: REINFORCE with k gradient steps per batch, plain, importance-weighted and clipped.

A softmax table in the vacuum's corridor with its cells observed. Each batch of M episodes is used for k gradient steps
of the same size, then new episodes are sampled; every method sees the same number of episodes. The advantage is the
reward-to-go minus its mean in the batch. After the first step the batch no longer comes from the policy:

    plain                 gradient of A log pi: the batch is treated as if it came from the current policy
    importance-weighted   gradient of A pi / pi_old, unbiased for one step's action
    clipped               PPO's clipped surrogate (`equations.losses.clipped_surrogate`), epsilon 0.2

Returns are exact. Sources: Schulman et al. 2017; Sutton and Barto 2018, section 5.5.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from q2pi.envs.aliased_vacuum import AliasedVacuum
from q2pi.equations import exact
from q2pi.equations.exact import MDP, Array
from q2pi.lab.claim import Claim, Data, Rule, Settings
from q2pi.lab.sampling import Episodes, sample
from q2pi.rng import stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAMMA = 0.99
CLIP = 0.2
STEPS = (1, 4, 16, 64)
METHODS = ("plain", "importance-weighted", "clipped")


def improve(theta: Array, episodes: Episodes, method: str, steps: int, rate: float) -> Array:
    """Return the logits [S, A] after `steps` gradient steps of one batch of episodes."""
    import torch

    from q2pi.equations.losses import clipped_surrogate, policy_gradient_loss

    valid = episodes.valid
    returns = episodes.returns(GAMMA)[valid]
    advantage = torch.from_numpy(returns - returns.mean())
    state, action = torch.from_numpy(episodes.state[valid]), torch.from_numpy(episodes.action[valid])
    logits = torch.tensor(theta, requires_grad=True)
    count = valid.shape[1]
    old = torch.log_softmax(logits.detach(), dim=-1)[state, action]
    for _ in range(steps):
        log_prob = torch.log_softmax(logits, dim=-1)[state, action]
        if method == "plain":
            loss = policy_gradient_loss(log_prob, advantage)
        elif method == "clipped":
            loss = clipped_surrogate(log_prob, old, advantage, CLIP)
        else:
            loss = -(log_prob - old).exp() * advantage
        (gradient,) = torch.autograd.grad(loss.sum() / count, logits)
        logits = (logits - rate * gradient).detach().requires_grad_()
    improved: Array = logits.detach().numpy()
    return improved


def learning_curve(mdp: MDP, method: str, steps: int, settings: Settings, noise: np.random.Generator) -> list[float]:
    """Return the exact return before each batch and after the last."""
    theta, curve = np.zeros((mdp.states, mdp.actions)), []
    for _ in range(settings["batches"]):
        policy = exact.softmax_policy(theta)
        curve.append(exact.expected_return(mdp, policy))
        episodes = sample(mdp, policy, settings["batch"], noise, limit=settings["limit"])
        theta = improve(theta, episodes, method, steps, settings["learning_rate"])
    return [*curve, exact.expected_return(mdp, exact.softmax_policy(theta))]


def experiment(seed: int, settings: Settings) -> Data:
    mdp, _ = AliasedVacuum(9).mdp(GAMMA)
    curves = {
        method: [learning_curve(mdp, method, steps, settings, stream(seed, "reuse", steps)) for steps in STEPS]
        for method in METHODS
    }
    return {"curves": curves, "episodes": settings["batch"]}


def _mean(data: Data, method: str, steps: int) -> float:
    """Return the mean return over the learning curve."""
    return float(np.mean(data["curves"][method][STEPS.index(steps)]))


def _last(data: Data, method: str, steps: int) -> float:
    return float(data["curves"][method][STEPS.index(steps)][-1])


def figure(data: Sequence[Data]) -> "Figure":
    from q2pi.lab import figures

    drawn, axes = figures.panels(len(METHODS) + 1)
    for panel, method in zip(axes, METHODS, strict=False):
        for style, steps in enumerate(STEPS):
            rows = [one["curves"][method][style] for one in data]
            episodes = np.arange(len(rows[0])) * data[0]["episodes"]
            figures.curve(panel, episodes, rows, f"k = {steps}", style)
        panel.set_ylim(-1.05, 1.05)
        figures.label(panel, "episodes", "expected discounted return", method, legend=method == METHODS[0])
    for style, method in enumerate(METHODS):
        figures.curve(axes[-1], STEPS, [[_last(one, method, k) for k in STEPS] for one in data], method, style)
    figures.log_x(axes[-1], STEPS)
    axes[-1].set_ylim(-1.05, 1.05)
    figures.label(axes[-1], "gradient steps k per batch", "final return", "after the last batch", legend=True)
    figures.footnote(drawn, f"vacuum's corridor, 9 cells observed, exact returns; {figures.interval_words(len(data))}")
    return drawn


CLAIM = Claim(
    name="sample_reuse",
    sentence="On-policy learning wastes samples: reusing a batch pays if the objective is clipped, and breaks learning "
    "if the batch is treated as on-policy.",
    rules=(
        Rule(
            "mean return of 16 clipped steps per batch minus that of one step",
            "return",
            lambda data: _mean(data, "clipped", 16) - _mean(data, "plain", 1),
            0.05,
        ),
        Rule(
            "final return of 64 clipped steps per batch minus that of 64 plain steps",
            "return",
            lambda data: _last(data, "clipped", 64) - _last(data, "plain", 64),
            0.05,
        ),
        Rule(
            "final return of one step per batch minus that of 64 plain steps",
            "return",
            lambda data: _last(data, "plain", 1) - _last(data, "plain", 64),
            0.0,
        ),
    ),
    experiment=experiment,
    figure=figure,
    quick={"batches": 4, "batch": 4, "learning_rate": 0.5, "limit": 200},
    full={"batches": 100, "batch": 8, "learning_rate": 0.5, "limit": 1_000},
)
