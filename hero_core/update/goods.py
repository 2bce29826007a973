# SPDX-License-Identifier: Apache-2.0
"""Finetuning on the goods: the denoising loss of pretraining on the pictures that were marked good, and nothing else.

What DreamBooth-like training does with the same marks, and rejection sampling finetuning once rounds follow each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..lora import LoRAState
from ..policy import Policy, Progress, no_progress
from ..reward import Reward
from ..rollout import Rollout
from ..settings import like
from .forward import ForwardSettings, Noised, TrainedSide, error, goodness, train


@dataclass(frozen=True)
class GoodsSettings(ForwardSettings):
    """See :class:`ForwardSettings`.

    ``side`` is both here. Where the positive prompt's predictions alone learn, guidance adds itself to pictures that
    were drawn with guidance, round after round, until they fade; nothing pushes back, as the bads do in DiffusionNFT.
    """

    side: TrainedSide = like(ForwardSettings, "side", "both")


def update(
    policy: Policy,
    lora: LoRAState,
    rollout: Rollout,
    reward: Reward,
    settings: GoodsSettings,
    *,
    seed: int,
    progress: Progress = no_progress,
) -> tuple[LoRAState, dict[str, float]]:
    """One round of finetuning on the goods, without guidance; the bads are not looked at."""

    def loss(noised: Noised, good: Tensor, x0_hat: Tensor, x0_old: Tensor | None) -> Tensor:
        return good * error(x0_hat, noised.z_0, noised.sigma, settings.weighting)

    good = goodness(reward, settings.source)
    good[good == 0] = torch.nan
    return train(policy, lora, rollout, reward, settings, good, loss, old=False, seed=seed, progress=progress)
