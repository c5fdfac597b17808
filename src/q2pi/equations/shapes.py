"""The check that opens an equation: broadcasting turns a misshapen argument into a silently wrong number."""

from torch import Tensor


def require_shape(shape: tuple[int, ...], **tensors: Tensor | None) -> None:
    """Raise a ValueError that names the first tensor whose shape is not `shape`; None passes."""
    for name, tensor in tensors.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
