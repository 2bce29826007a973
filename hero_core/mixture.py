# SPDX-License-Identifier: Apache-2.0
"""pi_HERO: initial noises drawn near those that gave the best and the good pictures of the last round."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from . import seeding
from .settings import check, setting

FROM_FRESH, FROM_BEST = -1, -2
"""Values of ``source`` beside the positions of the goods."""


@dataclass(frozen=True)
class MixtureSettings:
    """Where a round's noise comes from (HERO, 4.3); ``fresh`` is ours."""

    beta: float = setting(
        0.5, "Share of pictures drawn near the best; the others are drawn near the goods in turn. 0.5 in the paper.",
        least=0, most=1, step=0.01,
    )  # fmt: skip
    eps0: float = setting(
        0.1, "How far from them: 0 repeats their noise, 1 is fresh noise. 0.1 in the paper.", least=0, most=1, step=0.01
    )
    fresh: float = setting(
        0.0, "Share of a round that is drawn from fresh noise instead; beta parts the rest.", least=0, most=1, step=0.01
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Mixture:
    """``beta * N(best, eps0^2) + (1 - beta) * mean over goods of N(good, eps0^2)``, kept variance preserving.

    ``best`` is ``(C, H, W)``, ``goods`` ``(g, C, H, W)`` with g >= 1: unit noises z_T.
    """

    best: Tensor
    goods: Tensor
    settings: MixtureSettings

    def sample(self, generators: list[torch.Generator], order: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw one noise a generator: ``z = sqrt(1 - eps0^2) * z_ref + eps0 * noise``.

        Returns ``z_T`` ``(n, C, H, W)`` and ``source`` ``(n,)`` int64: :data:`FROM_BEST`, :data:`FROM_FRESH` or the
        position in ``goods``.
        The counts are the mixture's own shares (no sampling error); ``order`` shuffles them, so that a picture's place
        in the grid does not tell where it came from.
        """
        source = self._sources(len(generators), order)
        column = source[:, None, None, None]
        reference = torch.where(column == FROM_BEST, self.best, self.goods[source.clamp(min=0)])
        noise = torch.stack([torch.randn(self.best.shape, generator=g) for g in generators])
        eps0 = self.settings.eps0
        return torch.where(column == FROM_FRESH, noise, math.sqrt(1 - eps0**2) * reference + eps0 * noise), source

    def _sources(self, n: int, order: torch.Generator) -> Tensor:
        from_fresh = round(self.settings.fresh * n)
        from_best = round(self.settings.beta * (n - from_fresh))
        from_goods = seeding.laps(torch.arange(len(self.goods)), n - from_fresh - from_best, order)
        source = torch.cat(
            [torch.tensor([FROM_FRESH] * from_fresh + [FROM_BEST] * from_best, dtype=torch.int64), from_goods]
        )
        return source[torch.randperm(n, generator=order)]
