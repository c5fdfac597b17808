"""Targets of Q-learning."""

from torch import Tensor

from q2pi.equations.shapes import require_shape


def q_target(reward: Tensor, discount: Tensor, q_next_target: Tensor, q_next_online: Tensor | None = None) -> Tensor:
    """Return the targets [B] of DQN or Double DQN, detached: no gradient flows through them.

    Equations, with Q' the target network and s' the observation that the return bootstraps from:
        DQN:         r + discount * max_a Q'(s', a)                 (Mnih et al. 2015)
        Double DQN:  r + discount * Q'(s', argmax_a Q(s', a))       (van Hasselt, Guez and Silver 2016, equation 4)

    Args:
        reward: [B] the reward, or the n-step return without its bootstrap.
        discount: [B] gamma, or gamma^n; 0 if terminated.
        q_next_target: [B, A] Q' at s'.
        q_next_online: [B, A] Q of the online network at s', for Double DQN; None for DQN.

    Raises:
        ValueError: a shape differs from the one stated.
    """
    batch, actions = q_next_target.shape
    require_shape((batch,), reward=reward, discount=discount)
    require_shape((batch, actions), q_next_online=q_next_online)
    if q_next_online is None:
        value = q_next_target.amax(dim=1)
    else:
        value = q_next_target.gather(1, q_next_online.argmax(dim=1, keepdim=True)).squeeze(1)
    bootstrap = (discount * value).masked_fill(discount == 0, 0.0)  # 0 * inf is NaN
    return (reward + bootstrap).detach()
