# SPDX-License-Identifier: Apache-2.0
"""DDPO: clipped policy gradient on the scored transitions (Black et al., 2023; HERO, 4.2)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from ..lora import LoRAState
from ..policy import Actor, Policy, Progress, no_progress
from ..reward import Reward, advantages
from ..rollout import Rollout
from .common import check_recorded
from .policy_gradient import PolicyGradient, PolicyGradientSettings, clipped, recorded_steps

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DDPOSettings(PolicyGradientSettings):
    """See :class:`PolicyGradientSettings`."""


def update(
    policy: Policy,
    lora: LoRAState,
    rollout: Rollout,
    reward: Reward,
    settings: DDPOSettings,
    *,
    seed: int,
    progress: Progress = no_progress,
) -> tuple[LoRAState, dict[str, Any]]:
    """One round of DDPO from the rewards of the pictures; returns the new LoRA and the round's statistics.

    ``loss = mean over transitions of max(-A * ratio, -A * clip(ratio, 1 - c, 1 + c))`` with
    ``ratio = exp(log_prob_new - log_prob_old)``. Raises :class:`HeroError`, and changes nothing, where the policy
    cannot reproduce the recorded log-probabilities or the loss is not finite.
    """
    check_recorded(rollout, settings.scored_steps)
    rows = settings.rows(rollout)
    gains = advantages(reward.rewards, settings.advantage_clip)[:, None].expand(rollout.steps.shape)

    def body(actor: Actor) -> tuple[LoRAState, dict[str, float]]:
        trainer = PolicyGradient(actor, recorded_steps(actor, policy, rollout, rows, progress), lora, settings)
        return trainer.run(clipped(gains, settings.clip), seed, progress)

    state, metrics = policy.run(body, lora=lora, rows=rows, grad=True, cfg=rollout.settings.cfg)
    log.info(
        "DDPO round %d: max|ratio-1| before the first step %.1e, %d optimiser steps, %.0f%% clipped",
        rollout.round, metrics["ratio_error"], metrics["optimizer_steps"], 100 * metrics["clip_fraction"],
    )  # fmt: skip
    return state, metrics
