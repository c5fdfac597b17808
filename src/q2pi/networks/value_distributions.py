"""Kinds of value distributions: from a network's output to values with probabilities, to Q, and to a loss.

    kind           output       values                              loss of an action's output
    Expectation    [B, A]       Q                                   squared or Huber TD error, as in DQN
    Categorical    [B, A, Z]    fixed atoms, softmax of logits      cross-entropy with the projected target (C51)
    Quantile       [B, A, N]    N equally likely quantiles          quantile Huber loss (QR-DQN)
    Implicit       [B, A, N]    quantiles at N given fractions      quantile Huber loss (IQN)

Equations and sources are in `q2pi.equations.distributional`. The second result of a loss is what replay prioritizes by:
the TD error of an expectation (Schaul et al. 2016), and the loss itself of a distribution (Hessel et al. 2018, whose
categorical one is the KL divergence; DQN Zoo and Dopamine take the cross-entropy, with the target's entropy).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from q2pi.equations import distributional as equations
from q2pi.equations import losses

Losses = tuple[Tensor, Tensor]
"""(loss [B], error for priorities [B])"""


class Expectation(nn.Module):
    """Q itself: one value per action.

    Args:
        loss: mse or huber, with threshold 1.
    """

    outputs = 1
    """Numbers per action that the network computes."""

    def __init__(self, loss: Literal["mse", "huber"]) -> None:
        super().__init__()
        self.error = losses.squared if loss == "mse" else losses.huber

    def values(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return (values [B, A, M], their probabilities [B, A, M] or None if equally likely)."""
        return output.unsqueeze(2), None

    def q(self, output: Tensor) -> Tensor:
        """Return Q [B, A] of the network's output."""
        return output

    def loss(
        self, output: Tensor, action: Tensor, target: Tensor, probabilities: Tensor | None, fractions: Tensor | None
    ) -> Losses:
        """Return the loss of the actions' outputs.

        Args:
            output: of the online network.
            action: int64 [B].
            target, probabilities: [B, M] the target distribution.
            fractions: [B, N] at which an implicit network was evaluated.
        """
        error = losses.td_errors(output, action, target.squeeze(1))
        return self.error(error), error


class Categorical(nn.Module):
    """Probabilities of `atoms` fixed values from `low` to `high` (Bellemare, Dabney and Munos 2017)."""

    support: Tensor

    def __init__(self, atoms: int, low: float, high: float) -> None:
        super().__init__()
        self.outputs = atoms
        self.register_buffer("support", equations.support(atoms, low, high), persistent=False)

    def values(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.support.expand_as(output), output.softmax(dim=2)

    def q(self, output: Tensor) -> Tensor:
        return (output.softmax(dim=2) * self.support).sum(dim=2)  # autocast would round the factors of a matmul to bf16

    def loss(
        self, output: Tensor, action: Tensor, target: Tensor, probabilities: Tensor | None, fractions: Tensor | None
    ) -> Losses:
        assert probabilities is not None
        projected = equations.categorical_projection(target, probabilities, self.support)
        cross_entropy = equations.categorical_loss(equations.of_action(output, action), projected)
        return cross_entropy, cross_entropy


class Quantile(nn.Module):
    """`count` equally likely quantiles (Dabney et al. 2018, "Distributional Reinforcement Learning with Quantile
    Regression").
    """

    midpoints: Tensor

    def __init__(self, count: int, kappa: float) -> None:
        super().__init__()
        self.outputs, self.kappa = count, kappa
        self.register_buffer("midpoints", equations.midpoints(count), persistent=False)

    def values(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        return output, None

    def q(self, output: Tensor) -> Tensor:
        return output.mean(dim=2)

    def loss(
        self, output: Tensor, action: Tensor, target: Tensor, probabilities: Tensor | None, fractions: Tensor | None
    ) -> Losses:
        at = self.midpoints if fractions is None else fractions
        error = equations.quantile_loss(equations.of_action(output, action), at, target, self.kappa)
        return error, error


class Implicit(Quantile):
    """Quantiles at any fractions, which the network takes as an input (Dabney, Ostrovski, Silver and Munos 2018).

    Args:
        count: K, the fractions for acting: their midpoints. The paper draws them at random.
        kappa: threshold of the Huber loss.
    """

    def __init__(self, count: int, kappa: float) -> None:
        super().__init__(count, kappa)
        self.outputs = 1


Distribution = Expectation | Categorical | Quantile
"""Any of the kinds."""


class CosineEmbedding(nn.Module):
    """Fractions [B, N] -> [B, N, features]: ReLU of a linear layer of cos(pi i tau), i = 0 .. size - 1.

    Source: Dabney, Ostrovski, Silver and Munos 2018, equation 4.
    """

    frequencies: Tensor

    def __init__(self, size: int, features: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.pi * torch.arange(size, dtype=torch.float32), persistent=False)
        self.linear = nn.Linear(size, features)

    def forward(self, fractions: Tensor) -> Tensor:
        return torch.relu(self.linear(torch.cos(fractions.unsqueeze(2) * self.frequencies)))
