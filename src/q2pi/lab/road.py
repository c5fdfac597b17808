"""The claims in the order of the road from Q-learning to policy gradients."""

from importlib import import_module

from q2pi.errors import UserError, suggest
from q2pi.lab.claim import Claim

NAMES = (
    "q_table",
    "preprocessing",
    "motion",
    "replay",
    "fixed_targets",
    "double_q",
    "deadly_triad",
    "exploration",
    "aliased_states",
    "large_actions",
    "policy_change",
    "policy_gradient_theorem",
    "gradient_variance",
    "local_optima",
    "sample_reuse",
    "hyperparameters",
    "concave_objective",
    "bias_and_variance",
)
"""Names of the claims: the files of `q2pi.lab.claims`."""


def find(name: str) -> Claim:
    """Return a claim by its name.

    Raises:
        UserError: no claim has this name.
    """
    if name not in NAMES:
        raise UserError(f"unknown claim {name!r}{suggest(name, NAMES)}; q2pi lab lists the claims")
    claim: Claim = import_module(f"q2pi.lab.claims.{name}").CLAIM
    return claim


def number(name: str) -> int:
    """Return the place of a claim on the road, from 1."""
    return NAMES.index(name) + 1
