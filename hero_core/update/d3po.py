# SPDX-License-Identifier: Apache-2.0
"""D3PO: direct preference optimisation of denoising steps, from pairs of good and bad pictures (Yang et al., 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import seeding
from ..errors import HeroError
from ..feedback import Feedback
from ..lora import LoRAState
from ..policy import Actor, Policy, Progress, no_progress
from ..reward import Reward
from ..rollout import Rollout
from ..settings import setting
from .common import LoRAOptimizer, OptimizerSettings, ScoredSteps, check_recorded, scored_steps


@dataclass(frozen=True)
class D3POSettings(OptimizerSettings):
    """``batch`` pairs, each with up to ``scored_steps`` steps that both pictures recorded, make one optimiser step."""

    held = 2
    beta: float = setting(0.1, "Weight of the preference against the base model.", above=0)
    batch: int = setting(8, "Pairs of a good and a bad picture in one optimiser step.", least=1)
    epochs: int = setting(1, "Passes over the pairs.", least=1)
    scored_steps: int = setting(5, "Steps used of each pair, of those that both pictures recorded.", least=1)


def pairs(feedback: Feedback, generator: torch.Generator) -> Tensor:
    """(good, bad) pictures ``(p, 2)``: each of the more frequent kind once, each of the rarer kind in turn."""
    sides = [torch.tensor(side, dtype=torch.int64) for side in (feedback.good, feedback.bad)]
    count = max(map(len, sides))
    if min(map(len, sides)) == 0:
        return torch.empty(0, 2, dtype=torch.int64)
    return torch.stack([seeding.laps(side, count, generator) for side in sides], dim=1)


def preference_loss(log_ratio_good: Tensor, log_ratio_bad: Tensor, beta: float) -> Tensor:
    """``-log sigmoid(beta * (log_ratio_good - log_ratio_bad))`` of each pair of steps.

    ``log_ratio = log pi(x_next | x) - log pi_base(x_next | x)``, of whole densities, summed over the latent: ``(m,)``.
    """
    return -F.logsigmoid(beta * (log_ratio_good - log_ratio_bad))


def update(
    policy: Policy,
    lora: LoRAState,
    rollout: Rollout,
    reward: Reward,
    settings: D3POSettings,
    *,
    seed: int,
    progress: Progress = no_progress,
) -> tuple[LoRAState, dict[str, float]]:
    """One round of D3PO from the marks alone; the rewards are not looked at.

    Raises :class:`HeroError` where good or bad is missing, or where no two pictures recorded the same step.
    """

    steps, rows = _pair_steps(rollout, reward.feedback, settings, seed), settings.rows(rollout)

    def body(actor: Actor) -> tuple[LoRAState, dict[str, float]]:
        scored = scored_steps(actor, policy, rollout, rows, progress)
        optimizer = LoRAOptimizer(actor, lora, settings)
        groups = [steps[order] for order in _orders(len(steps), rollout, settings, seed)]
        total, done, losses = sum(map(len, groups)), 0, []
        for group in groups:
            for part in _calls(group, scored):
                losses += optimizer.backward(partial(_loss, scored, part, settings.beta, len(group)))
                done += len(part)
                progress(done, total, None)
            optimizer.step()
        kl = scored.kl_to_base(steps[:, :2])
        metrics = {"loss": sum(losses) / len(losses), "pair_steps": float(len(steps)), "kl_to_base": kl}
        return optimizer.state(), {**optimizer.metrics(), **metrics}

    return policy.run(body, lora=lora, rows=rows, grad=True, cfg=rollout.settings.cfg)


def _pair_steps(rollout: Rollout, feedback: Feedback, settings: D3POSettings, seed: int) -> Tensor:
    """``(m, 4)``: picture and slot of the good, picture and slot of the bad, both slots of the same step."""
    check_recorded(rollout, settings.scored_steps)
    generator = seeding.generator(seed, rollout.round, "pairs")
    found = []
    for good, bad in pairs(feedback, generator).tolist():
        same = torch.nonzero(rollout.steps[good][:, None] == rollout.steps[bad][None, :])
        for g, b in same[torch.randperm(len(same), generator=generator)[: settings.scored_steps]].tolist():
            found.append((good, g, bad, b))
    if not found:
        raise HeroError(
            "No pair of a good and a bad picture has a recorded step in common: mark some pictures bad, and raise "
            "scored_steps on the sampler."
        )
    return torch.tensor(found)


def _orders(count: int, rollout: Rollout, settings: D3POSettings, seed: int) -> Iterator[Tensor]:
    for epoch in range(settings.epochs):
        order = seeding.generator(seed, rollout.round, "update order", epoch)
        yield from torch.randperm(count, generator=order).split(settings.batch * settings.scored_steps)


def _calls(group: Tensor, scored: ScoredSteps) -> Iterator[Tensor]:
    """Pairs of steps for one call of the model on the goods and one on the bads."""
    kinds = scored.rollout.steps[group[:, 0], group[:, 1]]
    for part in [group] if scored.policy.mixed_sigmas else [group[kinds == kind] for kind in kinds.unique()]:
        yield from part.split(scored.rows)


def _loss(scored: ScoredSteps, rows: Tensor, beta: float, group_rows: int) -> tuple[Tensor, list[float]]:
    """The share of these pairs in the loss of a group, and the loss of each."""
    loss = preference_loss(_log_ratio(scored, rows[:, :2]), _log_ratio(scored, rows[:, 2:]), beta)
    return loss.sum() / group_rows, loss.detach().tolist()


def _log_ratio(scored: ScoredSteps, index: Tensor) -> Tensor:
    padded, _ = next(scored.chunks(index))
    latent = scored.rollout.x[0, 0].numel()  # log-probabilities are kept as means over the latent
    return latent * (scored.log_prob(padded) - scored.base_log_prob(padded))[: len(index)]
