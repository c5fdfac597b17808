"""Is the expected return a concave function of the policy? Two states, two actions, a softmax policy.

In state 0, `stop` terminates with a small reward and `go` leads to state 1; there one action pays 1 and the other pays
nothing. With the probabilities p and q of `go` and of the paying action, J(p, q) = (1 - p) * r + p * (q + (1 - q) * c).
J contains the product p * q, so it is not concave in the probabilities; softmax makes p and q sigmoids of the logits,
so it is not concave in the logits either.

A function is concave if and only if its value in the middle of every segment is at least the mean of its values at the
two ends. Each seed draws the rewards and many segments, and J is exact (`equations.exact`). One segment below its
chord refutes the claim.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from q2pi.equations import exact
from q2pi.equations.exact import MDP, Array
from q2pi.lab.claim import Claim, Data, Rule, Settings
from q2pi.rng import stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROUNDING = 1e-9
"""A middle this little below its chord may be rounding."""


def two_states(stop_reward: float, consolation: float) -> MDP:
    """Return the MDP of the module's docstring, with gamma 1."""
    transition = np.zeros((2, 2, 2))
    transition[0, 1, 1] = 1
    return MDP(transition, np.array([[stop_reward, 0.0], [consolation, 1.0]]), 1.0, np.array([1.0, 0.0]))


def return_of(mdp: MDP, theta: Array) -> float:
    """Return J of the softmax policy with logits (0, theta[s]) in each state s."""
    logits = np.stack([np.zeros(2), theta], axis=1)
    return exact.expected_return(mdp, exact.softmax_policy(logits))


def return_of_probabilities(mdp: MDP, p: Array) -> float:
    """Return J of the policy that takes the second action with probability p[s] in each state s."""
    return exact.expected_return(mdp, np.stack([1 - p, p], axis=1))


def experiment(seed: int, settings: Settings) -> Data:
    noise = stream(seed, "concave")
    mdp = two_states(*noise.uniform(0, 0.5, size=2).tolist())
    data: Data = {}
    for name, function, low, high in (
        ("logits", return_of, -4.0, 4.0),
        ("probabilities", return_of_probabilities, 0.0, 1.0),
    ):
        ends = noise.uniform(low, high, size=(settings["segments"], 2, 2))
        heights = [function(mdp, (a + b) / 2) - (function(mdp, a) + function(mdp, b)) / 2 for a, b in ends]
        worst = int(np.argmin(heights))
        a, b = ends[worst]
        shares = np.linspace(0, 1, 41)
        data[name] = {
            "height": float(heights[worst]),
            "ends": ends[worst].tolist(),
            "along": [function(mdp, a + share * (b - a)) for share in shares],
        }
    grid = np.linspace(-4, 4, settings["grid"])
    data["surface"] = [[return_of(mdp, np.array([x, y])) for x in grid] for y in grid]
    return data


def figure(data: Sequence[Data]) -> "Figure":
    from q2pi.lab import figures

    drawn, (surface, segment, heights) = figures.panels(3, width=4.0)
    first = data[0]
    grid = np.linspace(-4, 4, len(first["surface"]))
    contours = surface.contour(grid, grid, first["surface"], levels=9, colors="black", linewidths=0.8)
    surface.clabel(contours, fontsize=7)
    (x1, y1), (x2, y2) = first["logits"]["ends"]
    surface.plot([x1, x2], [y1, y2], "o-", color="black", linewidth=2.2)
    figures.label(surface, "logit of go", "logit of the paying action", "J(logits), seed 1; thick: the segment")
    for style, name in enumerate(("logits", "probabilities")):
        along = np.array(first[name]["along"])
        shares = np.linspace(0, 1, len(along))
        figures.curve(segment, shares, [along], f"J along the segment, {name}", style)
        segment.plot([0, 1], [along[0], along[-1]], color="black", linewidth=0.9, linestyle=":")
    figures.label(segment, "place on the segment", "J (expected return)", "below its chord (dotted)", legend=True)
    names = ["logits", "probabilities"]
    figures.bars(heights, names, [[one[name]["height"] for name in names] for one in data])
    heights.axhline(0, color="black", linewidth=0.8)
    figures.label(heights, "parameters", "middle minus chord (return)", "lowest middle of a segment")
    figures.footnote(
        drawn, f"two-state MDP with random rewards, exact returns; right: {figures.interval_words(len(data))}"
    )
    return drawn


CLAIM = Claim(
    name="concave_objective",
    sentence="The objective of policy gradients, the expected return, is a concave function of the parameters.",
    rules=(
        Rule(
            "lowest height of the middle of a segment over its chord, logits",
            "return",
            lambda data: float(data["logits"]["height"]),
            -ROUNDING,
            is_exact=True,
        ),
        Rule(
            "lowest height of the middle of a segment over its chord, probabilities",
            "return",
            lambda data: float(data["probabilities"]["height"]),
            -ROUNDING,
            is_exact=True,
        ),
    ),
    experiment=experiment,
    figure=figure,
    quick={"segments": 50, "grid": 11},
    full={"segments": 1_000, "grid": 41},
)
