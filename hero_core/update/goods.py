"""Finetuning on the goods: the denoising loss of pretraining on the pictures that were marked good, and nothing else.

What DreamBooth-like training does with the same marks, and rejection sampling finetuning once rounds follow each other.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import seeding
from ..errors import HeroError
from ..policy import Actor, LoRAState, Policy, Progress, no_progress
from ..reward import Reward
from ..rollout import Rollout
from .common import LoRAOptimizer
from .forward import ForwardSettings, Renoiser, draw_pictures, error


@dataclass(frozen=True)
class GoodsSettings(ForwardSettings):
    """See :class:`ForwardSettings`."""


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
    """One round of finetuning on the goods, without guidance; the rewards and the bads are not looked at."""
    goods = reward.feedback.good
    if not goods:
        raise HeroError("No picture is marked good, so there is nothing to finetune on.")

    def body(actor: Actor) -> tuple[LoRAState, dict[str, float]]:
        optimizer = LoRAOptimizer(actor, lora, settings)
        renoiser = Renoiser(actor, policy, rollout.rows, seeding.generator(seed, rollout.round, "renoising"))
        losses = []
        for number, pictures in enumerate(draw_pictures(goods, settings, seed, rollout.round)):
            for noised in renoiser.batch(rollout.z_0[pictures]):
                x0_hat = actor.denoise(noised.x, noised.sigma, guided=False)
                loss = error(x0_hat, noised.z_0, noised.sigma, settings.weighting)[: noised.used]
                (loss.sum() / len(pictures)).backward()
                losses += loss.detach().tolist()
            optimizer.step()
            progress(number + 1, settings.steps, None)
        return optimizer.state(), {"loss": sum(losses) / len(losses), **optimizer.metrics()}

    return policy.run(body, lora=lora, rows=rollout.rows, grad=True)
