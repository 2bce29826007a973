# SPDX-License-Identifier: Apache-2.0
"""A round of trajectories: initial noise, finished latents, and the few scored transitions that an update needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from . import seeding
from .compact import bits_for, is_large, rounded, to_levels
from .errors import HeroError
from .lora import LoRAState
from .policy import Actor, Policy, Progress, no_progress
from .precision import remedy
from .settings import check, setting
from .transition import Transitions

DRAWN = 8
"""So many pictures go through the model at a time where nobody chose another number."""

ScoredPart = Literal["all", "early", "middle", "late"]
SCORED_PARTS: tuple[ScoredPart, ...] = ("all", "early", "middle", "late")


@dataclass(frozen=True)
class SamplingSettings:
    """How a round is drawn, and so also how it is learned from: the update asks the round, and no widget."""

    steps: int = setting(50, "Sampling steps: 50 in the paper; 20 for fast work.", least=1, high=1000)
    cfg: float = setting(5.0, "Guidance: 5 in the paper.", least=0, high=100, step=0.1)
    eta: float = setting(
        1.0,
        "Noise added at each step. 1 is the paper's choice, and the stock euler_ancestral sampler for SD 1.x, SD 2 and "
        "SDXL; for flow models (SD 3, Flux, Z-Image and others) that sampler adds another amount at each step. It must "
        "be above 0: without noise there is nothing to learn from.",
        above=0, most=1, low=0.01, step=0.01, why=": without noise nothing is learned",
    )  # fmt: skip
    scheduler: str = setting("normal", "As in KSampler.")
    micro_batch: int = setting(
        0,
        "Pictures that go through the model at a time; 0: as many as fit, at most 8. Lower it when memory runs out "
        "while drawing.",
        least=0, high=256,
    )  # fmt: skip
    scored_steps: int = setting(
        5, "Steps recorded for each picture (K: 5 in the paper). The update can use at most these.", least=1, high=100
    )
    scored_part: ScoredPart = setting(
        "all",
        "Where in the sampling the recorded steps lie. all: anywhere, as in the paper. early, middle, late: in one "
        "third of it. Early steps decide what is in the picture, late ones its details; on the tiny model early ones "
        "brought more into the LoRA, and late ones next to nothing.",
        choices=SCORED_PARTS,
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Rollout:
    """The trajectories of one round of ``n`` pictures; all tensors on the CPU, latents float32.

    =============  ==================  ================================================================
    ``z_T``        (n, C, H, W)        unit noise at the start; (0, C, H, W) where nobody knows it
    ``z_0``        (n, C, H, W)        finished latents in the model's own scale
    ``source``     (n,) int64          where z_T came from: -1 fresh noise, -2 best, else that good
    ``sigmas``     (steps + 1,)        noise levels, ending in 0
    ``steps``      (n, K) int64        which steps of each trajectory are scored
    ``x, x_next``  (n, K, C, H, W)     the scored transitions
    ``x0_hat``     (n, K, C, H, W)     what the policy that drew them predicted at ``x``
    ``log_prob``   (n, K)              log-probability of each under the policy that drew it
    ``scale``      (n, K, C, 2)        of large latents: ``x`` is in few bits (uint8), see below
    =============  ==================  ================================================================

    A ``compact`` round, of large latents, is what is kept in little room: ``z_0`` is rounded to float16, ``x`` to few
    bits (:func:`.compact.to_levels`), and ``x_next``, ``x0_hat`` and ``log_prob`` are left out (K = 0). An update
    computes them again from ``x``, by the policy that drew and the same noise, whose ``seed`` is known: so each step is
    one of that policy's own, from the state as it was rounded.
    """

    round: int
    z_T: Tensor
    z_0: Tensor
    source: Tensor
    sigmas: Tensor
    steps: Tensor
    x: Tensor
    x_next: Tensor
    x0_hat: Tensor
    log_prob: Tensor
    settings: SamplingSettings
    fingerprint: str = ""
    scale: Tensor | None = None
    seed: int = 0

    @property
    def compact(self) -> bool:
        """Whether this is what is kept in little room, see above."""
        return self.scale is not None

    @property
    def noise_known(self) -> bool:
        """Whether ``z_T`` is there: pictures of other samplers may come without."""
        return len(self.z_T) == self.n

    @property
    def n(self) -> int:
        """Pictures in the round."""
        return len(self.z_0)

    @property
    def recorded(self) -> int:
        """Steps of each picture that an update may ask for; 0 where none are kept (pictures of other samplers)."""
        return self.settings.scored_steps if self.steps.shape[1] else 0

    @property
    def rows(self) -> int:
        """Rows of one model call while the round was drawn."""
        return min(self.settings.micro_batch or DRAWN, self.n)


def no_transitions(z_0: Tensor) -> dict[str, Any]:
    """The fields of a rollout of ``z_0`` ``(n, C, H, W)`` of which no step was recorded (K = 0)."""
    n, none = len(z_0), (len(z_0), 0, *z_0.shape[1:])
    steps, log_prob = torch.empty(n, 0, dtype=torch.int64), torch.empty(n, 0)
    latents = {name: torch.empty(none) for name in ("x", "x_next", "x0_hat")}
    return {"steps": steps, **latents, "log_prob": log_prob}


def join(rollouts: list[Rollout]) -> Rollout:
    """The pictures of several rounds in one, under the number of the last; noise and transitions are left out."""
    z_0, source = (torch.cat([getattr(r, name) for r in rollouts]) for name in ("z_0", "source"))
    fields: dict[str, Any] = {"z_0": z_0, "z_T": z_0[:0], "source": source, **no_transitions(z_0), "scale": None}
    return replace(rollouts[-1], **fields)


def chunks(count: int, rows: int) -> Iterator[tuple[Tensor, int]]:
    """Cut ``range(count)`` into index tensors of exactly ``rows``; the last one repeats its end.

    Yields ``(indices, used)``: only the first ``used`` rows count.
    """
    for start in range(0, count, rows):
        used = min(rows, count - start)
        yield torch.arange(start, start + rows).clamp(max=count - 1), used


def choose_steps(
    transitions: Transitions, k: int, generators: list[torch.Generator], part: ScoredPart = "all"
) -> Tensor:
    """``k`` of the scorable steps for each trajectory, sorted, ``(n, k)``; all of them where there are fewer."""
    scorable = _scorable(transitions, part)
    k = min(k, len(scorable))
    picks = [scorable[torch.randperm(len(scorable), generator=g)[:k]].sort().values for g in generators]
    return torch.stack(picks)


def _scorable(transitions: Transitions, part: ScoredPart) -> Tensor:
    scorable = transitions.scorable()
    return scorable if part == "all" else scorable.tensor_split(3)[SCORED_PARTS.index(part) - 1]


MOST_STEPS = 200
"""So far one looks for a number of steps that can be scored."""


def scorable_steps(policy: Policy, settings: SamplingSettings) -> int:
    """How many steps of a picture can be scored; raises :class:`HeroError` with what would help where none can."""

    def count(steps: int) -> int:
        return len(_scorable(_transitions(policy, replace(settings, steps=steps)), settings.scored_part))

    if found := count(settings.steps):
        return found
    enough = next((n for n in range(settings.steps + 1, MOST_STEPS + 1) if count(n)), None)
    raised = f"set steps to {enough} or more" if enough else f"no number of steps up to {MOST_STEPS} helps"
    where = "" if settings.scored_part == "all" else f" of the {settings.scored_part} part"
    raise HeroError(
        f"None of the {settings.steps} steps{where} can be scored with scheduler {settings.scheduler!r} and eta "
        f"{settings.eta:g}, and the update that is wired learns from scored steps. Put Forward-Process LoRA Update in "
        f"its place, which needs none; or {raised}, or choose another scheduler"
        f"{' or scored_part all' if where else ''}."
    )


def _transitions(policy: Policy, settings: SamplingSettings) -> Transitions:
    return Transitions.of(policy.sigmas(settings.steps, settings.scheduler), settings.eta, policy.flow)


def sample(
    policy: Policy,
    lora: LoRAState,
    z_T: Tensor,
    source: Tensor,
    settings: SamplingSettings,
    *,
    seed: int,
    round: int,
    compact: bool = False,
    progress: Progress = no_progress,
) -> Rollout:
    """Denoise ``z_T`` ``(n, C, H, W)`` with the policy and keep K scored transitions of each trajectory.

    Every picture draws from generators of its own, keyed by (seed, round, purpose, picture), so the result does not
    depend on ``micro_batch`` beyond the rounding of the model itself. Where no step can be scored, K is 0.
    ``compact``: large latents in little room.
    """
    n, settings = len(z_T), replace(settings, micro_batch=settings.micro_batch or DRAWN)
    sigmas = policy.sigmas(settings.steps, settings.scheduler)
    transitions = _transitions(policy, settings)
    orders = seeding.picture_generators(n, seed, round, "steps")
    steps = choose_steps(transitions, settings.scored_steps, orders, settings.scored_part)
    recorder_of = _CompactRecorder if compact and is_large(z_T.shape[1:]) else _Recorder
    recorder = recorder_of(z_T, steps)
    noises = seeding.picture_generators(n, seed, round, "step noise")
    rows = min(settings.micro_batch, n)

    def body(actor: Actor) -> torch.dtype:
        for number, (index, used) in enumerate(chunks(n, rows)):
            start = number * len(transitions)

            def report(step: int, x0: Tensor, start: int = start, used: int = used) -> None:
                progress(start + step, -(-n // rows) * len(transitions), x0[:used])

            z_0 = _denoise(actor, transitions, z_T[index], noises, index[:used], recorder, report)
            recorder.z_0[index[:used]] = z_0[:used].cpu()
        return actor.dtype

    dtype = policy.run(body, lora=lora, rows=rows, grad=False, cfg=settings.cfg)
    kept = recorder.kept()
    if not torch.isfinite(kept["z_0"]).all():
        raise HeroError(f"The model returned NaN or infinity while sampling. {remedy(dtype)}")
    return Rollout(
        round, z_T, source=source, sigmas=sigmas, **kept, settings=settings, fingerprint=policy.fingerprint, seed=seed
    )


def step_noise(rollout: Rollout, transitions: Transitions) -> Tensor:
    """The unit noise of each recorded step, drawn again: ``(n, K, C, H, W)``."""
    shape = rollout.z_0.shape[1:]
    noises = seeding.picture_generators(rollout.n, rollout.seed, rollout.round, "step noise")
    found = torch.zeros(*rollout.steps.shape, *shape)
    for picture, generator in enumerate(noises):
        last = int(rollout.steps[picture].max())
        for step in (transitions.s[: last + 1] > 0).nonzero().flatten():
            noise = torch.randn(shape, generator=generator)
            found[picture, rollout.steps[picture] == step] = noise
    return found


def _denoise(actor, transitions, z_T, noises, pictures, recorder, report) -> Tensor:  # type: ignore[no-untyped-def]
    """One micro-batch from noise to latents; ``pictures`` are the row's pictures, padding left out."""
    shape = z_T.shape[1:]
    x = actor.initial(z_T.to(actor.device), float(transitions.sigmas[0]))
    for step in range(len(transitions)):
        sigma = transitions.sigmas[step].to(actor.device).expand(len(x))
        x0_hat = actor.denoise(x, sigma)
        mu = transitions.mean(x, x0_hat, step)
        x_next = mu
        if transitions.s[step] > 0:
            noise = seeding.randn(shape, [noises[p] for p in pictures]).to(x.device)
            # padding rows repeat the last picture; their noise is never looked at
            noise = torch.cat([noise, noise[-1:].expand(len(x) - len(noise), *shape)])
            x_next = mu + transitions.s[step].to(x.device) * noise
            recorder.record(step, pictures, x, x_next, x0_hat, transitions.log_prob(x_next, mu, step))
        x = x_next
        report(step + 1, x0_hat)
    return actor.final(x)


class _Recorder:
    """Room for the scored transitions, filled as their steps go by."""

    def __init__(self, z_T: Tensor, steps: Tensor) -> None:
        n, k = steps.shape
        self.steps = steps
        self.z_0 = torch.zeros_like(z_T)
        self.x = torch.zeros(n, k, *z_T.shape[1:])
        self.x_next, self.x0_hat = torch.zeros_like(self.x), torch.zeros_like(self.x)
        self.log_prob = torch.zeros(n, k)

    def kept(self) -> dict[str, Any]:
        """The fields of the rollout."""
        return {name: getattr(self, name) for name in ("z_0", "steps", "x", "x_next", "x0_hat", "log_prob")}

    def record(self, step: int, pictures: Tensor, x: Tensor, x_next: Tensor, x0_hat: Tensor, log_prob: Tensor) -> None:
        row, slot = torch.nonzero(self.steps[pictures] == step, as_tuple=True)
        if len(row):
            picture = pictures[row]
            self.x[picture, slot] = x[row.to(x.device)].cpu()
            self.x_next[picture, slot] = x_next[row.to(x.device)].cpu()
            self.x0_hat[picture, slot] = x0_hat[row.to(x.device)].cpu()
            self.log_prob[picture, slot] = log_prob[row.to(x.device)].cpu()


class _CompactRecorder:
    """The same for large latents: of each transition its ``x`` alone, in few bits."""

    def __init__(self, z_T: Tensor, steps: Tensor) -> None:
        self.steps, self.z_0 = steps, torch.zeros_like(z_T)
        self.bits = bits_for(steps.shape[1] * z_T[0].numel())
        self.x = torch.zeros(*steps.shape, *z_T.shape[1:], dtype=torch.uint8)
        self.scale = torch.zeros(*steps.shape, z_T.shape[1], 2)

    def kept(self) -> dict[str, Any]:
        """The fields of the rollout."""
        z_0 = rounded(self.z_0)
        return {**no_transitions(z_0), "z_0": z_0, "steps": self.steps, "x": self.x, "scale": self.scale}

    def record(self, step: int, pictures: Tensor, x: Tensor, *others: Tensor) -> None:
        row, slot = torch.nonzero(self.steps[pictures] == step, as_tuple=True)
        if len(row):
            self.x[pictures[row], slot], self.scale[pictures[row], slot] = to_levels(
                x[row.to(x.device)].cpu(), self.bits
            )
