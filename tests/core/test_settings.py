# SPDX-License-Identifier: Apache-2.0
"""Settings that make no sense are refused with the value, and a set-up that cannot draw leaves no trace."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import ToyActor, ToyPolicy

from hero_core.embedding import EmbeddingSettings
from hero_core.errors import HeroError
from hero_core.loop import rate_latents, sample_round, show_round
from hero_core.lora import LoRAConfig
from hero_core.mixture import MixtureSettings
from hero_core.rollout import SamplingSettings
from hero_core.store import Session
from hero_core.update.critic import CriticSettings
from hero_core.update.d3po import D3POSettings
from hero_core.update.ddpo import DDPOSettings
from hero_core.update.goods import GoodsSettings
from hero_core.update.nft import NFTSettings
from hero_core.update.score_action import ScoreActionSettings

SETTINGS = (
    EmbeddingSettings, MixtureSettings, LoRAConfig, SamplingSettings, D3POSettings, DDPOSettings, GoodsSettings,
    NFTSettings, CriticSettings, ScoreActionSettings,
)  # fmt: skip
NUMBERS = [
    (kind, field.name) for kind in SETTINGS for field in fields(kind)
    if type(field.default) in (int, float) and field.name != "min_r2"  # an R squared may be below 0
]  # fmt: skip


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1], ids=str)
@pytest.mark.parametrize(("kind", "name"), NUMBERS, ids=[f"{kind.__name__}-{name}" for kind, name in NUMBERS])
def test_no_setting_takes_a_number_that_is_none(kind: type, name: str, value: float) -> None:
    with pytest.raises(HeroError, match=f"{value}"):
        kind(**{name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.1], ids=str)
def test_no_critic_is_asked_for_more_than_all(value: float) -> None:
    with pytest.raises(HeroError, match=f"min_r2 is {value}"):
        ScoreActionSettings(min_r2=value)


def test_numbers_of_every_kind_of_settings_are_tried() -> None:
    assert {kind for kind, _ in NUMBERS} == set(SETTINGS)


def kept(session: Session) -> dict[str, Any]:
    return json.loads((session.folder / "session.json").read_text())


@pytest.mark.parametrize("steps", [1, 2])
def test_a_set_up_that_cannot_draw_leaves_the_session_free(session: Session, policy: ToyPolicy, steps: int) -> None:
    before = kept(session)
    with pytest.raises(HeroError, match=r"set steps to \d+ or more"):
        sample_round(session, policy, 4, SamplingSettings(steps=steps))
    with pytest.raises(HeroError, match="batch of 1 or more"):
        sample_round(session, policy, 0, SamplingSettings(steps=12))
    for odd, says in ((torch.zeros(2, 4, 8, 8), "empty"), (torch.full((2, 4, 8, 8), math.nan), "NaN or infinity")):
        with pytest.raises(HeroError, match=says):
            rate_latents(session, policy, odd, SamplingSettings())
    assert kept(session) == before
    assert policy.calls == []
    other = ToyPolicy(prompt="a train")
    assert sample_round(session, other, 4, SamplingSettings(steps=12)).fingerprint == "toy a train"


@pytest.mark.parametrize(("dtype", "remedy"), [(torch.float16, "--bf16-unet"), (torch.bfloat16, "--force-fp32")])
def test_a_model_that_draws_nan_is_told_with_what_its_precision_asks_for(
    session: Session, policy: ToyPolicy, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, remedy: str
) -> None:
    monkeypatch.setattr(ToyActor, "dtype", dtype)
    monkeypatch.setattr(ToyActor, "final", lambda _, x: x * math.nan)
    with pytest.raises(HeroError, match=rf"NaN or infinity while sampling.*{remedy}"):
        sample_round(session, policy, 4, SamplingSettings(steps=12))
    assert kept(session).get("fingerprint") is None


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 8, 1), (4, 0, 8, 3), (0, 8, 8, 3), (3, 8, 8, 3), (1, 4, 8, 8, 3)])
def test_pictures_of_another_shape_are_refused(session: Session, policy: ToyPolicy, shape: tuple[int, ...]) -> None:
    rollout = sample_round(session, policy, 4, SamplingSettings(steps=12))
    with pytest.raises(HeroError, match="VAE Decode"):
        show_round(session, rollout, torch.zeros(shape), "wait")
    assert not session.round(1).has_pictures


def test_an_unknown_mode_is_refused_before_anything_is_written(session: Session, policy: ToyPolicy) -> None:
    rollout = sample_round(session, policy, 4, SamplingSettings(steps=12))
    with pytest.raises(HeroError, match="mode is 'later'; it is one of wait, resume, standalone"):
        show_round(session, rollout, torch.zeros(4, 8, 8, 3), "later")  # type: ignore[arg-type]
    assert {path.name for path in Path(session.round(1).folder).iterdir()} == {"round.json", "rollout.safetensors"}
