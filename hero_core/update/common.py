# SPDX-License-Identifier: Apache-2.0
"""What every update rule shares: the optimiser of the LoRA, and the recorded steps as the policy sees them now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from ..compact import from_levels
from ..errors import HeroError
from ..lora import LoRAState
from ..optimizer import load_optimizer, optimizer_state
from ..policy import Actor, Policy, Progress, no_progress
from ..rollout import Rollout, chunks, step_noise
from ..settings import check, setting
from ..transition import Transitions

T = TypeVar("T")


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with a bound on the gradient's norm (HERO, appendix B), and how many rows a call of the model takes.

    Of each kind, for reckoning memory: whether predictions are ``guided``, and how many one loss ``held`` together.
    """

    guided, held = True, 1

    lr: float = setting(3e-4, "Learning rate of the LoRA.", above=0, low=1e-8, high=1, step=1e-5)
    weight_decay: float = setting(1e-4, "Weight decay of AdamW.", least=0, high=1, step=1e-5)
    max_grad_norm: float = setting(
        1.0, "The gradient is scaled down to this norm where it is longer.", above=0, low=1e-3, high=100, step=0.01
    )
    micro_batch: int = setting(
        0,
        "Pictures that go through the model at a time while it learns; 0: as many as the round was drawn with, or "
        "fewer where they do not fit. Lower it when memory runs out while learning: the round and its marks stay as "
        "they are.",
        least=0, high=256,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)

    def rows(self, rollout: Rollout) -> int:
        """Rows of one model call of the update."""
        return min(self.micro_batch or rollout.rows, rollout.n)


class LoRAOptimizer:
    """Optimiser steps on the LoRA that ``actor`` wears.

    With an ``ema_decay`` above 0 the new LoRA is that share of the old one and the rest of the trained one.
    """

    def __init__(self, actor: Actor, before: LoRAState, settings: OptimizerSettings, ema_decay: float = 0.0) -> None:
        self.actor, self.before, self.settings, self.ema_decay = actor, before, settings, ema_decay
        self.parameters = actor.lora.parameters()
        if ema_decay and before.fast:
            actor.lora.load(before.fast)
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=settings.lr, weight_decay=settings.weight_decay, fused=False, foreach=False
        )
        load_optimizer(self.optimizer, self.parameters, before.optimizer)
        self.grad_norms: list[float] = []

    def backward(self, compute: Callable[[], tuple[Tensor, T]]) -> T:
        """Add the gradient of the loss that ``compute`` returns first; return what it returns last.

        In float16 ``compute`` may be called more than once, and the last call counts: it computes, and keeps nothing.
        """
        if self.actor.gradient_scale is not None:
            return self.actor.gradient_scale.backward(compute)
        loss, known = compute()
        loss.backward()  # type: ignore[no-untyped-call]
        return known

    def step(self) -> None:
        """Apply the gradients gathered so far; raises :class:`HeroError` where they are not finite."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.max_grad_norm)
        if not torch.isfinite(norm):
            raise HeroError("The gradient is NaN or infinite; the LoRA stays as it was. Try a smaller learning rate.")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.grad_norms.append(float(norm))

    def state(self) -> LoRAState:
        """The LoRA as it is now."""
        config, trained = self.before.config, self.actor.lora.weights()
        kept = optimizer_state(self.optimizer, self.parameters)
        if not self.ema_decay:
            return LoRAState(config, trained, kept)
        slow = {key: old.lerp(trained[key], 1 - self.ema_decay) for key, old in self.before.weights.items()}
        return LoRAState(config, slow, kept, trained)

    def metrics(self) -> dict[str, float]:
        """``grad_norm`` (the mean) and ``optimizer_steps``."""
        steps = len(self.grad_norms)
        return {"grad_norm": sum(self.grad_norms) / max(1, steps), "optimizer_steps": float(steps)}


class ScoredSteps:
    """The transitions of a rollout, seen by the policy as it is now.

    ``index`` is ``(m, 2)``, picture and slot of each step; a call of the model takes ``rows`` of them.
    """

    def __init__(self, actor: Actor, policy: Policy, rollout: Rollout, rows: int) -> None:
        self.actor, self.policy, self.rollout, self.rows = actor, policy, rollout, rows
        self.transitions = Transitions.of(rollout.sigmas, rollout.settings.eta, policy.flow)

    def chunks(self, index: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Cut ``index`` into calls of the model; each comes with a weight a row, 0 for padding."""
        kinds = self.rollout.steps[index[:, 0], index[:, 1]]
        # Timed conditioning looks at one sigma a call, so such policies get one step a chunk.
        groups = [index] if self.policy.mixed_sigmas else [index[kinds == kind] for kind in kinds.unique()]
        for group in groups:
            for rows, used in chunks(len(group), self.rows):
                yield group[rows], (torch.arange(len(rows)) < used).float()

    def mean(self, index: Tensor) -> Tensor:
        """``mu`` of each step: ``(m, C, H, W)`` on the actor's device."""
        return self.mean_at(index, self.x0_hat(index))

    def mean_at(self, index: Tensor, x0_hat: Tensor) -> Tensor:
        """``mu`` of each step, where the prediction is ``x0_hat`` ``(m, C, H, W)``."""
        x, _, step = self._recorded(index)
        return self.transitions.mean(x, x0_hat, step)

    def x0_hat(self, index: Tensor) -> Tensor:
        """What the policy predicts at the start of each step: ``(m, C, H, W)`` on the actor's device."""
        x, _, step = self._recorded(index)
        return self.actor.denoise(x, self.transitions.sigmas.to(x.device)[step])

    def log_prob(self, index: Tensor) -> Tensor:
        """Log-probability of each recorded step: ``(m,)``."""
        return self.log_prob_at(index, self.mean(index))

    def log_prob_at(self, index: Tensor, mu: Tensor) -> Tensor:
        """Log-probability ``(m,)`` of each recorded step, where its mean is ``mu``."""
        _, x_next, step = self._recorded(index)
        return self.transitions.log_prob(x_next, mu, step)

    def base_log_prob(self, index: Tensor) -> Tensor:
        """Log-probability of each recorded step under the base model (LoRA off): ``(m,)``, without gradient."""
        with torch.no_grad(), self.actor.lora.disabled():
            return self.log_prob(index)

    def kl_at(self, index: Tensor, mu: Tensor) -> Tensor:
        """The exact KL ``(m,)`` of each step to the base model (LoRA off), where its mean is ``mu``."""
        with torch.no_grad(), self.actor.lora.disabled():
            reference = self.mean(index)
        return self.transitions.kl(mu, reference, self._recorded(index)[2])

    @torch.no_grad()
    def kl_to_base(self, index: Tensor) -> float:
        """The exact KL to the base model, the mean over the steps of one call."""
        index, weight = next(self.chunks(index))
        kl = self.kl_at(index, self.mean(index)).cpu()
        return float((kl * weight).sum() / weight.sum())

    def _recorded(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        picture, slot = index.unbind(1)
        rollout, device = self.rollout, self.actor.device
        recorded = rollout.x[picture, slot], rollout.x_next[picture, slot], rollout.steps[picture, slot]
        return tuple(tensor.to(device) for tensor in recorded)  # type: ignore[return-value]


@torch.no_grad()
def scored_steps(
    actor: Actor, policy: Policy, rollout: Rollout, rows: int, progress: Progress = no_progress
) -> ScoredSteps:
    """The recorded steps in calls of ``rows``; those of a compact round computed again, by ``actor`` as it is now.

    From the state as it was kept, by the policy that drew and with the noise that it drew: what an update takes for the
    old policy is the old policy, however the state was rounded.
    """
    scored = ScoredSteps(actor, policy, rollout, rows)
    if rollout.scale is None:
        return scored
    x, x_next = from_levels(rollout.x, rollout.scale), step_noise(rollout, scored.transitions)
    x0_hat, log_prob = torch.zeros_like(x), torch.zeros(rollout.steps.shape)
    scored.rollout = replace(rollout, x=x, x_next=x_next, x0_hat=x0_hat, log_prob=log_prob, scale=None)
    every, done = torch.cartesian_prod(*map(torch.arange, rollout.steps.shape)), 0
    for index, weight in scored.chunks(every):
        used = weight.bool()
        picture, slot = index[used].unbind(1)
        predicted = scored.x0_hat(index)
        mu, s = scored.mean_at(index, predicted), scored.transitions.s[rollout.steps[picture, slot]]
        x0_hat[picture, slot] = predicted.cpu()[used]
        x_next[picture, slot] = mu.cpu()[used] + s[:, None, None, None] * x_next[picture, slot]
        log_prob[picture, slot] = scored.log_prob_at(index, mu).cpu()[used]
        done += len(picture)
        progress(done, len(every), None)
    return scored


def check_recorded(rollout: Rollout, wanted: int) -> None:
    """Raise :class:`HeroError` where fewer than ``wanted`` steps of each picture were recorded."""
    check_steps(rollout.recorded, wanted)


def check_steps(recorded: int, wanted: int) -> None:
    """Raise :class:`HeroError` where an update asks for more steps a picture than are ``recorded``."""
    if recorded == 0:
        raise HeroError(
            "No steps of these pictures are recorded, as another sampler drew them or none of their steps can be "
            "scored, and the update learns from recorded steps: wire Forward-Process LoRA Update, which needs none."
        )
    if wanted > recorded:
        raise HeroError(
            f"The update asks for {wanted} scored_steps of each picture and the round records {recorded}: lower "
            "scored_steps on the update, or raise it on HERO Sampler before the first mark."
        )
