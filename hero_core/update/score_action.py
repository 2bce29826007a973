# SPDX-License-Identifier: Apache-2.0
"""Scores as Actions: continuous-time policy gradient with a critic (Zhao, Chen, Zhang, Yao, Tang, 2024; ICML 2025).

Sampling is a controlled diffusion whose action is the score; the value V of a state tells each step of a trajectory
which way to go, or what it was worth, where DDPO gives all steps the worth of the finished picture. The steps
themselves, and how the policy learns from them, are DDPO's.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .. import seeding
from ..lora import LoRAState
from ..optimizer import prefixed, under
from ..policy import Actor, Policy, Progress, no_progress
from ..reward import Reward
from ..rollout import Rollout
from ..settings import like, setting
from .common import check_recorded
from .critic import FOLDS, Critics, CriticSettings, Points, explained
from .policy_gradient import Objective, PolicyGradient, PolicyGradientSettings, clipped, recorded_steps

log = logging.getLogger(__name__)

Advantage = Literal["gradient", "gae", "delta", "terminal"]
ADVANTAGES: tuple[Advantage, ...] = ("gradient", "gae", "delta", "terminal")
KLAs = Literal["penalty", "reward"]
Normalise = Literal["round", "step"]
NORMALISE: tuple[Normalise, ...] = ("round", "step")
FEW = 8
"""Steps of one kind in a round below which their own spread says too little to normalise by."""


@dataclass(frozen=True)
class ScoreActionSettings(PolicyGradientSettings):
    """``advantage``: what a recorded step k is worth, with V of the recorded states and ``V = R`` at the end.

    ============  ====================================================================================
    ``gradient``  how far V rises along its own gradient, for a step that goes that way (the closed form)
    ``delta``     ``V_{k+1} - V_k`` (paper, theorem 4: the advantage rate over one step)
    ``gae``       ``sum over j of gae_lambda^j (V_{k+j+1} - V_{k+j})``
    ``terminal``  ``R - V_k``
    ============  ====================================================================================

    ``normalise`` by the spread over the whole ``round``, or over each kind of ``step`` (where it has 8 or more).
    ``kl_as``: whether the KL to the base model is a ``penalty`` in the loss or a running ``reward``, which the critic
    learns too. A critic that explains less than ``min_r2`` of the returns of pictures it has not seen is not used:
    the advantages are then DDPO's. ``replay``: rounds that the critic goes on learning from.
    """

    lr: float = like(PolicyGradientSettings, "lr", 3e-3)
    advantage: Advantage = setting("gradient", "What a step is worth.", choices=ADVANTAGES)
    gae_lambda: float = setting(0.9, "gae alone: how much each later step counts.", least=0, most=1)
    normalise: Normalise = setting(
        "round",
        "Advantages are divided by their spread over the round, or over each step of the schedule.",
        choices=NORMALISE,
    )
    kl_as: KLAs = setting(
        "penalty",
        "The KL as a penalty in the loss, or as a reward (a cost of each step) that the critic learns too.",
        choices=get_args(KLAs),
    )
    min_r2: float = setting(
        0.1,
        "The critic is used where it explains this share of the rewards of pictures that it has not learned from. "
        "Else the round learns as DDPO does.",
        most=1, low=-10, step=0.01,
    )  # fmt: skip
    critic_steps: int = like(CriticSettings, "steps", CriticSettings.steps)
    critic_lr: float = like(CriticSettings, "lr", CriticSettings.lr)
    critic_width: int = like(CriticSettings, "width", CriticSettings.width)
    replay: int = setting(0, "How many earlier rounds the critic goes on learning from.", least=0)

    @property
    def critic(self) -> CriticSettings:
        """The critic's own settings."""
        return CriticSettings(self.critic_steps, self.critic_lr, self.critic_width)


def step_advantages(values: Tensor, end: Tensor, running: Tensor, kind: Advantage, gae_lambda: float) -> Tensor:
    """What each recorded step was worth, ``(n, K)``, in the units of the values.

    ``values`` ``(n, K)``: V of the recorded states in order; ``end`` ``(n,)``: the final reward; ``running``
    ``(n, K)``: the reward of each step on the way.
    """
    if kind == "terminal":
        return returns(end, running) - values
    delta = torch.cat([values[:, 1:], end[:, None]], dim=1) + running - values
    if kind == "delta":
        return delta
    found = delta.clone()
    for k in reversed(range(found.shape[1] - 1)):
        found[:, k] += gae_lambda * found[:, k + 1]
    return found


def returns(end: Tensor, running: Tensor) -> Tensor:
    """The return from each recorded step on, ``(n, K)``: its running reward, those after it, and the final reward."""
    return running.flip(1).cumsum(1).flip(1) + end[:, None]


def normalised(gains: Tensor, steps: Tensor, how: Normalise, clip: float) -> Tensor:
    """Advantages ``(n, K)`` less their mean, over their spread, within ``+-clip``; ``steps`` ``(n, K)``: the kinds."""
    found = (gains - gains.mean()) / (gains.std() + 1e-8)
    if how == "step":
        for kind in steps.unique():
            same = steps == kind
            if int(same.sum()) >= FEW:
                found[same] = (gains[same] - gains[same].mean()) / (gains[same].std() + 1e-8)
    return found.clamp(-clip, clip)


def along(slopes: Tensor, means: Tensor, s: Tensor, advantage_clip: float, clip: float) -> Objective:
    """PPO's clipped ratio of a step whose noise points up the value's slope: it moves the mean that way, as far as
    ``clip`` lets any step of a round move.

    ``slopes`` and ``means`` ``(n, K, C, H, W)``: the gradient of V at the mean of each recorded step, and that mean;
    ``s`` ``(n, K)``: the steps' standard deviations. A step's advantage is what its own noise changes in V,
    ``s |slope|``, over the root mean square of all, at most ``advantage_clip``.
    """
    length = slopes.flatten(2).norm(dim=2)
    size = s * length
    gains = size / (size.square().mean().sqrt() + 1e-12)
    noise = slopes * (slopes[0, 0].numel() ** 0.5 / length.clamp(min=1e-12))[..., None, None, None]
    ppo = clipped(gains.clamp(max=advantage_clip), clip)

    def objective(index: Tensor, mu: Tensor, ratio: Tensor) -> Tensor:
        picture, slot = index.unbind(1)
        shift = (mu - means[picture, slot].to(mu)) / s[picture, slot].to(mu)[:, None, None, None]
        return ppo(index, mu, (noise[picture, slot].to(mu) * shift - shift.square() / 2).flatten(1).mean(1).exp())

    return objective


def update(
    policy: Policy,
    lora: LoRAState,
    rollout: Rollout,
    reward: Reward,
    settings: ScoreActionSettings,
    *,
    seed: int,
    progress: Progress = no_progress,
) -> tuple[LoRAState, dict[str, Any]]:
    """One round of Scores as Actions from the rewards of the pictures; returns the new LoRA and the statistics.

    The critic, its optimiser and the states it replays travel in ``lora.memory``. Raises as
    :func:`hero_core.update.ddpo.update` does.
    """
    check_recorded(rollout, settings.scored_steps)

    def body(actor: Actor) -> tuple[LoRAState, dict[str, Any]]:
        return _Round(actor, policy, lora, rollout, reward, settings, progress).run(seed)

    state, metrics = policy.run(body, lora=lora, rows=settings.rows(rollout), grad=True, cfg=rollout.settings.cfg)
    log.info(
        "Score-as-Action round %d: the critic explains %.0f%% of returns it has not seen, advantages %s, %d steps",
        rollout.round, 100 * metrics["critic_r2"], metrics["advantage"], metrics["optimizer_steps"],
    )  # fmt: skip
    return state, metrics


class _Unit(NamedTuple):
    """Rewards in units of the round: less their mean, over their spread."""

    mean: float
    std: float

    def __call__(self, rewards: Tensor) -> Tensor:
        return (rewards - self.mean) / self.std


class _Round:
    """One update while the model is loaded. ``n`` pictures, ``K`` recorded steps each, ``m = n K`` states."""

    def __init__(self, actor: Actor, policy: Policy, lora: LoRAState, rollout: Rollout, reward: Reward,
                 settings: ScoreActionSettings, progress: Progress = no_progress) -> None:  # fmt: skip
        self.actor, self.policy, self.lora, self.progress = actor, policy, lora, progress
        self.scored = recorded_steps(actor, policy, rollout, settings.rows(rollout), progress)
        self.rollout, self.reward, self.settings = self.scored.rollout, reward, settings
        self.unit = _Unit(float(reward.rewards.mean()), float(reward.rewards.std()) + 1e-8)
        self.scale = float(rollout.z_0.std()) + 1e-8
        n, k = rollout.steps.shape
        self.index = torch.stack([torch.arange(n).repeat_interleave(k), torch.arange(k).repeat(n)], dim=1)
        self.fold = (self.index[:, 0] % FOLDS).to(actor.device)

    def run(self, seed: int) -> tuple[LoRAState, dict[str, Any]]:
        settings, rollout = self.settings, self.rollout
        end, running = self.unit(self.reward.rewards), self._running_kl()
        target = returns(end, running)
        states, kept = self._states(), Replay.of(self.lora.memory)
        points = self._points(*states, self.fold)
        critics = self._critics(seed)
        drawn = seeding.generator(seed, rollout.round, "critic")
        critics.train(*self._with_replay(points, target.flatten(), kept), drawn, self.progress)
        with torch.no_grad():
            values = critics.values(points).cpu().view_as(target)
        r2 = explained(values, target)
        trusted = r2 >= settings.min_r2  # not so where the returns have no spread, and R squared is NaN
        objective = self._objective(critics, values, end, running) if trusted else clipped(
            target.clamp(-settings.advantage_clip, settings.advantage_clip), settings.clip
        )  # fmt: skip
        trainer = PolicyGradient(self.actor, self.scored, self.lora, settings)
        state, metrics = trainer.run(objective, seed, self.progress, penalty=settings.kl_as == "penalty")
        kept = kept.then(states, self.fold, rollout, self.reward.rewards).last(settings.replay)
        memory = {**state.memory, **prefixed("critic", critics.memory()), **kept.memory()}
        return replace(state, memory=memory), {
            **metrics,
            "critic_r2": r2,
            "advantage": settings.advantage if trusted else "mean",
            "values": self._shown(values),
            "kl_by_step": self._kl_by_step(),
        }

    def _objective(self, critics: Critics, values: Tensor, end: Tensor, running: Tensor) -> Objective:
        settings, steps = self.settings, self.rollout.steps
        if settings.advantage == "gradient":
            slopes, means = self._slopes(critics)
            return along(slopes, means, self.scored.transitions.s[steps], settings.advantage_clip, settings.clip)
        worth = step_advantages(values, end, running, settings.advantage, settings.gae_lambda)
        return clipped(normalised(worth, steps, settings.normalise, settings.advantage_clip), settings.clip)

    # -- what the critic sees -------------------------------------------------------------------------------------

    def _states(self) -> tuple[Tensor, Tensor, Tensor]:
        """The recorded states, as :meth:`_seen` gives them."""
        rollout, device = self.rollout, self.actor.device
        x, x0_hat = (one.flatten(0, 1).to(device) for one in (rollout.x, rollout.x0_hat))
        return self._seen(x, x0_hat, self.scored.transitions.sigmas[rollout.steps.flatten()].to(device))

    def _seen(self, x: Tensor, x0_hat: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``x`` ``(m, C, H, W)`` at unit scale, ``x0_hat`` as a finished latent, and tau ``(m,)``."""
        alpha = 1 - sigma if self.policy.flow else torch.ones_like(sigma)
        length = (alpha.square() + sigma.square()).sqrt()[:, None, None, None]
        levels = self.policy.training_sigma(torch.linspace(0, 1, 1001)).to(sigma)
        tau = torch.searchsorted(levels, sigma.contiguous()).clamp(max=1000) / 1000
        return x / length, self.actor.final(x0_hat), tau

    def _points(self, x: Tensor, latents: Tensor, tau: Tensor, fold: Tensor) -> Points:
        score = self.reward.score
        prior = torch.full_like(tau, torch.nan) if score is None else self.unit(score(latents.cpu()).to(tau))
        return Points(x, latents / self.scale, tau, prior, fold)

    def _critics(self, seed: int) -> Critics:
        memory = under("critic", self.lora.memory)
        channels = self.rollout.z_0.shape[1]
        return Critics(channels, self.settings.critic, seed, memory, self.actor.device)

    def _with_replay(self, points: Points, target: Tensor, kept: Replay) -> tuple[Points, Tensor]:
        """The points and targets to learn from: this round's, and earlier ones by the reward of today."""
        device = self.actor.device
        if not len(kept.tau):
            return points, target.to(device)
        score = self.reward.score
        rewards = kept.rewards if score is None else score(kept.z_0)
        x, latents, tau, fold = (one.to(device) for one in (kept.x.float(), kept.x0.float(), kept.tau, kept.fold))
        earlier = self._points(x, latents, tau, fold)
        both = Points(*(torch.cat(pair) for pair in zip(points, earlier, strict=True)))
        return both, torch.cat([target, self.unit(rewards)[kept.picture]]).to(device)

    @torch.enable_grad()
    def _slopes(self, critics: Critics) -> tuple[Tensor, Tensor]:
        """The gradient of V at the mean of each recorded step, with respect to that mean, and the means: both
        ``(n, K, C, H, W)``.

        One step on, the model predicts nearly what it predicted before, so the same x0_hat stands for it there.
        """
        rollout, device, transitions = self.rollout, self.actor.device, self.scored.transitions
        slopes, means = [], []
        for index in torch.arange(len(self.index)).split(64):
            picture, slot = self.index[index].unbind(1)
            step = rollout.steps[picture, slot].to(device)
            x, x0_hat = rollout.x[picture, slot].to(device), rollout.x0_hat[picture, slot].to(device).requires_grad_()
            mu = transitions.mean(x, x0_hat, step)
            seen = self._seen(mu, x0_hat, transitions.sigmas.to(device)[step + 1])
            value = critics.values(self._points(*seen, self.fold[index.to(device)]))
            slope = torch.autograd.grad(value.sum(), x0_hat)[0]
            slopes.append((slope / transitions.a_x0.to(device)[step][:, None, None, None]).cpu())
            means.append(mu.detach().cpu())
        return torch.cat(slopes).view_as(rollout.x), torch.cat(means).view_as(rollout.x)

    # -- the KL to the base model, and what is shown -----------------------------------------------------------------

    @torch.no_grad()
    def _running_kl(self) -> Tensor:
        """The reward of each recorded step, ``(n, K)``: minus its weighted KL, which stands for steps not recorded."""
        rollout, found = self.rollout, torch.zeros(self.rollout.steps.shape)
        if self.settings.kl_as == "penalty" or not self.settings.kl_coef:
            return found
        share = len(self.scored.transitions.scorable()) / rollout.steps.shape[1]
        for index, weight in self.scored.chunks(self.index):
            picture, slot = index[weight > 0].unbind(1)
            kl = self.scored.kl_at(index, self.scored.mean(index)).cpu()
            found[picture, slot] = -self.settings.kl_coef * share * kl[weight > 0]
        return found

    @torch.no_grad()
    def _kl_by_step(self) -> list[list[float]]:
        """``[step, KL]`` of as many kinds of steps as one call of the model has rows, spread over the schedule."""
        kinds = self.rollout.steps.flatten().unique()
        kinds = kinds[torch.linspace(0, len(kinds) - 1, min(len(kinds), self.scored.rows)).round().long().unique()]
        firsts = torch.stack([self.index[(self.rollout.steps.flatten() == kind).nonzero()[0, 0]] for kind in kinds])
        found = []
        for index, weight in self.scored.chunks(firsts):
            kl = self.scored.kl_at(index, self.scored.mean(index)).cpu()
            steps = self.rollout.steps[index[:, 0], index[:, 1]]
            found += [[int(s), float(k)] for s, k, w in zip(steps, kl, weight, strict=True) if w]
        return sorted(found)

    def _shown(self, values: Tensor) -> dict[str, Any]:
        """V along one good and one bad picture, in units of the reward; the last value is the reward itself."""
        feedback, shown = self.reward.feedback, {}
        goods = [feedback.best] if isinstance(feedback.best, int) else feedback.good
        for kind, pictures in (("good", goods), ("bad", feedback.bad)):
            for picture in pictures[:1]:
                path = [*(self.unit.mean + self.unit.std * values[picture]).tolist()]
                steps = [*self.rollout.steps[picture].tolist(), len(self.scored.transitions)]
                path.append(float(self.reward.rewards[picture]))
                shown[kind] = {"picture": picture, "steps": steps, "values": path}
        return shown


class Replay(NamedTuple):
    """States of earlier rounds: ``m`` of ``p`` pictures, latents in half precision.

    ``x`` at unit scale and ``x0`` finished ``(m, C, H, W)``; ``tau``, ``fold`` and ``picture`` ``(m,)``, the last a
    place in ``z_0`` ``(p, C, H, W)``, ``rewards`` ``(p,)`` as they were given, and ``round`` ``(p,)``.
    """

    x: Tensor
    x0: Tensor
    tau: Tensor
    fold: Tensor
    picture: Tensor
    z_0: Tensor
    rewards: Tensor
    round: Tensor

    @classmethod
    def of(cls, memory: Mapping[str, Tensor]) -> Replay:
        """What :meth:`memory` kept; without it, nothing."""
        empty, places = torch.empty(0), torch.empty(0, dtype=torch.int64)
        nothing = cls(empty, empty, empty, places, places, empty, empty, places)
        return cls(**(nothing._asdict() | under("replay", memory)))

    def then(self, states: tuple[Tensor, Tensor, Tensor], fold: Tensor, rollout: Rollout, rewards: Tensor) -> Replay:
        """These and the states of ``rollout``."""
        x, x0, tau = (one.detach().cpu() for one in states)
        n, k = rollout.steps.shape
        picture = torch.arange(n).repeat_interleave(k) + len(self.z_0)
        more = Replay(x.half(), x0.half(), tau, fold.cpu(), picture, rollout.z_0, rewards,
                      torch.full((n,), rollout.round))  # fmt: skip
        return Replay(*(torch.cat([one, other]) for one, other in zip(self, more, strict=True)))

    def last(self, rounds: int) -> Replay:
        """The states of the last ``rounds`` rounds alone."""
        pictures = self.round > int(self.round.max()) - rounds
        states, places = pictures[self.picture], pictures.cumsum(0) - 1
        return Replay(
            self.x[states], self.x0[states], self.tau[states], self.fold[states], places[self.picture[states]],
            self.z_0[pictures], self.rewards[pictures], self.round[pictures],
        )  # fmt: skip

    def memory(self) -> dict[str, Tensor]:
        """The tensors by name; none where nothing is kept."""
        return prefixed("replay", self._asdict()) if len(self.tau) else {}
