"""`predict` of every agent, and its input: what an environment returns, or what `VectorEnv` returns, as a batch."""

import warnings
from typing import Any

import numpy as np

from q2pi.algorithms.base import AgentSpec
from q2pi.types import Array


class Predictor:
    """Base class of agents: `predict` as in Stable-Baselines3. A subclass has `spec` and `predicted_actions`."""

    spec: AgentSpec

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Array, Array | None]:
        """Return (actions, state) for one observation or a batch; the arguments are those of `network_input`."""
        batch, single, state = network_input(self.spec, observation, state, episode_start, action_masks)
        actions = self.predicted_actions(batch, deterministic)
        return (actions[0] if single else actions), state

    def predicted_actions(self, observation: Array, deterministic: bool) -> Array:
        """Return actions [B], in the environment's numbering, for observations [B, ...]."""
        raise NotImplementedError


def network_input(
    spec: AgentSpec, observation: Any, state: Any = None, episode_start: Any = None, action_masks: Any = None
) -> tuple[Array, bool, Array | None]:
    """Return (observations [B, *observation_shape], whether a single one was given, the next call's `state`).

    Args:
        spec: of the agent.
        observation: one or a batch, each as `reset` and `step` of the environment return it: an image with its axes, a
            dict, a number from `start` on, of which several may come as [B] or as [B, 1]. Or stacked, as `VectorEnv`
            returns it; images also with the channels last.
        state: the third result of the previous call, if observations are not stacked and the agent stacks frames.
        episode_start: bool [B], whether the observation is an episode's first; its earlier frames are zeros.
        action_masks: [A] or [B, A], which actions are allowed; None allows all. MultiDiscrete: the masks of the
            components one after another, or for one observation a tuple of them.

    Raises:
        ValueError: the observation is neither in the space nor stacked, or a mask has another shape.
    """
    found = _stacked(spec, observation, channels_last=False)
    reader = spec.reader
    # Indices of a stack of one may have the shape of the space: then they are the environment's numbers.
    is_stacked = found is not None and len(spec.observation_shape) == 3
    raw = None if reader is None or is_stacked else reader.batch_of(observation)
    if reader is not None and raw is not None:
        observations, single = raw
        size = spec.layout.mask_size
        has_masks = size > 0 or action_masks is not None
        masks = list(np.broadcast_to(_masks(spec, action_masks), (len(observations), size))) if has_masks else None
        batch = _pushed(spec, reader.frames(observations, masks), state, episode_start)
        return batch, single, batch if spec.stack > 1 else None
    found = found or _stacked(spec, observation, channels_last=True)
    if found is None:
        shape = np.shape(observation) if not isinstance(observation, dict | tuple) else type(observation).__name__
        space = "" if spec.observation_space is None else f", an observation of {spec.observation_space}"
        raise ValueError(f"observation of shape {shape}: expected {spec.observation_shape}{space}, or a batch")
    batch, single = found
    if action_masks is not None:
        batch = batch.copy()
        size = spec.layout.mask_size
        batch[:, batch.shape[1] - size :] = _masks(spec, action_masks)
    return batch, single, None


def _stacked(spec: AgentSpec, observation: Any, channels_last: bool) -> tuple[Array, bool] | None:
    """Return (observations [B, *observation_shape], whether a single one was given), or None if they are not stacked.

    Args:
        spec: of the agent.
        observation: any value.
        channels_last: whether images may have the channels last, as Stable-Baselines3 stacks them.
    """
    if isinstance(observation, dict | tuple):
        return None
    array, shape = np.asarray(observation), spec.observation_shape
    if shape == (1,) and spec.frame_dtype == np.int64 and array.ndim < 2 and array.shape != (1,):
        array = array[..., None]  # numbers of states
    single = array.ndim == len(shape)
    batch = array[None] if single else array
    if channels_last and len(shape) == 3 and batch.ndim == 4 and batch.shape[1:] != shape:
        batch = np.moveaxis(batch, -1, 1)
    if batch.shape[1:] != shape or (spec.reader is not None and len(shape) == 3 and array.dtype != spec.frame_dtype):
        return None
    return np.ascontiguousarray(batch), single


def _masks(spec: AgentSpec, action_masks: Any) -> Array:
    """Return masks as bool [A] or [B, A]; all actions for None."""
    from q2pi.envs.masks import flat_mask, mask_sizes, without_action  # loads Gymnasium

    size, sizes = spec.layout.mask_size, mask_sizes(spec.action_space)
    if size == 0:
        raise ValueError("action_masks: the agent was trained without action masks")
    if action_masks is None:
        return np.ones(size, np.bool_)
    flat = flat_mask(action_masks, sizes)
    masks = (np.asarray(action_masks) if flat is None else flat).astype(np.bool_)
    if masks.ndim not in (1, 2) or masks.shape[-1] != size:
        raise ValueError(f"action_masks of shape {masks.shape}: expected {size} values, or a batch of them")
    if without_action(masks, sizes) is not None:
        raise ValueError("action_masks: at least one action must be allowed")
    return masks


def _pushed(spec: AgentSpec, frames: Array, state: Any, episode_start: Any) -> Array:
    """Return the stacks [B, *observation_shape] that end with frames [B, *frame_shape]."""
    if spec.stack == 1:
        return frames
    if state is None:
        if episode_start is None:
            warnings.warn(
                f"predict got one frame and no state: the other {spec.stack - 1} frames of the stack are zeros, as at "
                "the start of an episode. Pass the state that predict returned, or episode_start=True",
                stacklevel=4,
            )
        state = np.zeros((len(frames), *spec.observation_shape), spec.frame_dtype)
    previous = np.array(state)
    if previous.shape != (len(frames), *spec.observation_shape):
        raise ValueError(f"state of shape {previous.shape}: expected {(len(frames), *spec.observation_shape)}")
    if episode_start is not None:
        previous[np.broadcast_to(np.asarray(episode_start, np.bool_), len(frames))] = 0
    return np.concatenate([previous[:, frames.shape[1] :], frames], axis=1)
