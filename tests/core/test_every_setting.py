# SPDX-License-Identifier: Apache-2.0
"""Each field of each class of settings does something: another value, and other tensors come out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from kinds import settings_kinds
from rounds import N, pictures_of, rewards, rollout_of
from torch import Tensor
from toy import SHAPE, ToyPolicy

from hero_core import embedding, loop, seeding
from hero_core.embedding import EmbeddingSettings
from hero_core.errors import HeroError
from hero_core.feedback import Feedback
from hero_core.lora import LoRAConfig
from hero_core.mixture import Mixture, MixtureSettings
from hero_core.reward import similarity
from hero_core.rollout import SamplingSettings
from hero_core.store import Session, SessionSettings, Store
from hero_core.update import RULES
from hero_core.update.critic import Critics, CriticSettings, Points
from hero_core.update.d3po import D3POSettings
from hero_core.update.ddpo import DDPOSettings
from hero_core.update.goods import GoodsSettings
from hero_core.update.nft import NFTSettings
from hero_core.update.score_action import ScoreActionSettings

Outcome = dict[str, Tensor]

QUICK: dict[str, Any] = {"lr": 3e-3, "scored_steps": 4, "batch": 4}
LIVE: dict[type, dict[str, Any]] = {
    DDPOSettings: {**QUICK, "kl_coef": 1.0},
    D3POSettings: {"lr": 3e-3, "scored_steps": 4, "batch": 2},
    GoodsSettings: {"steps": 4, "replay": 1, "ref_penalty": 0.1},
    NFTSettings: {"steps": 4, "replay": 1, "ref_penalty": 0.1},
    ScoreActionSettings: {**QUICK, "kl_coef": 1.0, "critic_steps": 4, "min_r2": -9.0, "replay": 1},
    SamplingSettings: {"steps": 12},
    EmbeddingSettings: {"steps": 4, "lr": 1e-4},
    MixtureSettings: {},
    LoRAConfig: {},
    CriticSettings: {"steps": 4},
    SessionSettings: {},
}
"""Every class of settings, and values under which all its fields have something to do."""

ONLY_WITH: dict[str, dict[str, Any]] = {
    "gae_lambda": {"advantage": "gae"},
    "normalise": {"advantage": "gae"},
}
"""What a field needs beside :data:`LIVE` to have a say."""

TO: dict[str, Any] = {
    "max_grad_norm": 1e-7,
    "margin": 0.0,
    "eta": 0.9,
    "advantage_clip": 0.3,
    "clip": 1e-7,
    "kl_target": 1e-9,
    "min_r2": 1.0,
    "lora": LoRAConfig(rank=8),
    "targets": r".*attn1\.to_q",
    "scheduler": "karras",
}
"""The other value, where twice the value, one more or another of the choices would tell nothing or be refused."""

NOT_HERE = {
    "ratio_tolerance": "a bound: it refuses or lets pass, see test_the_tolerance_is_a_bound",
    "micro_batch": "rows of a call: nothing depends on them, see test_ddpo.py and test_as_drawn.py",
}
"""Fields that change no tensor, and why."""


def other(kind: type, field: Field[Any], value: Any) -> Any:
    """Another allowed value of a field."""
    if field.name in TO:
        return TO[field.name]
    hint = get_type_hints(kind)[field.name]
    if get_origin(hint) is Literal:
        return next(choice for choice in get_args(hint) if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value / 2 if value else 0.5


class Played:
    """A session in its third round, rated; its LoRA has moved and its memory holds what Scores as Actions keeps."""

    def __init__(self, session: Session) -> None:
        self.session, self.policy = session, ToyPolicy()
        self.policy.sided = True
        warm = ScoreActionSettings(lr=1e-2, critic_steps=4, replay=2, min_r2=-9.0)
        for _ in range(2):
            self.rate()
            lora = loop.update_lora(session, self.policy, self.rollout, self.reward, warm)
            loop.save_round(session, self.reward, lora)
        self.rate()

    def rate(self) -> None:
        """Draw the open round, every step recorded; good is what lies near picture 0, and so the reward ranks it."""
        every_step = SamplingSettings(steps=12, micro_batch=4, scored_steps=12)
        self.rollout = loop.sample_round(self.session, self.policy, N, every_step)
        near = similarity(self.rollout.z_0.flatten(1), self.rollout.z_0[:1].flatten(1)).argsort(descending=True)
        feedback = Feedback(N, {p: "good" if place < 3 else "bad" for place, p in enumerate(near.tolist())}, 0)
        shown = loop.show_round(self.session, self.rollout, pictures_of(self.rollout), "standalone")
        shown.put_marks(0, feedback)
        shown.submit()
        self.reward = loop.learn_reward(self.session, self.rollout, feedback, EmbeddingSettings(steps=0), "latent")
        assert self.reward.skip is None, "a round that teaches nothing moves nothing"

    def updated(self, settings: Any) -> Outcome:
        state = loop.update_lora(self.session, self.policy, self.rollout, self.reward, settings).state
        return {**state.weights, **{f"memory {name}": one for name, one in state.memory.items()}}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("played")
    return Played(Store(folder / "hero", folder / "loras").open("toy", SessionSettings(seed=7)))


def sampled(settings: SamplingSettings) -> Outcome:
    _, rollout = rollout_of(ToyPolicy(), settings=settings)
    return {"z_0": rollout.z_0, "steps": rollout.steps, "x": rollout.x}


def embedded(settings: EmbeddingSettings) -> Outcome:
    latents = seeding.randn(SHAPE, seeding.picture_generators(6, "marks"))
    marks = embedding.RatedLatents(latents[0], latents[1:3], latents[3:])
    start = embedding.fresh_embedding(SHAPE, 0)
    return embedding.train(start, marks, settings, generator=seeding.generator(0))[0].weights


def mixed(settings: MixtureSettings) -> Outcome:
    best, *goods = seeding.randn(SHAPE, seeding.picture_generators(3, "references"))
    z_T, source = Mixture(best, torch.stack(goods), settings).sample(
        seeding.picture_generators(8, "z_T"), seeding.generator("order")
    )
    return {"z_T": z_T, "source": source}


def adapted(config: LoRAConfig) -> Outcome:
    policy, generator = ToyPolicy(), torch.Generator().manual_seed(0)
    fresh = policy.fresh_lora(config, generator)
    weights = {key: torch.randn(one.shape, generator=generator) for key, one in fresh.weights.items()}
    x, sigma = torch.ones(4, *SHAPE).cumsum(2), torch.ones(4)
    out = policy.run(lambda a: a.denoise(x, sigma), lora=replace(fresh, weights=weights), rows=4, grad=False)
    return {"prediction": out}


def criticised(settings: CriticSettings) -> Outcome:
    x = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(0))
    points = Points(x, x, torch.linspace(0, 1, 8), torch.full((8,), torch.nan), torch.arange(8) % 4)
    critics = Critics(4, settings, 0, {}, torch.device("cpu"))
    critics.train(points, torch.linspace(-1, 1, 8), torch.Generator().manual_seed(0))
    return {"values": critics.values(points).detach()}


def begun(settings: SessionSettings) -> Outcome:
    fresh = ToyPolicy().fresh_lora(settings.lora, seeding.generator(settings.seed, "LoRA"))
    return fresh.weights


OUTCOMES: dict[type, Callable[[Any], Outcome]] = {
    SamplingSettings: sampled, EmbeddingSettings: embedded, MixtureSettings: mixed, LoRAConfig: adapted,
    CriticSettings: criticised, SessionSettings: begun,
}  # fmt: skip
FIELDS = [(kind, field) for kind in LIVE for field in fields(kind) if field.name not in NOT_HERE]


def test_no_class_of_settings_is_forgotten() -> None:
    assert settings_kinds() == set(LIVE) == {*RULES, *OUTCOMES}
    names = {field.name for kind in LIVE for field in fields(kind)}
    assert names >= {*NOT_HERE, *TO, *ONLY_WITH}, "an exception for a field that is not there any more"


@pytest.fixture(scope="module")
def outcome(played: Played) -> Callable[[Any], Outcome]:
    """What comes out of settings; what came out once is remembered."""
    found: list[tuple[Any, Outcome]] = []

    def look(settings: Any) -> Outcome:
        known = next((one for asked, one in found if type(asked) is type(settings) and asked == settings), None)
        if known is None:
            known = OUTCOMES.get(type(settings), played.updated)(settings)
            found.append((settings, known))
        return known

    return look


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=[f"{kind.__name__}-{field.name}" for kind, field in FIELDS])
def test_each_field_changes_what_comes_out(
    kind: type, field: Field[Any], outcome: Callable[[Any], Outcome]
) -> None:
    settings = kind(**{**LIVE[kind], **ONLY_WITH.get(field.name, {})})
    changed = replace(settings, **{field.name: other(kind, field, getattr(settings, field.name))})
    assert not same(outcome(settings), outcome(changed))


@pytest.mark.parametrize("kind", LIVE, ids=lambda kind: kind.__name__)
def test_the_same_settings_give_the_same_to_the_bit(
    kind: type, played: Played, outcome: Callable[[Any], Outcome]
) -> None:
    settings = kind(**LIVE[kind])
    assert same(outcome(settings), OUTCOMES.get(kind, played.updated)(settings))


def same(a: Outcome, b: Outcome) -> bool:
    return a.keys() == b.keys() and all(one.shape == b[k].shape and torch.equal(one, b[k]) for k, one in a.items())


@pytest.mark.parametrize("kind", [DDPOSettings, ScoreActionSettings])
def test_the_tolerance_is_a_bound(kind: type) -> None:
    policy = ToyPolicy()
    lora, rollout = rollout_of(policy)
    policy.fault = 1e-4
    with pytest.raises(HeroError, match="a probability ratio of"):
        RULES[kind](policy, lora, rollout, rewards(), kind(ratio_tolerance=1e-6), seed=0)
    _, metrics = RULES[kind](policy, lora, rollout, rewards(), kind(ratio_tolerance=0.5), seed=0)
    assert 1e-6 < metrics["ratio_error"] < 0.5
