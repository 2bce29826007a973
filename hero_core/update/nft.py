# SPDX-License-Identifier: Apache-2.0
"""DiffusionNFT: negative-aware finetuning on finished latents (Zheng et al., 2025, "Online Diffusion Reinforcement
with Forward Process"): towards the goods and, mirrored at the old policy, away from the bads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..lora import LoRAState
from ..policy import Policy, Progress, no_progress
from ..reward import Reward
from ..rollout import Rollout
from ..settings import setting
from .forward import ForwardSettings, Noised, error, goodness, train


@dataclass(frozen=True)
class NFTSettings(ForwardSettings):
    """``centred``: marks count by how far they lie from the round's mean. Without, rounds that are nearly all good pull
    the policy to its own guided pictures, again and again, until they fade.
    """

    beta: float = setting(
        1.0,
        "nft alone: how far the two sides that are compared lie from the model that drew the pictures, in units of "
        "the step that the LoRA took.",
        above=0, low=0.01, high=10, step=0.01,
    )  # fmt: skip
    centred: bool = setting(True, "Marks count by how far they lie from the round's mean.")


def update(
    policy: Policy,
    lora: LoRAState,
    rollout: Rollout,
    reward: Reward,
    settings: NFTSettings,
    *,
    seed: int,
    progress: Progress = no_progress,
) -> tuple[LoRAState, dict[str, float]]:
    """One round of DiffusionNFT, without guidance.

    ``r |v+ - v|^2 + (1 - r) |v- - v|^2`` with ``v+ = (1 - beta) v_old + beta v`` and ``v- = (1 + beta) v_old - beta v``
    (eq. 8), where r is how good the picture is, and v_old predicts with the LoRA that drew it.
    """
    beta, weighting = settings.beta, settings.weighting

    def loss(noised: Noised, good: Tensor, x0_hat: Tensor, x0_old: Tensor | None) -> Tensor:
        assert x0_old is not None  # noqa: S101  # train() gives it where bads are learned from
        step = beta * (x0_hat - x0_old)
        positive = error(x0_old + step, noised.z_0, noised.sigma, weighting)
        negative = error(x0_old - step, noised.z_0, noised.sigma, weighting)
        return good * positive + (1 - good) * negative

    good = goodness(reward, settings.source, settings.centred)
    return train(policy, lora, rollout, reward, settings, good, loss, old=True, seed=seed, progress=progress)
