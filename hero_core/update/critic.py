# SPDX-License-Identifier: Apache-2.0
"""The value of a state on its way to a picture, learned on latents (Scores as Actions, Zhao et al., 2024, section 4).

``V(t, x) = cos(pi tau / 2) R(x0_hat) + sin(pi tau / 2) f(x, x0_hat, tau)`` with ``tau`` the share of the training times
from 0 (clean) to 1 (noise), R the reward of finished latents and f a small network that starts at zero. Without a
reward of latents (marks alone), ``V = f``.

A critic must not be asked about pictures that it has learned from: it would know their reward, and no step would
look better than another. So there are four of them, each learning from three quarters of the pictures, and each
picture's values come from the one that has not seen it (cross-fitting). A round has few pictures, so they learn under
noise: that keeps them from knowing the pictures by heart, and makes the slopes of V smooth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import seeding
from ..optimizer import load_optimizer, optimizer_state, prefixed, under
from ..policy import Progress, no_progress
from ..settings import check, setting

FOLDS = 4
BATCH = 0.25
"""The share of its points that a critic sees in one step of training."""
NOISE = 1.5
"""Standard deviation of the noise on what a critic learns from, whose own is about 1."""
GRID = 4
"""Cells a side that the features are pooled to, so that any size of latent fits."""
OCTAVES = 3
"""Sines and cosines of tau that the network is given."""


@dataclass(frozen=True)
class CriticSettings:
    """How the critic learns from a round, by Adam; ``width`` channels in its first convolution."""

    steps: int = setting(60, "Training steps of the critic a round.", least=1, high=100_000)
    lr: float = setting(4e-3, "Learning rate of the critic.", above=0, low=1e-8, high=1, step=1e-5)
    width: int = setting(16, "Channels of the critic.", least=1, high=512)

    def __post_init__(self) -> None:
        check(self)


class Points(NamedTuple):
    """States on the way, ``m`` of them, all of about unit scale.

    ``x`` and ``x0_hat`` ``(m, C, H, W)``; ``tau`` ``(m,)`` in 0..1; ``prior`` ``(m,)``: R(x0_hat), NaN where nothing
    rewards latents; ``fold`` ``(m,)``: the critic that judges the point, and never learns from it.
    """

    x: Tensor
    x0_hat: Tensor
    tau: Tensor
    prior: Tensor
    fold: Tensor


class Critic(nn.Module):
    """f: two strided convolutions over ``(x, x0_hat)``, pooled, and a small head that knows the time."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(2 * channels, width, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.SiLU(),
            nn.AdaptiveAvgPool2d(GRID), nn.Flatten(),
        )  # fmt: skip
        last = nn.Linear(64, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.Linear(2 * width * GRID**2 + 2 * OCTAVES, 64), nn.SiLU(), last)

    def forward(self, x: Tensor, x0_hat: Tensor, tau: Tensor) -> Tensor:
        angle = math.pi * tau[:, None] * 2.0 ** torch.arange(OCTAVES, device=tau.device)
        seen = self.look(torch.cat([x, x0_hat], dim=1))
        return self.head(torch.cat([seen, angle.sin(), angle.cos()], dim=1)).squeeze(1)


def value(critic: Critic, x: Tensor, x0_hat: Tensor, tau: Tensor, prior: Tensor) -> Tensor:
    """``V`` of states on the way, ``(m,)``; the arguments as in :class:`Points`."""
    learned, angle = critic(x, x0_hat, tau), math.pi * tau / 2
    return torch.where(prior.isnan(), learned, angle.cos() * prior.nan_to_num() + angle.sin() * learned)


class Critics:
    """The critics of a session, with their optimiser.

    ``memory``: what :meth:`memory` gave the round before; a memory of critics of another size is not taken up.
    """

    def __init__(
        self, channels: int, settings: CriticSettings, seed: int, memory: Mapping[str, Tensor], device: torch.device
    ) -> None:
        self.settings = settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeding.seed_for(seed, "critic"))
            self.critics = [Critic(channels, settings.width) for _ in range(FOLDS)]
        self.folds = nn.ModuleList(self.critics)
        shapes = {key: tensor.shape for key, tensor in self.folds.state_dict().items()}
        kept = under("w", memory)
        known = {key: tensor.shape for key, tensor in kept.items()} == shapes
        if known:
            self.folds.load_state_dict(kept)
        self.folds.to(device)
        named = dict(self.folds.named_parameters())
        self.optimizer = torch.optim.Adam(self.folds.parameters(), lr=settings.lr)
        load_optimizer(self.optimizer, named, under("o", memory) if known else {})

    @torch.enable_grad()
    def train(
        self, points: Points, target: Tensor, generator: torch.Generator, progress: Progress = no_progress
    ) -> None:
        """Squared error to ``target`` ``(m,)``, the return still to come, each critic on the points of the others.

        ``generator``, on the CPU, draws which of them a step takes, and the noise on them.
        """
        seen = [(points.fold != fold).nonzero().squeeze(1) for fold in range(FOLDS)]
        for step in range(self.settings.steps):
            errors = []
            for critic, mine in zip(self.critics, seen, strict=True):
                if len(mine):
                    some, places = _under_noise(points, mine, generator)
                    errors.append((value(critic, *some[:4]) - target[places]).square().mean())
            self.optimizer.zero_grad(set_to_none=True)
            torch.stack(errors).sum().backward()
            self.optimizer.step()
            progress(step + 1, self.settings.steps, None)

    def values(self, points: Points) -> Tensor:
        """V of each point ``(m,)`` by the critic that has not learned from its picture; differentiable."""
        found = torch.zeros_like(points.tau)
        for fold, judge in enumerate(self.critics):
            mine = points.fold == fold
            found = found.masked_scatter(mine, value(judge, *(column[mine] for column in points[:4])))
        return found

    def memory(self) -> dict[str, Tensor]:
        """What the next round begins with."""
        weights = {key: tensor.detach().to("cpu", copy=True) for key, tensor in self.folds.state_dict().items()}
        adam = optimizer_state(self.optimizer, dict(self.folds.named_parameters()))
        return prefixed("w", weights) | prefixed("o", adam)


def _under_noise(points: Points, places: Tensor, generator: torch.Generator) -> tuple[Points, Tensor]:
    """Some of the points at ``places``, with noise on what the network sees of them, and their places."""
    drawn = torch.randperm(len(places), generator=generator)[: math.ceil(BATCH * len(places))]
    places = places[drawn.to(places.device)]
    some = Points(*(column[places] for column in points))
    x, x0_hat = (one + NOISE * torch.randn(one.shape, generator=generator).to(one) for one in (some.x, some.x0_hat))
    return some._replace(x=x, x0_hat=x0_hat), places


def explained(values: Tensor, target: Tensor) -> float:
    """R squared of ``values`` against ``target``, both ``(m,)``: 1 is perfect, 0 no better than the mean; NaN without
    spread."""
    spread = float((target - target.mean()).square().sum())
    return 1 - float((values - target).square().sum()) / spread if spread > 0 else math.nan
