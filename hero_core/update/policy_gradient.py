# SPDX-License-Identifier: Apache-2.0
"""Policy gradient on the recorded steps of a round: what DDPO and Scores as Actions share.

A rule says what each recorded step is worth (an :data:`Objective`); this takes the optimiser steps, checks before the
first that the policy reproduces what was recorded, and holds the policy near the base model where that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from .. import seeding
from ..errors import HeroError
from ..lora import LoRAState
from ..policy import Actor, Policy, Progress, no_progress
from ..rollout import Rollout
from ..settings import setting
from .common import LoRAOptimizer, OptimizerSettings, ScoredSteps, scored_steps

OTHER_ROWS = {torch.float32: 4e-6, torch.float16: 8e-4, torch.bfloat16: 6e-3}
"""How far the probability ratio of a recorded step may be from 1 where a call of the model takes other rows than when
the round was drawn: other kernels round otherwise. About four times the most that was measured, ``max|ratio - 1|`` of
the tiny model (its latents are small, so that least averages away), drawn in calls of 8 rows on a CPU
(one thread and two give the same):

==========  =======  =======  =======  =======  =====================================
precision   1 row    2 or 4   8 rows   16 rows  8 rows without oneDNN: other kernels
==========  =======  =======  =======  =======  =====================================
float32     4.8e-07  4.8e-07  0        4.8e-07  4.8e-07 (9.5e-07 in calls of 16)
float16     1.1e-04  0        0                 1.9e-04
bfloat16    0        0        0        0        1.4e-03
==========  =======  =======  =======  =======  =====================================

ComfyUI's own model class with these weights gives 2.4e-07, 1.3e-04 (1 row) and 0 at most. No GPU was measured.
"""

KL_STEP = 1.5
"""The coefficient of the KL moves by this factor a round where the KL is off its target by more than it."""


@dataclass(frozen=True)
class PolicyGradientSettings(OptimizerSettings):
    """``batch`` pictures, each with K (``scored_steps``) steps, make one optimiser step.

    ``clip`` is small because log-probabilities are averaged over the latent. The KL of a step to the base model is a
    mean over the latent, too.
    """

    batch: int = setting(
        8, "Pictures in one optimiser step: 64 pictures then give 8 optimiser steps a round.", least=1, high=4096
    )
    clip: float = setting(
        1e-4,
        "How far the probability of a step may move, averaged over the latent: 1e-4 in the paper.",
        above=0, low=1e-8, high=1, step=1e-5,
    )  # fmt: skip
    advantage_clip: float = setting(
        5.0,
        "Advantages farther than this many standard deviations from the mean count as this far.",
        above=0, low=0.1, high=100, step=0.1,
    )  # fmt: skip
    epochs: int = setting(1, "Passes over the round.", least=1, high=100)
    scored_steps: int = setting(
        5, "Steps used of each picture (K): at most as many as HERO Sampler's scored_steps recorded.", least=1, high=100
    )
    ratio_tolerance: float = setting(
        1e-6, "How far a probability ratio may be from 1 before the first step, for a float32 model.", above=0
    )
    kl_coef: float = setting(
        0.0,
        "Weight of staying near the checkpoint, by the exact KL of each step. At 1, a step that moved by one of its "
        "standard deviations costs as much as an advantage of 1 brings. Costs one more model call a step.",
        least=0, high=1000, step=0.01,
    )  # fmt: skip
    kl_target: float = setting(
        0.0,
        "0: kl_coef stays as it is. Else it grows after rounds whose KL ends above this, and shrinks after rounds "
        "below.",
        least=0, high=1000, step=1e-5,
    )  # fmt: skip
    kl_every: int = setting(1, "Every so many calls of the model measure the KL, and count that many times.", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kl_target and not self.kl_coef:
            raise HeroError(
                f"kl_target is {self.kl_target} and kl_coef is 0: give kl_coef a value to begin with, such as 1."
            )

    def tolerance(self, dtype: torch.dtype) -> float:
        """How far a ratio may be from 1 before any update where the model computes in ``dtype``; half precision gets a
        tenth of ``clip``."""
        return self.ratio_tolerance if dtype == torch.float32 else max(self.ratio_tolerance, self.clip / 10)


Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``objective(index, mu, ratio)``: the loss ``(m,)`` of the recorded steps ``index`` ``(m, 2)`` (picture, slot).

``mu`` ``(m, C, H, W)`` are their means under the policy as it is, ``ratio`` ``(m,)`` their probability now over the
probability when they were drawn; both carry gradients.
"""


def clipped(gains: Tensor, clip: float) -> Objective:
    """PPO's ``max(-A ratio, -A clip(ratio, 1 +- clip))`` with the advantages ``gains`` ``(n, K)``."""

    def objective(index: Tensor, mu: Tensor, ratio: Tensor) -> Tensor:
        gain = gains[index[:, 0], index[:, 1]].to(ratio)
        return torch.maximum(-gain * ratio, -gain * ratio.clamp(1 - clip, 1 + clip))

    return objective


def recorded_steps(
    actor: Actor, policy: Policy, rollout: Rollout, rows: int, progress: Progress = no_progress
) -> ScoredSteps:
    """The recorded steps in calls of ``rows``, with what the policy that drew them computes in such calls.

    Where these are not the calls that the round was drawn in, ``x0_hat`` and ``log_prob`` are computed again, so that
    every ratio begins at 1 and rounding is not mistaken for learning. Raises :class:`HeroError` where they are farther
    from the recorded ones than rounding explains (:data:`OTHER_ROWS`).
    """
    scored = scored_steps(actor, policy, rollout, rows, progress)
    if rows == rollout.rows or rollout.compact:
        return scored
    x0_hat, log_prob = rollout.x0_hat.clone(), rollout.log_prob.clone()
    with torch.no_grad():
        for index, weight in scored.chunks(torch.cartesian_prod(*map(torch.arange, rollout.steps.shape))):
            used = weight > 0
            picture, slot = index[used].unbind(1)
            predicted = scored.x0_hat(index)
            computed = scored.log_prob_at(index, scored.mean_at(index, predicted)).cpu()[used]
            ratio = (computed - rollout.log_prob[picture, slot]).exp()
            refuse_ratio(rollout, ratio, index[used], OTHER_ROWS.get(actor.dtype, OTHER_ROWS[torch.bfloat16]))
            x0_hat[picture, slot], log_prob[picture, slot] = predicted.cpu()[used], computed
    return ScoredSteps(actor, policy, replace(rollout, x0_hat=x0_hat, log_prob=log_prob), rows)


def refuse_ratio(rollout: Rollout, ratio: Tensor, index: Tensor, tolerance: float) -> float:
    """How far the farthest ``ratio`` ``(m,)`` of the steps ``index`` ``(m, 2)`` is from 1; :class:`HeroError` where
    that is more than ``tolerance``."""
    error, row = (ratio - 1).abs().max(0)
    if not float(error) <= tolerance:
        picture, slot = index[row].tolist()
        raise HeroError(
            f"Before any update the policy gives picture {picture}, step {int(rollout.steps[picture, slot])}, "
            f"a probability ratio of {float(ratio[row]):.8f} where 1 +- {tolerance:g} is due: the model does not "
            "compute what it computed while sampling (another precision, attention or model patch?). Nothing was "
            "trained. Use the same start options as for sampling, or draw the round again."
        )
    return float(error)


class PolicyGradient:
    """One round's optimiser steps while the model is loaded."""

    def __init__(self, actor: Actor, scored: ScoredSteps, lora: LoRAState, settings: PolicyGradientSettings) -> None:
        self.actor, self.scored, self.rollout = actor, scored, scored.rollout
        self.lora, self.settings = lora, settings
        self.optimizer = LoRAOptimizer(actor, lora, settings)
        self.statistics, self.tolerance = _Statistics(), settings.tolerance(actor.dtype)
        kept = lora.memory.get("kl") if settings.kl_target else None
        self.kl = settings.kl_coef if kept is None else float(kept)
        self.calls = 0

    def run(
        self, objective: Objective, seed: int, progress: Progress, penalty: bool = True
    ) -> tuple[LoRAState, dict[str, float]]:
        """All steps of the round; ``penalty`` False leaves the KL out of the loss (it may be part of the reward)."""
        groups = list(self._groups(seed))
        total, done = sum(map(len, groups)), 0
        for group in groups:
            for index, weight in self.scored.chunks(group):
                self._accumulate(objective, index, weight, len(group), self.kl if penalty else 0.0)
                done += int(weight.sum())
                progress(done, total, None)
            self.optimizer.step()
        distance = self.scored.kl_to_base(groups[-1])
        metrics = {**self.statistics.metrics(), **self.optimizer.metrics(), "kl_to_base": distance}
        if not self.settings.kl_target:
            return self.optimizer.state(), metrics
        state = replace(self.optimizer.state(), memory={"kl": torch.tensor(self._next_coefficient(distance))})
        return state, {**metrics, "kl_coefficient": self.kl}

    def _next_coefficient(self, distance: float) -> float:
        if distance > self.settings.kl_target * KL_STEP:
            return self.kl * KL_STEP
        return self.kl / KL_STEP if distance < self.settings.kl_target / KL_STEP else self.kl

    def _choose_slots(self, seed: int) -> Tensor:
        """K of the recorded steps for each picture, ``(n, K)``."""
        recorded, wanted = self.rollout.steps.shape[1], self.settings.scored_steps
        orders = seeding.picture_generators(self.rollout.n, seed, self.rollout.round, "update steps")
        return torch.stack([torch.randperm(recorded, generator=g)[:wanted].sort().values for g in orders])

    def _groups(self, seed: int) -> Iterator[Tensor]:
        """The steps ``(rows, 2)`` of each optimiser step: those of some pictures, shuffled anew every epoch."""
        slots, size = self._choose_slots(seed), self.settings.batch
        for epoch in range(self.settings.epochs):
            order = seeding.generator(seed, self.rollout.round, "update order", epoch)
            for pictures in torch.randperm(self.rollout.n, generator=order).split(size):
                picked = slots[pictures]
                yield torch.stack([pictures[:, None].expand_as(picked), picked], dim=-1).flatten(0, 1)

    def _accumulate(self, objective: Objective, index: Tensor, weight: Tensor, group_rows: int, kl: float) -> None:
        used = weight > 0
        kl = self.settings.kl_every * kl if self.calls % self.settings.kl_every == 0 else 0.0
        self.calls += 1
        loss, ratio = self.optimizer.backward(partial(self._loss, objective, index, weight, group_rows, kl))
        self.statistics.add(loss[used], ratio[used], self.settings.clip)

    def _loss(
        self, objective: Objective, index: Tensor, weight: Tensor, group_rows: int, kl: float
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The share of these steps in the loss of a group; and the loss and the ratio of each."""
        used = weight > 0
        mu = self.scored.mean(index)
        log_prob = self.scored.log_prob_at(index, mu)
        old = self.rollout.log_prob[index[:, 0], index[:, 1]].to(log_prob)
        ratio = (log_prob - old).exp()
        if not self.optimizer.grad_norms:
            error = refuse_ratio(self.rollout, ratio.detach().cpu()[used], index[used], self.tolerance)
            self.statistics.ratio_error = max(self.statistics.ratio_error, error)
        loss = objective(index, mu, ratio)
        if kl:
            loss = loss + kl * self.scored.kl_at(index, mu)
        known = loss.detach().cpu(), ratio.detach().cpu()
        return (loss * weight.to(loss)).sum().div(group_rows), known


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
