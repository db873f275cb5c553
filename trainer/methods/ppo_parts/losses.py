"""The arithmetic of proximal policy optimisation. All tensors are of shape (batch, length).

Column t is the t-th token of an answer; `mask` is 1 up to its end, the end-of-text token included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

EPSILON = 1e-8


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the tokens that count, a single number."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whitened(
    values: Tensor,
    mask: Tensor,
    mean_of: Callable[[Tensor, Tensor], Tensor] = masked_mean,
    *,
    shift_mean: bool = True,
) -> Tensor:
    """Return the values with variance 1, and mean 0 unless it is to stay; 0 where mask is 0.

    Args:
        values: one for each token.
        mask: see the top of this file.
        mean_of: the mean over the tokens that count, of all processes where there are several.
        shift_mean: whether the mean is to be 0.
    """
    mean = mean_of(values, mask)
    scaled = (values - mean) * torch.rsqrt(mean_of((values - mean) ** 2, mask) + EPSILON)
    return (scaled if shift_mean else scaled + mean) * mask


def summed(scores: Tensor) -> Tensor:
    """Return the sum of all scores of each answer.

    A function that has nothing to say of an answer adds nothing. Where none has, 0 would be praise or
    blame; the mean of the others is neither.

    Args:
        scores: of shape (functions, batch); NaN: nothing to say.
    """
    total, unknown = scores.nansum(dim=0), scores.isnan().all(dim=0)
    return torch.where(unknown, total[~unknown].mean().nan_to_num(), total)


def token_rewards(scores: Tensor, divergence: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Return each token's reward: the penalty for leaving the reference, the score at the end.

    As Ouyang et al. 2022 (arXiv:2203.02155), equation 2, with the penalty spread over the tokens.

    Args:
        scores: one for each answer, of shape (batch,).
        divergence: log probability under the policy minus that under the reference.
        mask: of the answer's tokens; each answer has at least one.
        beta: the penalty's weight.
    """
    rewards = -beta * divergence * mask
    last = mask.sum(dim=1).long() - 1
    return rewards.scatter_add(1, last.unsqueeze(1), scores.unsqueeze(1).to(rewards.dtype))


def advantages_of(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Return advantages, not whitened, and returns.

    Generalised advantage estimation (Schulman et al. 2015, arXiv:1506.02438). Nothing is expected
    after the end of an answer.

    Args:
        rewards: of each token.
        values: expected before each token, by the value head.
        mask: of the answer's tokens.
        gamma: how much later rewards count.
        lam: 1: advantages from rewards alone; 0: from the next value alone.
    """
    values, rewards = values * mask, rewards * mask
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    # The TD residuals; the loop sums them from the end, discounted by gamma * lam.
    surprises = rewards + gamma * following - values
    advantages = torch.zeros_like(values)
    running = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        running = surprises[:, t] + gamma * lam * running
        advantages[:, t] = running
    return advantages * mask, (advantages + values) * mask


def policy_loss(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, cliprange: float
) -> tuple[Tensor, Tensor]:
    """Return the clipped loss of the policy, and the share of tokens where clipping mattered.

    Schulman et al. 2017 (arXiv:1707.06347), equation 7.
    """
    # Masked before exp(): padding could overflow to infinity, and infinity * 0 is NaN.
    ratio = torch.exp((logps - old_logps) * mask)
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    loss = masked_mean(torch.maximum(plain, clipped), mask)
    # A share near 0 means that the steps are small; a large one that the rollout is overused.
    return loss, masked_mean((clipped > plain).float(), mask)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, cliprange: float
) -> Tensor:
    """Return the loss of the value head; a value may not leave the old one by more than a range."""
    near = old_values + (values - old_values).clamp(-cliprange, cliprange)
    # The worse of both, as in the policy loss: clipping may not hide an error.
    error = torch.maximum((values - returns) ** 2, (near - returns) ** 2)
    return 0.5 * masked_mean(error, mask)
