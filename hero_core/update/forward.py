"""Noising finished latents again: what the rules learn from that need no recorded steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .. import seeding
from ..errors import HeroError
from ..policy import Actor, Policy
from .common import OptimizerSettings, one_or_more

Weighting = Literal["prediction", "x0"]


@dataclass(frozen=True)
class ForwardSettings(OptimizerSettings):
    """``steps`` optimiser steps a round, each on ``batch`` noised latents.

    ``weighting`` balances the noise levels: ``prediction`` is the squared error of the predicted noise (or velocity),
    as in pretraining; ``x0`` that of the predicted latent, divided by its own mean absolute error.
    """

    lr: float = 1e-3
    steps: int = 40
    batch: int = 16
    weighting: Weighting = "prediction"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_or_more(self, "steps", "batch")
        if self.weighting not in ("prediction", "x0"):
            raise HeroError(f"The weighting is {self.weighting!r}; it is 'prediction' or 'x0'.")


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


def error(x0_hat: Tensor, target: Tensor, sigma: Tensor, weighting: Weighting) -> Tensor:
    """Weighted squared error of each row of ``x0_hat`` ``(m, C, H, W)`` against the latent or prediction ``target``.

    The predicted noise is ``(x - alpha x0) / sigma`` and the velocity of flow models ``(x - x0) / sigma``: at a given
    ``x`` an error of x0 is ``sigma`` times an error of either.
    """
    difference = (x0_hat - target).flatten(1)
    if weighting == "prediction":
        return (difference / sigma[:, None]).square().mean(1)
    return difference.square().mean(1) / difference.detach().abs().mean(1).clamp(min=1e-5)


def draw_pictures(pictures: list[int], settings: ForwardSettings, seed: int, round: int) -> list[Tensor]:
    """Which pictures each optimiser step learns from: all of them in turn, ``batch`` at a time."""
    order = seeding.generator(seed, round, "update order")
    return list(seeding.laps(torch.tensor(pictures), settings.steps * settings.batch, order).split(settings.batch))
