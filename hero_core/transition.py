# SPDX-License-Identifier: Apache-2.0
"""One Gaussian denoising step, its log-probability and its KL divergence, for every model family.

A noisy latent is ``x = alpha * x0 + sigma * eps``. A step goes from ``sigma`` to ``sigma_next`` (a prime below).

====================  =============================================================================
``flow = False``      alpha = 1 (epsilon- and v-prediction in the variance-exploding parametrisation)
``flow = True``       alpha = 1 - sigma (rectified flow)
``s``                 eta * sigma' * sqrt(1 - rho^2), rho = (alpha / sigma) / (alpha' / sigma')
``r``                 sqrt(sigma'^2 - s^2)
``mu``                alpha' * x0_hat + r * eps_hat,  eps_hat = (x - alpha * x0_hat) / sigma
``x_next``            mu + s * noise
====================  =============================================================================

At eta = 1 and ``flow = False`` this is DDIM with full noise (Song et al., 2021, eq. 12 and 16): ancestral Euler.
All arithmetic on latents is float32, whatever the model's own precision: in bf16 the rounding of a stored latent alone
moves a log-probability by 30 times the clip range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

SENSITIVITY_LIMIT = 2.0
"""Steps whose mean moves by more than this many ``s`` per unit of predicted noise are never scored."""


@dataclass(frozen=True)
class Transitions:
    """The coefficients of every step of one schedule, each ``(steps,)`` float32.

    ``mu = a_x * x + a_x0 * x0_hat``; ``s`` is the step's standard deviation; ``sensitivity = |d mu / d eps| / s``
    (infinite where ``s`` is 0).
    """

    sigmas: Tensor
    a_x: Tensor
    a_x0: Tensor
    s: Tensor
    sensitivity: Tensor

    @classmethod
    def of(cls, sigmas: Tensor, eta: float, flow: bool) -> Transitions:
        """Tabulate the steps of ``sigmas`` ``(steps + 1,)``, computed in float64 and stored in float32."""
        rows = [_coefficients(float(a), float(b), eta, flow) for a, b in pairwise(sigmas)]
        columns = torch.tensor(rows, dtype=torch.float64).T.to(torch.float32)
        return cls(sigmas.to(torch.float32), *columns)

    def __len__(self) -> int:
        return len(self.s)

    def scorable(self) -> Tensor:
        """Indices of the steps that may be scored: noisy, and not hypersensitive to the prediction."""
        return torch.nonzero((self.s > 0) & (self.sensitivity <= SENSITIVITY_LIMIT)).flatten()

    def mean(self, x: Tensor, x0_hat: Tensor, step: Tensor | int) -> Tensor:
        """``mu`` of the step(s) for latents ``(m, C, H, W)``; ``step`` is one index or ``(m,)`` of them."""
        return _rows(self.a_x, step, x) * x + _rows(self.a_x0, step, x) * x0_hat

    def log_prob(self, x_next: Tensor, mu: Tensor, step: Tensor | int) -> Tensor:
        """Gaussian log density of ``x_next`` **averaged** over C, H and W: ``(m,)`` float32."""
        s = _rows(self.s, step, x_next)
        density = -((x_next - mu) ** 2) / (2 * s**2)
        return density.flatten(1).mean(1) - s.flatten().log() - 0.5 * math.log(2 * math.pi)

    def kl(self, mu: Tensor, mu_ref: Tensor, step: Tensor | int) -> Tensor:
        """Exact KL of two steps with one ``s`` and different means, averaged over C, H and W: ``(m,)``."""
        return ((mu - mu_ref) ** 2 / (2 * _rows(self.s, step, mu) ** 2)).flatten(1).mean(1)


def _coefficients(sigma: float, sigma_next: float, eta: float, flow: bool) -> tuple[float, float, float, float]:
    alpha, alpha_next = (1 - sigma, 1 - sigma_next) if flow else (1.0, 1.0)
    # rho = (alpha / sigma) / (alpha' / sigma'), written so that sigma' = 0 and alpha = 0 need no special case
    rho = alpha * sigma_next / (sigma * alpha_next)
    s = eta * sigma_next * math.sqrt(max(0.0, 1 - rho**2))
    r = math.sqrt(max(0.0, sigma_next**2 - s**2))
    a_x, a_x0 = r / sigma, alpha_next - r * alpha / sigma
    # d x0 / d eps = -sigma for epsilon models at alpha = 1, and for the velocity of flow models
    sensitivity = abs(sigma * a_x0) / s if s > 0 else math.inf
    return a_x, a_x0, s, sensitivity


def _rows(column: Tensor, step: Tensor | int, like: Tensor) -> Tensor:
    picked = column.to(like.device)[step]
    return picked.reshape(-1, *[1] * (like.ndim - 1))
