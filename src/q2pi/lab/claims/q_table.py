"""Can a Q-table hold a screen? Distinct states met, and met again, under random actions.

Taxi-v3 has 500 states. Space Invaders is shown raw (210 x 160, colour), gray, at 84 x 84, and as a stack of four such
frames, always for the same episodes: an episode is a pure function of its seed and its actions. A state is the
observation's bytes. A table over the states met needs their bytes as keys and one float64 per action; the Nature
network has 1.69 million parameters of 4 bytes for any number of states.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from q2pi.lab.claim import Claim, Data, Rule, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCREENS: dict[str, dict[str, Any]] = {
    "raw": {"grayscale": False, "resize": (210, 160), "stack": 1},
    "gray": {"grayscale": True, "resize": (210, 160), "stack": 1},
    "84x84": {"grayscale": True, "resize": (84, 84), "stack": 1},
    "84x84, stack 4": {"grayscale": True, "resize": (84, 84), "stack": 4},
}
TAXI, STACKED = "Taxi-v3", "84x84, stack 4"
PARTS = 20


def visit(spec: Any, seed: int, steps: int) -> dict[str, Any]:
    """Return what random actions meet: share of known states in each part of the steps, distinct states, bytes."""
    from q2pi.envs.make import make_envs
    from q2pi.envs.spec import resolve
    from q2pi.rng import stream

    envs = make_envs(resolve(spec), 1, seed)
    noise = stream(seed, "random actions")
    actions = int(envs.action_space.n)
    observation = envs.reset()
    seen, is_known = set[bytes](), list[bool]()
    for _ in range(steps):
        key = hashlib.blake2b(observation.tobytes(), digest_size=16).digest()
        is_known.append(key in seen)
        seen.add(key)
        envs.send(noise.integers(actions, size=1))
        observation = envs.recv().observation
    envs.close()
    shares = [float(part.mean()) for part in np.array_split(np.array(is_known, np.float64), PARTS)]
    return {"known": shares, "distinct": len(seen), "bytes": len(seen) * (observation[0].nbytes + 8 * actions)}


def experiment(seed: int, settings: Settings) -> Data:
    from q2pi.envs.spec import EnvSpec

    steps = settings["agent_steps"]
    met = {TAXI: visit(EnvSpec(TAXI), seed, steps)}
    for name, options in SCREENS.items():
        met[name] = visit(EnvSpec("SpaceInvaders", protocol="machado", **options), seed, steps)
    return {"agent_steps": steps, "met": met, "network_bytes": network_bytes()}


def network_bytes() -> int:
    """Return the bytes of the Nature network's parameters for Space Invaders."""
    from q2pi.networks.value import QNetwork

    return 4 * sum(parameter.numel() for parameter in QNetwork((4, 84, 84), 6, (1,)).parameters())


def _known(data: Data, name: str) -> float:
    """Return the share of known states over all steps."""
    return float(np.mean(data["met"][name]["known"]))


def figure(data: Sequence[Data]) -> "Figure":
    from q2pi.lab import figures

    drawn, (known, sizes) = figures.panels(2)
    names = list(data[0]["met"])
    steps = np.arange(1, PARTS + 1) / PARTS * data[0]["agent_steps"]
    for style, name in enumerate(names):
        figures.curve(known, steps, [100 * np.array(one["met"][name]["known"]) for one in data], name, style)
    known.set_ylim(-3, 103)
    figures.label(known, "agent steps", "steps in a known state (%)", "states met again", legend=True)
    labels = [name.replace(", ", ",\n") for name in names]
    figures.bars(sizes, labels, [[one["met"][name]["bytes"] / 1e6 for name in names] for one in data])
    sizes.axhline(data[0]["network_bytes"] / 1e6, color="black", linestyle="--", linewidth=1)
    sizes.annotate(
        "Nature network", (0, data[0]["network_bytes"] / 1e6), (0, 3), textcoords="offset points", fontsize=8
    )
    sizes.set_yscale("log")
    figures.label(sizes, "observation", "megabytes", "table over the states met")
    figures.footnote(drawn, f"Taxi-v3 and Space Invaders, random actions; {figures.interval_words(len(data))}")
    return drawn


CLAIM = Claim(
    name="q_table",
    sentence="A Q-table cannot hold a screen: in Taxi nearly every step meets a known state, in Space Invaders nearly "
    "none.",
    rules=(
        Rule("share of steps in a known state, Taxi", "", lambda data: _known(data, TAXI), 0.9),
        Rule(
            "share of steps in a known state, Space Invaders 84x84, stack 4",
            "",
            lambda data: _known(data, STACKED),
            0.1,
            "below",
        ),
        Rule(
            "bytes of a table over the states met, 84x84, stack 4, over bytes of the network",
            "powers of ten",
            lambda data: float(np.log10(data["met"][STACKED]["bytes"] / data["network_bytes"])),
            1.0,
        ),
    ),
    experiment=experiment,
    figure=figure,
    quick={"agent_steps": 100},
    full={"agent_steps": 10_000},
)
