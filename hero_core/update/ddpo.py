"""DDPO: clipped policy gradient on the scored transitions (Black et al., 2023; HERO, 4.2)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import seeding
from ..errors import HeroError, above_zero, one_or_more
from ..policy import Actor, LoRAState, Policy, Progress, no_progress
from ..reward import Reward, advantages
from ..rollout import Rollout
from .common import LoRAOptimizer, OptimizerSettings, ScoredSteps, check_recorded

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DDPOSettings(OptimizerSettings):
    """``batch * accumulation`` pictures, each with K (``scored_steps``) steps, make one optimiser step.

    ``clip`` is small because log-probabilities are averaged over the latent. ``ratio_tolerance`` bounds
    ``max|ratio - 1|`` before the first step in float32; half-precision models get a tenth of ``clip``.
    """

    batch: int = 2
    accumulation: int = 4
    clip: float = 1e-4
    advantage_clip: float = 5.0
    epochs: int = 1
    scored_steps: int = 5
    ratio_tolerance: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero(self, "clip", "advantage_clip", "ratio_tolerance")
        one_or_more(self, "batch", "accumulation", "epochs", "scored_steps")

    def tolerance(self, dtype: torch.dtype) -> float:
        """How far a ratio may be from 1 before any update, for a model that computes in ``dtype``."""
        return self.ratio_tolerance if dtype == torch.float32 else max(self.ratio_tolerance, self.clip / 10)


def update(
    policy: Policy,
    lora: LoRAState,
    rollout: Rollout,
    reward: Reward,
    settings: DDPOSettings,
    *,
    seed: int,
    progress: Progress = no_progress,
) -> tuple[LoRAState, dict[str, float]]:
    """One round of DDPO from the rewards of the pictures; returns the new LoRA and the round's statistics.

    ``loss = mean over transitions of max(-A * ratio, -A * clip(ratio, 1 - c, 1 + c))`` with
    ``ratio = exp(log_prob_new - log_prob_old)``. Raises :class:`HeroError`, and changes nothing, where the policy
    cannot reproduce the recorded log-probabilities or the loss is not finite.
    """

    check_recorded(rollout, settings.scored_steps)

    def body(actor: Actor) -> tuple[LoRAState, dict[str, float]]:
        return _Updater(actor, policy, lora, rollout, reward.rewards, settings).run(seed, progress)

    state, metrics = policy.run(body, lora=lora, rows=rollout.rows, grad=True)
    log.info(
        "DDPO round %d: max|ratio-1| before the first step %.1e, %d optimiser steps, %.0f%% clipped",
        rollout.round, metrics["ratio_error"], metrics["optimizer_steps"], 100 * metrics["clip_fraction"],
    )  # fmt: skip
    return state, metrics


@dataclass
class _Statistics:
    """What happened in the update, collected chunk by chunk."""

    ratio_error: float = 0.0
    loss: float = 0.0
    clipped: float = 0.0
    approx_kl: float = 0.0
    rows: int = 0

    def add(self, loss: Tensor, ratio: Tensor, clip: float) -> None:
        self.loss += float(loss.detach().sum())
        self.clipped += float(((ratio - 1).abs() > clip).sum())
        self.approx_kl += float((ratio - 1 - ratio.log()).sum())
        self.rows += len(ratio)

    def metrics(self) -> dict[str, float]:
        return {
            "ratio_error": self.ratio_error,
            "loss": self.loss / self.rows,
            "clip_fraction": self.clipped / self.rows,
            "kl_to_round_start": self.approx_kl / self.rows,
        }


class _Updater:
    """The state of one update while the model is loaded."""

    def __init__(self, actor, policy, lora, rollout, rewards, settings) -> None:  # type: ignore[no-untyped-def]
        self.actor, self.policy = actor, policy
        self.rollout, self.settings = rollout, settings
        self.scored = ScoredSteps(actor, policy, rollout)
        self.advantages = advantages(rewards, settings.advantage_clip)
        self.optimizer = LoRAOptimizer(actor, lora, settings)
        self.statistics = _Statistics()

    def run(self, seed: int, progress: Progress) -> tuple[LoRAState, dict[str, float]]:
        groups = list(self._groups(seed))
        total, done = sum(map(len, groups)), 0
        for group in groups:
            for index, weight in self.scored.chunks(group):
                self._accumulate(index, weight, len(group))
                done += int(weight.sum())
                progress(done, total, None)
            self.optimizer.step()
        kl = self.scored.kl_to_base(groups[-1])
        return self.optimizer.state(), {**self.statistics.metrics(), **self.optimizer.metrics(), "kl_to_base": kl}

    def _choose_slots(self, seed: int) -> Tensor:
        """K of the recorded steps for each picture, ``(n, K)``."""
        recorded, wanted = self.rollout.steps.shape[1], self.settings.scored_steps
        orders = seeding.picture_generators(self.rollout.n, seed, self.rollout.round, "update steps")
        return torch.stack([torch.randperm(recorded, generator=g)[:wanted].sort().values for g in orders])

    def _groups(self, seed: int) -> Iterator[Tensor]:
        """The steps ``(rows, 2)`` of each optimiser step: those of some pictures, shuffled anew every epoch."""
        slots, size = self._choose_slots(seed), self.settings.batch * self.settings.accumulation
        for epoch in range(self.settings.epochs):
            order = seeding.generator(seed, self.rollout.round, "update order", epoch)
            for pictures in torch.randperm(self.rollout.n, generator=order).split(size):
                picked = slots[pictures]
                yield torch.stack([pictures[:, None].expand_as(picked), picked], dim=-1).flatten(0, 1)

    def _accumulate(self, index: Tensor, weight: Tensor, group_rows: int) -> None:
        used = weight > 0
        log_prob = self.scored.log_prob(index)
        old = self.rollout.log_prob[index[:, 0], index[:, 1]].to(log_prob)
        ratio = (log_prob - old).exp()
        if not self.optimizer.grad_norms:
            self._check_ratio(ratio.detach().cpu()[used], index[used])
        gain = self.advantages[index[:, 0]].to(ratio)
        clip = self.settings.clip
        loss = torch.maximum(-gain * ratio, -gain * ratio.clamp(1 - clip, 1 + clip))
        (loss * weight.to(loss)).sum().div(group_rows).backward()
        self.statistics.add(loss.cpu()[used], ratio.detach().cpu()[used], clip)

    def _check_ratio(self, ratio: Tensor, index: Tensor) -> None:
        error, row = (ratio - 1).abs().max(0)
        self.statistics.ratio_error = max(self.statistics.ratio_error, float(error))
        tolerance = self.settings.tolerance(self.actor.dtype)
        if not float(error) <= tolerance:
            picture, slot = index[row].tolist()
            raise HeroError(
                f"Before any update the policy gives picture {picture}, step {int(self.rollout.steps[picture, slot])}, "
                f"a probability ratio of {float(ratio[row]):.8f} where 1 +- {tolerance:g} is due: the model does not "
                "compute what it computed while sampling (another precision, attention or model patch?). Nothing was "
                "trained. Use the same start options as for sampling, or draw the round again."
            )
