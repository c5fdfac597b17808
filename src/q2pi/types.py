"""Shared type aliases."""

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
State = dict[str, Any]
"""Contents of a checkpoint: nested dicts of tensors, arrays, numbers and strings."""
Metrics = dict[str, float]
