# SPDX-License-Identifier: Apache-2.0
"""A trained LoRA as people use it: other guidance, samplers, step counts, strengths and prompts, without recording."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from .. import seeding
from ..lora import LoRAState
from ..policy import Actor
from ..rollout import chunks
from ..tiny.model import TinyModel
from ..tiny.policy import TinyPolicy
from ..tiny.tasks import TASKS
from ..transition import Transitions
from . import raters

Sampler = Literal["euler_ancestral", "euler", "dpmpp_2m"]

NEIGHBOURS = {
    "colour": "one rose in a green vase on a brown table",
    "place": "a black cat and a box",
    "reflection": "a flower by the water at sunset",
    "frame": "beautiful mountains at sunset",
    "count": "red apples on a grey table",
    "not_this": "a street under a navy sky at night",
}
"""For each task another prompt for the same kind of picture, which leaves open what the task asks for."""


UNRELATED = "unrelated prompt"


@dataclass(frozen=True)
class Use:
    """One way to draw pictures with a LoRA. ``prompt`` is the task's own where it is empty."""

    name: str
    cfg: float = 5.0
    sampler: Sampler = "euler_ancestral"
    scheduler: str = "normal"
    steps: int = 20
    strength: float = 1.0
    prompt: str = ""


def uses(task: str) -> Iterator[Use]:
    """Every way that is measured; the first is the one that the LoRA was trained with."""
    yield Use("as trained")
    for cfg in (1.0, 7.0):
        yield Use(f"guidance {cfg:g}", cfg=cfg)
    yield Use("euler (DDIM, eta 0)", sampler="euler")
    yield Use("dpmpp_2m, karras", sampler="dpmpp_2m", scheduler="karras")
    for steps in (10, 50, 100):
        yield Use(f"{steps} steps", steps=steps)
    for strength in (0.5, 0.75, 1.25, 1.5):
        yield Use(f"strength {strength:g}", strength=strength)
    yield Use("neighbouring prompt", prompt=NEIGHBOURS[task])
    names = list(TASKS)
    yield Use(UNRELATED, prompt=TASKS[names[(names.index(task) + 3) % len(names)]].prompt)


def measure(model: TinyModel, task: str, lora: LoRAState, *, n: int, rows: int, seed: int) -> dict[str, dict]:
    """Success of the LoRA and of the base model in every use, ``n`` pictures each from the same noise.

    ``drift``: root mean square change of the pictures, in 0..1; it is all that counts for the unrelated prompt.
    """
    found: dict[str, dict] = {}
    without: dict[Use, Tensor] = {}  # the base model's pictures, by the use but for name and strength
    judge = TASKS[task].judge
    for use in uses(task):
        on = model.decode(draw(model, task, scaled(lora, use.strength), use, n=n, rows=rows, seed=seed))
        bare = replace(use, name="", strength=0.0)
        if bare not in without:
            without[bare] = model.decode(draw(model, task, scaled(lora, 0.0), bare, n=n, rows=rows, seed=seed))
        off = without[bare]
        found[use.name] = {
            "success": raters.success(judge, on),
            "base": raters.success(judge, off),
            "drift": float((on - off).square().mean().sqrt()),
        }
    return found


def scaled(lora: LoRAState, strength: float) -> LoRAState:
    """The LoRA at a strength, as LoraLoader applies it."""
    return replace(lora, weights={k: v * strength if "lora_B" in k else v for k, v in lora.weights.items()})


def draw(model: TinyModel, task: str, lora: LoRAState, use: Use, *, n: int, rows: int, seed: int) -> Tensor:
    """Latents ``(n, C, H, W)`` drawn from fresh noise in one way; equal seeds give equal noise."""
    policy = TinyPolicy(model, use.prompt or TASKS[task].prompt)
    sigmas = policy.sigmas(use.steps, use.scheduler)

    def body(actor: Actor) -> Tensor:
        z_T = seeding.randn(policy.latent_shape, seeding.picture_generators(n, seed, "use"))
        noises = seeding.picture_generators(n, seed, "use, step noise")
        finished = []
        for index, used in chunks(n, min(rows, n)):
            walk = _Walk(actor, sigmas, [noises[i] for i in index[:used].tolist()])
            x = walk.run(actor.initial(z_T[index], float(sigmas[0])), use.sampler)
            finished.append(actor.final(x)[:used])
        return torch.cat(finished)

    return policy.run(body, lora=lora, rows=min(rows, n), grad=False, cfg=use.cfg)


class _Walk:
    """One batch from noise to latents, in the sigma space of eps-models."""

    def __init__(self, actor: Actor, sigmas: Tensor, noises: list[torch.Generator]) -> None:
        self.actor, self.sigmas, self.noises = actor, sigmas, noises

    def run(self, x: Tensor, sampler: Sampler) -> Tensor:
        transitions = Transitions.of(self.sigmas, 0.0 if sampler == "euler" else 1.0, flow=False)
        before: Tensor | None = None
        for step, sigma in enumerate(self.sigmas[:-1]):
            x0_hat = self.actor.denoise(x, sigma.expand(len(x)))
            if sampler == "dpmpp_2m":
                x, before = self._multistep(x, x0_hat, before, step), x0_hat
            else:
                x = transitions.mean(x, x0_hat, torch.full((len(x),), step)) + transitions.s[step] * self._noise(x)
        return x

    def _noise(self, x: Tensor) -> Tensor:
        noise = seeding.randn(tuple(x.shape[1:]), self.noises)
        return torch.cat([noise, noise[-1:].expand(len(x) - len(noise), *noise.shape[1:])])

    def _multistep(self, x: Tensor, x0_hat: Tensor, before: Tensor | None, step: int) -> Tensor:
        """DPM-Solver++(2M) with alpha = 1 (Lu et al., 2022); first order where there is nothing before."""
        sigma, next_sigma = self.sigmas[step], self.sigmas[step + 1]
        direction = x0_hat
        if before is not None and next_sigma > 0:
            h, last = (sigma / next_sigma).log(), (self.sigmas[step - 1] / sigma).log()
            direction = (1 + h / (2 * last)) * x0_hat - h / (2 * last) * before
        return next_sigma / sigma * x + (1 - next_sigma / sigma) * direction
