# SPDX-License-Identifier: Apache-2.0
"""Rounds to test with: drawn from the toy policy, rated by a rule, played on a store."""

from __future__ import annotations

from typing import Any

import torch
from toy import SHAPE, ToyPolicy

from hero_core import loop, seeding
from hero_core.embedding import EmbeddingSettings
from hero_core.feedback import Feedback
from hero_core.loop import learn_reward, next_mixture, sample_round, save_round, show_round, update_lora
from hero_core.lora import LoRAConfig
from hero_core.mixture import MixtureSettings
from hero_core.reward import Reward
from hero_core.rollout import Rollout, SamplingSettings, sample
from hero_core.store import Round, Session, SessionSettings, Store
from hero_core.store.state import State
from hero_core.update.common import OptimizerSettings
from hero_core.update.ddpo import DDPOSettings

SETTINGS = SamplingSettings(steps=20, micro_batch=4)
SAMPLING = SamplingSettings(steps=12, micro_batch=4)
EMBEDDING = EmbeddingSettings(steps=8, lr=1e-4)
N = 8


def rollout_of(policy: ToyPolicy, n: int = 8, settings: SamplingSettings = SETTINGS):  # type: ignore[no-untyped-def]
    lora = policy.fresh_lora(LoRAConfig(), seeding.generator(0, "lora"))
    z_T = seeding.randn(SHAPE, seeding.picture_generators(n, 0, 1, "z_T"))
    source = torch.full((n,), -1)
    return lora, sample(policy, lora, z_T, source, settings, seed=0, round=1)


def rewards(n: int = 8) -> Reward:
    return Reward(torch.linspace(0, 1, n), Feedback(n))


def rate(rollout: Rollout, best: Any = "brightest", good: float = 0.5) -> Feedback:
    """Good = above the median of the latents' mean; the best is the highest."""
    score = rollout.z_0.mean((1, 2, 3))
    order = score.argsort(descending=True).tolist()
    labels = {p: "good" if rank < good * N else "bad" for rank, p in enumerate(order)}
    return Feedback(N, labels, order[0] if best == "brightest" else best)  # type: ignore[arg-type]


def pictures_of(rollout: Rollout) -> torch.Tensor:
    return rollout.z_0[:, :3].permute(0, 2, 3, 1).repeat_interleave(4, 1).repeat_interleave(4, 2).sigmoid()


def begin(session: Session, policy: ToyPolicy, feedback: Feedback | None = None, **more: Any) -> Rollout:
    rollout = sample_round(session, policy, N, SAMPLING)
    shown = show_round(session, rollout, pictures_of(rollout), "standalone")
    shown.put_marks(0, feedback or rate(rollout, **more))
    shown.submit()
    return rollout


def finish(
    session: Session, policy: ToyPolicy, rollout: Rollout, update: OptimizerSettings | None = None
) -> loop.SavedRound:
    feedback = loop.feedback_of(session, rollout)
    assert feedback is not None
    reward = learn_reward(session, rollout, feedback, EMBEDDING)
    lora = update_lora(session, policy, rollout, reward, update or DDPOSettings())
    return save_round(session, reward, lora, next_mixture(session, rollout, feedback, MixtureSettings()))


def play(
    session: Session, policy: ToyPolicy, rounds: int = 1, update: OptimizerSettings | None = None, **more: Any
) -> None:
    for _ in range(rounds):
        finish(session, policy, begin(session, policy, **more), update)


def same_state(a: State, b: State) -> bool:
    assert None not in (a.lora, a.embedding, a.mixture, a.best, b.lora, b.embedding, b.mixture, b.best)
    pairs: list[tuple[dict, dict]] = [
        (a.lora.weights, b.lora.weights), (a.lora.optimizer, b.lora.optimizer), (a.lora.memory, b.lora.memory),
        (a.embedding.weights, b.embedding.weights), (a.embedding.optimizer, b.embedding.optimizer),
        ({"best": a.mixture.best, "goods": a.mixture.goods}, {"best": b.mixture.best, "goods": b.mixture.goods}),
        ({"z_0": a.best.z_0, "z_T": a.best.z_T}, {"z_0": b.best.z_0, "z_T": b.best.z_T}),
    ]  # fmt: skip
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in pairs)


def sampled(store: Store, name: str = "rose", n: int = 6) -> Round:
    """The open round of a session, with grey pictures of their own brightness each."""
    session = store.open(name, SessionSettings())
    rollout = Rollout(
        round=session.open_round, z_T=torch.zeros(n, 1, 1, 1), z_0=torch.zeros(n, 1, 1, 1),
        source=torch.full((n,), -1), sigmas=torch.tensor([1.0, 0.0]), steps=torch.zeros(n, 1, dtype=torch.int64),
        x=torch.zeros(n, 1, 1, 1, 1), x_next=torch.zeros(n, 1, 1, 1, 1), x0_hat=torch.zeros(n, 1, 1, 1, 1),
        log_prob=torch.zeros(n, 1),
        settings=SamplingSettings(steps=1, scored_steps=1),
    )  # fmt: skip
    round_ = session.round(session.open_round)
    round_.write_rollout(rollout)
    shades = (torch.arange(n) / n).view(n, 1, 1, 1).expand(n, 20, 10, 3)
    round_.write_pictures(shades, "resume")
    return round_
