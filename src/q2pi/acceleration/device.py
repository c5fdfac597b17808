"""Torch devices by their name in a configuration."""

import torch

from q2pi.errors import UserError


def device_of(name: str) -> torch.device:
    """Return the torch device for auto, cpu or cuda.

    Raises:
        UserError: cuda, and torch finds no CUDA device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device here; use --device cpu or auto")
    return torch.device(name)
