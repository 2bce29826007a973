# SPDX-License-Identifier: Apache-2.0
"""A look, before a round is drawn, at whether a MODEL gives the same answer to the same question."""

from __future__ import annotations

import torch
from torch import Tensor

from ..hero_core.errors import HeroError
from ..hero_core.loop import current_lora
from ..hero_core.lora import LoRAState
from ..hero_core.store import Session
from .comfy_host import throw_if_cancelled
from .comfy_policy import ComfyActor, ComfyPolicy

SHARES = (0.56, 0.54, 0.52, 0.5)
"""Where in the model's table of noise levels it is asked: near one another, so that a cache takes one for the next."""

TOLERANCE = 1e-3
"""How far two answers may lie apart, in units of the largest: rows of one batch may be rounded differently, no more."""


ROWS = 4
"""So many pictures at a time at the most: their order is what counts."""


def refuse_what_does_not_repeat(
    policy: ComfyPolicy, session: Session, rows: int, cfg: float, on_the_way: list[str]
) -> None:
    """Raise :class:`HeroError` where a model call depends on the calls before it, or on a row's place in the batch.

    Nothing can be learned from its steps, and the update would find out only after a person has rated. It costs eight
    calls of at most :data:`ROWS` rows, and none where nothing is hung into the model or the session has another one.
    ``rows`` and ``cfg``: as the round is drawn; ``on_the_way``: what may be at fault.
    """
    if policy.mixed_sigmas or session.fingerprint not in (None, policy.fingerprint):
        return
    far = _difference(policy, current_lora(session, policy), min(ROWS, rows), cfg)
    if far > TOLERANCE:
        suspects = f" Between the checkpoint and here stand: {', '.join(on_the_way)}." if on_the_way else ""
        raise HeroError(
            f"This MODEL does not repeat itself: the same latents in another order gave an answer that is {far:.1%} "
            "off, so nothing can be learned from a round. Something that is wired into it keeps values between steps "
            "(as EasyCache and LazyCache do) or treats the pictures of a batch differently (as guidance for video "
            f"does): take that node out.{suspects}"
        )


def _difference(policy: ComfyPolicy, lora: LoRAState, rows: int, cfg: float) -> float:
    """The largest difference between two rounds of questions, the second backwards and with the rows reversed."""
    z_T = torch.randn(rows, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    sigmas = policy.training_sigma(torch.tensor(SHARES))

    def ask(noise: Tensor, order: list[int]) -> dict[int, Tensor]:
        def body(actor: ComfyActor) -> dict[int, Tensor]:
            found = {}
            for number in order:
                throw_if_cancelled()
                sigma = sigmas[number]
                found[number] = actor.denoise(actor.initial(noise, float(sigma)), sigma.expand(rows)).cpu()
            return found

        return policy.run(body, lora=lora, rows=rows, grad=False, cfg=cfg)

    forth = list(range(len(sigmas)))
    first, second = ask(z_T, forth), ask(z_T.flip(0), forth[::-1])
    return max(_apart(first[number], second[number].flip(0)) for number in forth)


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-12))
