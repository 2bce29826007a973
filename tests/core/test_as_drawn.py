# SPDX-License-Identifier: Apache-2.0
"""A round is learned from as it was drawn, whatever the widgets say by then; the rows of an update are its own."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from rounds import SAMPLING, N, begin, finish, rate, rewards, rollout_of, same_state
from torch import Tensor
from toy import ToyActor, ToyPolicy

from hero_core.errors import HeroError
from hero_core.loop import feedback_of, marked_round, rate_latents, sample_round
from hero_core.reward import Reward
from hero_core.rollout import SamplingSettings
from hero_core.store import Session, SessionSettings, Store
from hero_core.update import d3po, ddpo, goods, nft, score_action
from hero_core.update.common import OptimizerSettings

OTHER: dict[str, Any] = {
    "steps": 14, "cfg": 7.0, "eta": 0.9, "scheduler": "karras", "micro_batch": 2, "scored_steps": 3,
    "scored_part": "early",
}  # fmt: skip
"""Another value for every widget of the sampler."""
TOLD = {
    "scored_part": ["4 of the 12 steps can be scored in the early part: the round records 4 of each picture, not 5."]
}
"""What the next round says of a value."""


@pytest.fixture
def unchanged(tmp_path: Any) -> Session:
    """A round that was drawn, rated and saved with no widget touched."""
    session = Store(tmp_path / "unchanged", tmp_path / "loras").open("toy", SessionSettings(seed=7))
    finish(session, ToyPolicy(), begin(session, ToyPolicy()))
    return session


@pytest.mark.parametrize("name", [field.name for field in fields(SamplingSettings)])
def test_a_widget_that_is_turned_after_the_first_mark_says_so_and_acts_on_the_next_round(
    name: str, session: Session, policy: ToyPolicy, unchanged: Session
) -> None:
    drawn, told, turned = begin(session, policy), [], replace(SAMPLING, **{name: OTHER[name]})
    kept = sample_round(session, policy, N, turned, tell=told.append)
    was, now = (f"{value:g}" if isinstance(value, float) else value for value in (getattr(SAMPLING, name), OTHER[name]))
    change = f"{name} {was}, not {now}"
    assert told == [f"Round 1 is kept as it was drawn ({change}): the change takes effect in the next round."]
    assert torch.equal(kept.x, drawn.x)
    assert kept.settings == SAMPLING
    saved = finish(session, policy, kept)
    assert saved.metrics["ratio_error"] < 1e-6
    assert same_state(session.state(), unchanged.state()), "the widget had no say in what was learned"
    told.clear()
    assert sample_round(session, policy, N, turned, tell=told.append).settings == turned
    assert told == TOLD.get(name, [])


def test_another_number_of_pictures_is_for_the_next_round(session: Session, policy: ToyPolicy) -> None:
    told: list[str] = []
    begin(session, policy)
    assert sample_round(session, policy, N + 2, replace(SAMPLING, cfg=1.0), tell=told.append).n == N
    assert told == [
        "Round 1 is kept as it was drawn (cfg 5, not 1; 8 pictures, not 10): the change takes effect in the next round."
    ]


def test_new_pictures_for_a_marked_round_of_another_sampler_are_told(session: Session, policy: ToyPolicy) -> None:
    first, told = torch.ones(N, 4, 8, 8), []
    rollout = rate_latents(session, policy, first, SAMPLING, tell=told.append)
    assert marked_round(session) is None
    session.round(1).put_marks(0, rate(rollout))
    assert torch.equal(rate_latents(session, policy, 2 * first, SAMPLING, tell=told.append).z_0, first)
    assert told == ["Round 1 has marks, so its pictures are kept and the new ones are not looked at: save it first."]
    assert marked_round(session).recorded == 0  # type: ignore[union-attr]


def test_the_policy_is_looked_at_before_a_round_is_drawn_and_not_when_it_is_there(
    session: Session, policy: ToyPolicy
) -> None:
    looks: list[int] = []

    def look() -> None:
        looks.append(1)
        if len(looks) == 1:
            raise HeroError("not fit")

    with pytest.raises(HeroError, match="not fit"):
        sample_round(session, policy, N, SAMPLING, look=look)
    assert session.fingerprint is None
    assert session.round(1).rollout() is None
    drawn = sample_round(session, policy, N, SAMPLING, look=look)
    sample_round(session, policy, N, SAMPLING, look=look)
    assert len(looks) == 2
    rate_latents(session, policy, 2 * drawn.z_0, SAMPLING, look=look)
    rate_latents(session, policy, 2 * drawn.z_0, SAMPLING, look=look)
    assert len(looks) == 3


def test_where_the_rows_are_open_the_look_says_how_many_and_the_round_keeps_them(
    session: Session, policy: ToyPolicy
) -> None:
    """What fits another day is no reason to draw a round again."""
    asked, told = replace(SAMPLING, micro_batch=0), list[str]()
    drawn = sample_round(session, policy, N, asked, look=lambda: 3)
    assert (drawn.settings.micro_batch, {rows for rows, _ in policy.calls}) == (3, {3})
    policy.calls.clear()
    assert torch.equal(sample_round(session, policy, N, asked, tell=told.append, look=lambda: 2).x, drawn.x)
    assert (policy.calls, told) == ([], [])
    assert sample_round(session, policy, N, replace(asked, micro_batch=2), look=lambda: 3).settings.micro_batch == 2


def test_where_nobody_says_how_many_eight_pictures_go_through_at_a_time(session: Session, policy: ToyPolicy) -> None:
    assert sample_round(session, policy, 10, replace(SAMPLING, micro_batch=0)).settings.micro_batch == 8


def test_what_a_marked_round_recorded_is_known(session: Session, policy: ToyPolicy) -> None:
    begin(session, policy)
    assert marked_round(session).recorded == 5  # type: ignore[union-attr]


# -- rows of an update ------------------------------------------------------------------------------------------------

RULES: list[tuple[Any, OptimizerSettings]] = [
    (ddpo, ddpo.DDPOSettings(lr=1e-3, kl_coef=0.1)),
    (d3po, d3po.D3POSettings(lr=1e-3)),
    (goods, goods.GoodsSettings(lr=1e-3, steps=3, ref_penalty=0.1)),
    (nft, nft.NFTSettings(lr=1e-3, steps=3)),
    (score_action, score_action.ScoreActionSettings(lr=1e-3, critic_steps=3, min_r2=-99.0)),
]


NAMES = [rule.__name__.rpartition(".")[2] for rule, _ in RULES]


@pytest.mark.parametrize(("rule", "settings"), RULES, ids=NAMES)
def test_every_rule_guides_as_the_round_was_drawn(
    rule: Any, settings: OptimizerSettings, policy: ToyPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    guided: list[float] = []
    run = policy.run

    def spying(*arguments: Any, **named: Any) -> Any:
        guided.append(named["cfg"])
        return run(*arguments, **named)

    monkeypatch.setattr(policy, "run", spying)
    lora, rollout = rollout_of(policy, settings=replace(SAMPLING, cfg=2.5))
    rule.update(policy, lora, rollout, Reward(rewards().rewards, rate(rollout)), settings, seed=0)
    assert guided == [2.5, 2.5], "to draw and to learn"


@pytest.mark.parametrize(("rule", "settings"), RULES, ids=NAMES)
def test_an_update_takes_its_own_rows_and_learns_the_same(rule: Any, settings: OptimizerSettings) -> None:
    policy = ToyPolicy()
    lora, rollout = rollout_of(policy)  # drawn in calls of 4
    reward = Reward(rewards().rewards, rate(rollout))
    learned: dict[int, dict[str, Tensor]] = {}
    for rows in (0, 1, 3, 8):
        policy.calls.clear()
        state, metrics = rule.update(policy, lora, rollout, reward, replace(settings, micro_batch=rows), seed=0)
        assert {count for count, _ in policy.calls} == {rows or 4}
        assert metrics.get("ratio_error", 0.0) < 1e-6
        learned[rows] = state.weights
    for rows in (1, 3, 8):
        for key, weight in learned[0].items():
            torch.testing.assert_close(learned[rows][key], weight, rtol=0, atol=2e-5)


class _Rounding(ToyActor):
    """Another number of rows is another kernel, which rounds otherwise."""

    rounding = 0.0

    def denoise(self, x: Tensor, sigma: Tensor, side: str = "guided") -> Tensor:
        return super().denoise(x, sigma, side) + (self.rounding if self.rows != 4 else 0.0)


@pytest.mark.parametrize(
    ("dtype", "rounding"), [(torch.float32, 1e-6), (torch.float16, 1e-4), (torch.bfloat16, 1e-3)], ids=str
)
@pytest.mark.parametrize(("rule", "settings"), [RULES[0], RULES[-1]], ids=["ddpo", "score_action"])
def test_what_other_rows_round_otherwise_is_not_taken_for_learning(
    rule: Any, settings: OptimizerSettings, dtype: torch.dtype, rounding: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probabilities before the update are those of the update's own calls; what is no rounding is refused."""
    monkeypatch.setattr("toy.ToyActor", _Rounding)
    monkeypatch.setattr(_Rounding, "dtype", dtype)
    policy, few = ToyPolicy(), replace(settings, micro_batch=2)
    lora, rollout = rollout_of(policy)
    reward = Reward(rewards().rewards, rate(rollout))
    monkeypatch.setattr(_Rounding, "rounding", rounding)
    assert rule.update(policy, lora, rollout, reward, few, seed=0)[1]["ratio_error"] == 0
    monkeypatch.setattr(_Rounding, "rounding", 1000 * rounding)
    with pytest.raises(HeroError, match="a probability ratio of"):
        rule.update(policy, lora, rollout, reward, few, seed=0)


def test_no_update_takes_more_rows_than_the_round_has_pictures(policy: ToyPolicy) -> None:
    _, rollout = rollout_of(policy)
    assert [ddpo.DDPOSettings(micro_batch=rows).rows(rollout) for rows in (0, 2, 100)] == [4, 2, 8]


def test_memory_that_runs_out_is_cured_on_the_marked_round(session: Session, policy: ToyPolicy) -> None:
    """Fewer rows on the update: the same round, the same marks, and a LoRA at the end."""
    rollout = begin(session, policy)
    marks = feedback_of(session, rollout)
    saved = finish(session, policy, rollout, ddpo.DDPOSettings(micro_batch=1))
    assert saved.lora_path is not None
    assert session.round(1).marks().feedback == marks
