"""Local optima: a tempting goal beside the start and a better one at the end of a corridor.

Left of the start the episode terminates with reward 0.5, at the other end of the corridor with reward 1, which is worth
0.70 from the start (`lab.environments.tempting_chain`). The uniform policy seldom reaches the far end: for it, turning
away from the small reward is worth less than taking it, so the gradient points there. Each seed starts many runs of a
tabular softmax policy from random logits and of a Q-table from 0, with the same number of episodes; a run ends in the
tempting goal if its final greedy policy goes there. The tables are updated here, all runs at once, since the claim is
about a toy: REINFORCE with reward-to-go and an entropy bonus, and Q-learning with a rate of exploration that falls
linearly.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from q2pi.equations import exact
from q2pi.equations.exact import MDP, Array
from q2pi.lab.claim import Claim, Data, Rule, Settings
from q2pi.lab.sampling import sample
from q2pi.rng import stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE, TEMPTATION = 8, 0.5
ENTROPY = (0.0, 0.01, 0.1)
RATES = (0.2, 1.0, 5.0)


def reinforce(mdp: MDP, settings: Settings, rate: float, entropy: float, noise: np.random.Generator) -> Array:
    """Return the final policies [R, S, A] of R runs of REINFORCE with a softmax table.

    Args:
        mdp: the environment.
        settings: runs R, updates, and episodes per update.
        rate: learning rate.
        entropy: weight of the entropy of the policy in the visited states.
        noise: source of randomness.
    """
    runs, batch = settings["runs"], settings["batch"]
    theta = noise.normal(0, 0.5, size=(runs, mdp.states, mdp.actions))
    run_of = np.repeat(np.arange(runs), batch)
    for _ in range(settings["updates"]):
        policy = exact.softmax_policy(theta)
        episodes = sample(mdp, policy[run_of], runs * batch, noise, limit=settings["limit"])
        returns = episodes.returns(mdp.gamma)
        log_policy = np.log(np.maximum(policy, 1e-300))
        toward_uniform = policy * (-(policy * log_policy).sum(-1, keepdims=True) - log_policy)  # -d sum(pi log pi)
        step = np.zeros_like(theta)
        for t in range(len(returns)):
            valid, state = episodes.valid[t], episodes.state[t]
            scores = np.eye(mdp.actions)[episodes.action[t]] - policy[run_of, state]
            gradient = returns[t][:, None] * scores + entropy * toward_uniform[run_of, state]
            np.add.at(step, (run_of[valid], state[valid]), gradient[valid])
        theta = theta + rate / batch * step
    return exact.softmax_policy(theta)


def q_learning(mdp: MDP, settings: Settings, noise: np.random.Generator) -> Array:
    """Return the greedy policies [R, S, A] of R Q-tables after the same number of episodes, epsilon from 1 to 0.05."""
    runs, total = settings["runs"], settings["updates"] * settings["batch"]
    q = np.zeros((runs, mdp.states, mdp.actions))
    rows = np.arange(runs)
    for episode in range(total):
        epsilon = 1 + (0.05 - 1) * min(1.0, episode / (0.8 * total))
        state, alive = np.zeros(runs, np.int64), np.ones(runs, np.bool_)
        for _ in range(settings["limit"]):
            greedy = (q[rows, state] + 1e-9 * noise.random((runs, mdp.actions))).argmax(axis=1)
            action = np.where(noise.random(runs) < epsilon, noise.integers(mdp.actions, size=runs), greedy)
            following = mdp.transition[state, action]
            next_state, continues = following.argmax(axis=1), following.sum(axis=1) > 0
            target = mdp.reward[state, action] + mdp.gamma * continues * q[rows, next_state].max(axis=1)
            error = np.where(alive, target - q[rows, state, action], 0.0)
            q[rows, state, action] += 0.2 * error
            alive &= continues
            state = np.where(alive, next_state, 0)
            if not alive.any():
                break
    policies: Array = np.eye(mdp.actions)[q.argmax(axis=-1)]
    return policies


def tempted(policies: Array) -> float:
    """Return the share of policies [R, S, A] whose likeliest first action goes to the tempting goal."""
    return float((policies[:, 0].argmax(axis=-1) == 0).mean())


def experiment(seed: int, settings: Settings) -> Data:
    from q2pi.lab.environments import tempting_chain

    mdp, noise = tempting_chain(SIZE, TEMPTATION), stream(seed, "local optima")
    shares = [[tempted(reinforce(mdp, settings, rate, entropy, noise)) for rate in RATES] for entropy in ENTROPY]
    return {"reinforce": shares, "q_learning": tempted(q_learning(mdp, settings, noise))}


def _without_bonus(data: Data) -> float:
    return float(np.mean(data["reinforce"][0]))


def _with_bonus(data: Data) -> float:
    return float(np.mean(data["reinforce"][-1]))


def figure(data: Sequence[Data]) -> "Figure":
    from q2pi.lab import figures

    drawn, (shares, methods) = figures.panels(2)
    for style, entropy in enumerate(ENTROPY):
        rows = [one["reinforce"][style] for one in data]
        figures.curve(shares, RATES, rows, f"entropy bonus {entropy:g}", style)
    figures.log_x(shares, RATES)
    shares.set_ylim(-0.03, 1.03)
    figures.label(shares, "learning rate", "tempting goal (share of runs)", "REINFORCE", legend=True)
    names = ["REINFORCE", f"REINFORCE,\nbonus {ENTROPY[-1]:g}", "Q-learning"]
    rows = [[_without_bonus(one), _with_bonus(one), one["q_learning"]] for one in data]
    figures.bars(methods, names, rows)
    figures.label(methods, "method", "tempting goal (share of runs)", "mean over learning rates")
    figures.footnote(
        drawn, f"corridor of {SIZE} states, rewards {TEMPTATION} and 1; {figures.interval_words(len(data))}"
    )
    return drawn


CLAIM = Claim(
    name="local_optima",
    sentence="Policy gradients end in local optima where Q-learning with exploration does not; an entropy bonus helps.",
    rules=(
        Rule("share of REINFORCE's runs that end in the tempting goal", "", _without_bonus, 0.25),
        Rule(
            "share of REINFORCE's runs in the tempting goal minus that of Q-learning",
            "",
            lambda data: _without_bonus(data) - float(data["q_learning"]),
            0.1,
        ),
        Rule(
            "share of REINFORCE's runs in the tempting goal minus that with the largest entropy bonus",
            "",
            lambda data: _without_bonus(data) - _with_bonus(data),
            0.1,
        ),
    ),
    experiment=experiment,
    figure=figure,
    quick={"runs": 4, "updates": 10, "batch": 4, "limit": 60},
    full={"runs": 50, "updates": 400, "batch": 8, "limit": 200},
)
