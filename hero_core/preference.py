# SPDX-License-Identifier: Apache-2.0
"""From marks to rewards: the embedding learns what the person likes, and rewards every picture of the round by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from . import embedding as E
from . import seeding
from .embedding import EmbeddingSettings, EmbeddingState
from .feedback import Feedback
from .policy import Progress, no_progress
from .reward import REWARD_MODE, UNLEARNED, Reward, RewardMode, auc, binary, similarity, why_not
from .rollout import Rollout


@dataclass(frozen=True)
class RewardResult(Reward):
    """Rewards of a round, or the reason ``skip`` why nothing may be learned from them.

    ``map`` ``(n, 2)`` shows the features on a plane.
    """

    embedding: EmbeddingState | None
    map: Tensor
    skip: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)


def learn(
    before: EmbeddingState | None,
    rollout: Rollout,
    feedback: Feedback,
    anchor: Tensor | None,
    settings: EmbeddingSettings,
    mode: RewardMode = "best",
    *,
    seed: int,
    compact: bool = True,
    device: torch.device | str = "cpu",
    progress: Progress = no_progress,
) -> RewardResult:
    """Train the embedding on the round's marks and reward every picture of the round (HERO, 4.1).

    ``before``: the embedding so far; ``anchor`` ``(C, H, W)``: the best, where there is one. ``mode``: ``best``
    similarity to the best by E's features (the paper's), ``goods`` mean similarity to all goods, ``projected``
    similarity to the best after the projection head, ``binary`` the marks themselves, ``latent`` similarity to the best
    of the raw latents without E. ``compact``: a small E for large latents, where none has learned yet.
    """
    REWARD_MODE.check("reward_mode", mode)
    if anchor is None or not feedback.good:
        flat = torch.zeros(rollout.n)
        return RewardResult(flat, feedback, before, torch.zeros(rollout.n, 2), NO_GOOD, counts(feedback))
    state = before or E.fresh_embedding(tuple(rollout.z_0.shape[1:]), seed, compact=compact)
    references = rollout.z_0[feedback.good] if mode == "goods" else anchor[None]
    score = _scorer(state, references, mode, device)
    heldout = auc(score(rollout.z_0) if score else binary(feedback), _rivals(feedback), feedback.bad)
    goods = [p for p in feedback.good if p != feedback.best]
    marks = E.RatedLatents(anchor, rollout.z_0[goods], rollout.z_0[feedback.bad])
    jitter = seeding.generator(seed, rollout.round, "positive jitter")
    after, metrics = E.train(state, marks, settings, generator=jitter, device=device, progress=progress)
    score = _scorer(after, references, mode, device)
    rewards = score(rollout.z_0) if score else binary(feedback)
    skip = why_not(rewards, feedback) if after.rounds or mode in UNLEARNED else ALL_GOOD
    metrics |= {
        **counts(feedback),
        "auc": auc(rewards, _rivals(feedback), feedback.bad),
        "reward_std": float(rewards.std()) if rollout.n > 1 else 0.0,
        **({"heldout_auc": heldout} if state.rounds else {}),
    }
    features = E.plane(E.embed(after, rollout.z_0, device, project=mode == "projected"))
    return RewardResult(rewards, feedback, after, features, skip, metrics, score=score)


def reward_of_marks(rollout: Rollout, feedback: Feedback) -> RewardResult:
    """The marks themselves as rewards, for rules that need no embedding: the session's stays as it is."""
    rewards = binary(feedback)
    skip = why_not(rewards, feedback) if feedback.good else NO_GOOD
    return RewardResult(rewards, feedback, None, torch.zeros(rollout.n, 2), skip, counts(feedback))


NO_GOOD = (
    "No picture of this round is good, so nothing is learned: the noise and the best stay as they are. "
    "If this happens again, the prompt may be out of the checkpoint's reach."
)
ALL_GOOD = "Every rated picture is good and the embedding has learned nothing yet: mark some pictures bad."


def counts(feedback: Feedback) -> dict[str, float]:
    """How many are good and bad, as metrics."""
    return {"good": float(len(feedback.good)), "bad": float(len(feedback.bad))}


def _rivals(feedback: Feedback) -> list[int]:
    """The goods other than the best, whose own reward is 1 by definition."""
    return [p for p in feedback.good if p != feedback.best] or feedback.good


def _scorer(
    state: EmbeddingState, references: Tensor, mode: RewardMode, device: Any
) -> Callable[[Tensor], Tensor] | None:
    """Rewards any latents by their similarity to the latents ``references``; None where the marks are the reward."""
    if mode == "binary":
        return None
    if mode == "latent":
        return lambda latents: similarity(latents.flatten(1), references.flatten(1))

    def features(latents: Tensor) -> Tensor:
        return E.embed(state, latents, device, project=mode == "projected")

    wanted = features(references)
    return lambda latents: similarity(features(latents), wanted)
