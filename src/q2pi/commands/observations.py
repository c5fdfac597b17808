"""The line that says how observations are read, if that is not obvious."""

from typing import Any

from q2pi.algorithms.base import Agent
from q2pi.config import RunConfig
from q2pi.envs.layout import Part
from q2pi.networks.options import torso_of

SIZES_SHOWN = 8
"""Largest number of indices of one part whose numbers of values are shown."""


def observation_line(config: RunConfig[Any], agent: Agent) -> str:
    """Return how an agent's networks read the observations, in one line; "" for a vector, a table or a game's screen.

    Args:
        config: of the run.
        agent: built for the run's environment.
    """
    spec, layout, network = agent.spec, agent.spec.layout, config.hyper.image_network
    shape = getattr(spec.observation_space, "shape", None)
    is_vector = layout.parts[0].kind == "vector" and not layout.is_packed and shape == spec.frame_shape
    if is_vector or spec.observation_space is None or not agent.networks():
        return ""
    mask = layout.mask_size
    parts = [_described(part, network) for part in (layout.parts[:-1] if mask else layout.parts)]
    if shape and len(parts) == 1 and layout.parts[0].kind == "vector" and shape != layout.parts[0].shape:
        parts[0] += f", flattened from {' x '.join(map(str, shape))}"
    text = "; ".join(parts)
    if layout.is_packed:
        text += f"; packed into frames of {layout.frame_length} numbers"
    if spec.stack > 1:
        text += f"; {spec.stack} frames stacked"
    if spec.reader is not None and spec.reader.unread:
        text += f"; not read: {', '.join(spec.reader.unread)} (text)"
    return f"observations: {text}{'; action masks are used' if mask else ''}"


def _described(part: Part, network: Any) -> str:
    name = f"{part.name}: " if part.name else ""
    if part.kind == "image":
        _, height, width = part.shape
        scale = "" if part.scale == 1 else f" / {part.scale:g}"
        size = " x ".join(map(str, part.shape))
        return f"{name}image {size}{scale}, network {torso_of(network, height, width)}"
    if part.kind == "one-hot":
        shown = [*map(str, part.sizes[:SIZES_SHOWN]), *(["..."] if len(part.sizes) > SIZES_SHOWN else [])]
        return f"{name}one-hot of {' + '.join(shown)} values"
    return f"{name}vector of {part.length}"
