# SPDX-License-Identifier: Apache-2.0
"""Learning from finished latents: noise them again, predict, compare. No recorded steps, no guidance, any sampler.

Shared by the rules that differ in their loss alone: :mod:`.goods` and :mod:`.nft`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .. import seeding
from ..errors import HeroError
from ..lora import LoRAState
from ..policy import Actor, Policy, Progress, Side
from ..reward import Reward
from ..rollout import Rollout
from ..settings import Setting, like, setting
from .common import LoRAOptimizer, OptimizerSettings

Weighting = Literal["prediction", "x0"]
TrainedSide = Literal["positive", "both"]
Source = Literal["marks", "embedding", "both"]

RULE = Setting(
    "nft",
    "nft: towards the goods and away from the bads (DiffusionNFT). goods: finetuning on the goods alone; simpler, and "
    "worth a few rounds at most, since the pictures fade when it goes on learning from its own.",
    choices=("nft", "goods"),
)
"""The rules that learn in this way."""


@dataclass(frozen=True)
class ForwardSettings(OptimizerSettings):
    """``steps`` optimiser steps a round, each on ``batch`` noised latents. ``source``: see :func:`goodness`."""

    guided = False
    lr: float = like(OptimizerSettings, "lr", 3e-3)
    steps: int = setting(80, "Optimiser steps a round.", least=1, high=100_000)
    batch: int = setting(8, "Noised pictures in one optimiser step.", least=1, high=4096)
    weighting: Weighting = setting(
        "x0",
        "How noise levels are balanced. prediction: squared error of the predicted noise (or velocity), as in "
        "pretraining. x0: that of the predicted latent, over its own mean absolute error.",
        choices=get_args(Weighting),
    )
    source: Source = setting(
        "marks",
        "What says how good a picture is. marks: your marks. embedding: the reward of Embedding Trainer. both: the "
        "mark where there is one, the reward elsewhere.",
        choices=get_args(Source),
    )
    replay: int = setting(0, "How many earlier rounds to learn from as well.", least=0)
    replay_weight: float = setting(
        1.0, "How much a picture of an earlier round counts beside one of this round.", least=0
    )
    ref_penalty: float = setting(
        0.0,
        "Weight of staying near the checkpoint: the squared distance to its predictions, in the unit of the loss. "
        "More keeps its look and its variety and learns less; try 0.3.",
        least=0, high=1000, step=0.01,
    )  # fmt: skip
    ema_decay: float = setting(
        0.0,
        "Keeps a slow average of the LoRA, this share of the old one each round, which draws the pictures and goes "
        "into the file. 0 is off; 0.5 learns a little slower and keeps more variety in rounds of 16 pictures.",
        least=0, below=1, high=0.999, step=0.01,
    )  # fmt: skip
    side: TrainedSide = setting(
        "positive",
        "The predictions that are trained: those from the positive prompt, or both, call by call, so that guidance "
        "has less to exaggerate.",
        choices=get_args(TrainedSide),
    )


def goodness(reward: Reward, source: Source, centred: bool = False) -> Tensor:
    """How good each picture is, ``(n,)`` in 0..1, NaN for pictures that are not to be learned from.

    ``marks``: 1 for good, 0 for bad, NaN for unrated, or, ``centred``, ``1/2 + 1/2 (R - mean R)`` of these;
    ``embedding``: ``1/2 + 1/2 clip((R - mean R) / std R, +-1)`` of the rewards; ``both``: the mark where there is one,
    else the reward's (DiffusionNFT's optimality probability).
    """
    spread = (reward.rewards - reward.rewards.mean()) / (reward.rewards.std() + 1e-8)
    found = 0.5 + 0.5 * spread.clamp(-1, 1)
    if source == "marks":
        found = torch.full_like(found, torch.nan)
    if source != "embedding":
        rated = reward.feedback.good + reward.feedback.bad
        share = len(reward.feedback.good) / max(1, len(rated))
        found[reward.feedback.good] = 1.0 - share / 2 if centred else 1.0
        found[reward.feedback.bad] = 0.5 - share / 2 if centred else 0.0
    return found


class Noised(NamedTuple):
    """Latents ``z_0`` noised to ``x`` at ``sigma``, one call of the model; the first ``used`` rows count.

    ``rows`` are their positions in what :meth:`Renoiser.batch` was given.
    """

    x: Tensor
    sigma: Tensor
    z_0: Tensor
    rows: Tensor
    used: int


class Renoiser:
    """Draws noise levels and noise for finished latents, ``rows`` a call of the model."""

    def __init__(self, actor: Actor, policy: Policy, rows: int, generator: torch.Generator) -> None:
        self.actor, self.policy, self.rows, self.generator = actor, policy, rows, generator

    def batch(self, z_0: Tensor) -> Iterator[Noised]:
        """``z_0`` ``(m, C, H, W)``, each at a time of its own, the times spread evenly over the training times."""
        u = self._times(len(z_0))
        noise = torch.randn(z_0.shape, generator=self.generator)
        for start in range(0, len(z_0), self.rows):
            used = min(self.rows, len(z_0) - start)
            index = torch.arange(start, start + self.rows).clamp(max=len(z_0) - 1)
            # Timed conditioning looks at one sigma a call, so such policies get one time a call.
            sigma = self.policy.training_sigma(u[index] if self.policy.mixed_sigmas else u[index[:1]].expand(self.rows))
            column = sigma[:, None, None, None]
            alpha = 1 - column if self.policy.flow else 1.0
            x = alpha * z_0[index] + column * noise[index]
            device = self.actor.device
            yield Noised(x.to(device), sigma.to(device), z_0[index].to(device), index, used)

    def _times(self, count: int) -> Tensor:
        spread = torch.arange(count) + torch.rand(count, generator=self.generator)
        return (spread / count)[torch.randperm(count, generator=self.generator)]


def error(x0_hat: Tensor, z_0: Tensor, sigma: Tensor, weighting: Weighting) -> Tensor:
    """Weighted squared error ``(m,)`` of predictions ``x0_hat`` ``(m, C, H, W)`` of the latents ``z_0``."""
    return squared(x0_hat, z_0) / unit(x0_hat, z_0, sigma, weighting)


def squared(x0_hat: Tensor, other: Tensor) -> Tensor:
    """Mean squared difference of each row."""
    return (x0_hat - other).flatten(1).square().mean(1)


def unit(x0_hat: Tensor, z_0: Tensor, sigma: Tensor, weighting: Weighting) -> Tensor:
    """What the squared differences of each noise level are divided by, ``(m,)``.

    The predicted noise is ``(x - alpha x0) / sigma`` and the velocity of flow models ``(x - x0) / sigma``: at a given
    ``x`` an error of x0 is ``sigma`` times an error of either.
    """
    if weighting == "prediction":
        return sigma.square()
    return (x0_hat - z_0).detach().flatten(1).abs().mean(1).clamp(min=1e-5)


Loss = Callable[[Noised, Tensor, Tensor, "Tensor | None"], Tensor]
"""``loss(noised, good, x0_hat, x0_old)``: ``(m,)``, with ``good`` ``(m,)`` from :func:`goodness`."""


def train(
    policy: Policy,
    lora: LoRAState,
    rollout: Rollout,
    reward: Reward,
    settings: ForwardSettings,
    good: Tensor,
    loss: Loss,
    *,
    old: bool,
    seed: int,
    progress: Progress,
) -> tuple[LoRAState, dict[str, float]]:
    """One round: ``steps`` optimiser steps on the pictures whose ``good`` ``(n,)`` is no NaN, which come up in turn.

    ``old``: whether the loss is given ``x0_old``, the prediction of the LoRA that drew the pictures.
    """
    usable = good.isfinite().nonzero().flatten()
    if not len(usable):
        raise HeroError("No picture of these rounds can be learned from: mark at least one good.")
    order = seeding.generator(seed, rollout.round, "update order")
    rows = settings.rows(rollout)
    batches = seeding.laps(usable, settings.steps * settings.batch, order).split(settings.batch)

    def body(actor: Actor) -> tuple[LoRAState, dict[str, float]]:
        optimizer = LoRAOptimizer(actor, lora, settings, settings.ema_decay)
        trainer = _Trainer(actor, lora if old else None, reward, settings, good, loss)
        renoiser = Renoiser(actor, policy, rows, seeding.generator(seed, rollout.round, "renoising"))
        for step, chosen in enumerate(batches):
            for call, noised in enumerate(renoiser.batch(rollout.z_0[chosen])):
                side: Side = "negative" if settings.side == "both" and (step + call) % 2 else "positive"
                share = partial(trainer.share, noised, chosen[noised.rows], side, len(chosen))
                trainer.note(optimizer.backward(share))
            optimizer.step()
            progress(step + 1, settings.steps, None)
        return optimizer.state(), {**trainer.metrics(), **optimizer.metrics()}

    return policy.run(body, lora=lora, rows=rows, grad=True, cfg=rollout.settings.cfg)


class _Trainer:
    """The weighted loss of noised pictures, and what became of it. ``old``: the LoRA that drew them, if it is asked."""

    def __init__(
        self, actor: Actor, old: LoRAState | None, reward: Reward, settings: ForwardSettings, good: Tensor, loss: Loss
    ) -> None:
        self.actor, self.old, self.reward, self.settings = actor, old, reward, settings
        self.good, self.loss = good, loss
        self.losses: list[float] = []
        self.distances: list[float] = []

    def share(self, noised: Noised, pictures: Tensor, side: Side, batch: int) -> tuple[Tensor, list[Tensor]]:
        """The share of these rows in the loss of a ``batch``, with the penalty for leaving the base model; and what is
        to be noted of them: the loss of each row that counts, and where it is penalised its distance."""
        x0_old = self._predict(noised, side, self.actor.lora.wearing(self.old.weights)) if self.old else None
        base = self._predict(noised, side, self.actor.lora.disabled()) if self.settings.ref_penalty else None
        x0_hat = self.actor.denoise(noised.x, noised.sigma, side)
        value = self.loss(noised, self.good[pictures].to(x0_hat), x0_hat, x0_old)
        noted = [value.detach()[: noised.used]]
        if base is not None:
            # In the unit of the loss: divided by a size of its own it would weigh as much near as far.
            distance = squared(x0_hat, base) / unit(x0_hat, noised.z_0, noised.sigma, self.settings.weighting)
            noted.append(distance.detach()[: noised.used])
            value = value + self.settings.ref_penalty * distance
        return (value * self.reward.weight(pictures).to(value))[: noised.used].sum() / batch, noted

    def note(self, noted: list[Tensor]) -> None:
        """Keep what :meth:`share` returned of a call that counted."""
        for kept, values in zip((self.losses, self.distances), noted, strict=False):
            kept += values.tolist()

    @torch.no_grad()
    def _predict(self, noised: Noised, side: Side, wearing: AbstractContextManager[None]) -> Tensor:
        with wearing:
            return self.actor.denoise(noised.x, noised.sigma, side)

    def metrics(self) -> dict[str, float]:
        """``loss``, and with a penalty the mean ``distance_to_base``."""
        means = {"loss": self.losses, "distance_to_base": self.distances}
        return {name: sum(values) / len(values) for name, values in means.items() if values}
