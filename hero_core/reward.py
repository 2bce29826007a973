# SPDX-License-Identifier: Apache-2.0
"""From features to rewards, and the tests that a reward must pass before a policy learns from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .feedback import Feedback
from .settings import Setting

RewardMode = Literal["best", "goods", "projected", "binary", "latent"]
REWARD_MODES: tuple[RewardMode, ...] = ("best", "goods", "projected", "binary", "latent")
REWARD_MODE = Setting(
    "best",
    "best: similarity to the best (the paper). goods: to all goods. projected: to the best, in the space that training "
    "pulls apart. binary: the marks themselves. latent: similarity to the best without the network.",
    choices=REWARD_MODES,
)
UNLEARNED: tuple[RewardMode, ...] = ("binary", "latent")
"""The modes in which no network is asked."""
MIN_STD = 1e-6


@dataclass(frozen=True)
class Reward:
    """What an update rule learns from: rewards ``(n,)`` of the pictures, and the marks they came from.

    ``weights`` ``(n,)``: how much each picture counts; None where all count the same. ``score`` rewards any latents
    ``(m, C, H, W)`` in the same way, differentiably: ``(m,)``; None where the marks alone reward.
    """

    rewards: Tensor
    feedback: Feedback
    weights: Tensor | None = field(default=None, kw_only=True)
    score: Callable[[Tensor], Tensor] | None = field(default=None, kw_only=True)

    def weight(self, pictures: Tensor) -> Tensor:
        """How much each of ``pictures`` ``(m,)`` counts: ``(m,)``."""
        return torch.ones(len(pictures)) if self.weights is None else self.weights[pictures]

    def again(self, z_0: Tensor, feedback: Feedback) -> Tensor:
        """Rewards ``(m,)`` of the pictures ``z_0`` ``(m, C, H, W)`` of another round, in the same way."""
        return binary(feedback) if self.score is None else self.score(z_0)


def similarity(features: Tensor, references: Tensor) -> Tensor:
    """``(1 + cos(features, reference)) / 2``, mean over ``references`` ``(r, d)``: ``(n,)`` in 0..1 (HERO, eq. 4)."""
    cosine = F.cosine_similarity(features[:, None], references[None], dim=-1)
    return ((1 + cosine) / 2).mean(1)


def binary(feedback: Feedback) -> Tensor:
    """1 for good, 0 for bad and unrated pictures: ``(n,)``."""
    rewards = torch.zeros(feedback.n)
    rewards[feedback.good] = 1.0
    return rewards


def auc(rewards: Tensor, good: list[int], bad: list[int]) -> float:
    """The share of (good, bad) pairs that the reward ranks rightly; ties count half; NaN without a pair."""
    if not good or not bad:
        return float("nan")
    difference = rewards[good][:, None].double() - rewards[bad][None, :].double()
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())


def advantages(rewards: Tensor, clip: float) -> Tensor:
    """``clip((R - mean R) / (std R + 1e-8), +-clip)`` over the round: ``(n,)``."""
    return ((rewards - rewards.mean()) / (rewards.std() + 1e-8)).clamp(-clip, clip)


def why_not(rewards: Tensor, feedback: Feedback) -> str | None:
    """Why nothing may be learned from these rewards, in a sentence; None when they are fit.

    Dividing by the spread of rewards that tell nothing would turn noise into full-strength gradients.
    """
    if rewards.numel() < 2:
        return "A round of one picture has no better and no worse: mark at least two pictures."
    if float(rewards.std()) < MIN_STD:
        return f"All rewards are equal (spread {float(rewards.std()):.1e}), so there is nothing to prefer."
    rivals = [p for p in feedback.good if p != feedback.best] or feedback.good
    ranked = auc(rewards, rivals, feedback.bad)
    if ranked <= 0.5:
        return (
            f"The embedding ranks good above bad in only {ranked:.0%} of pairs, no better than chance. "
            "Train it for more steps, or look for pictures marked by mistake."
        )
    return None
