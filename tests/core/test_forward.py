# SPDX-License-Identifier: Apache-2.0
"""The rules that learn from finished latents: renoising, finetuning on the goods, DiffusionNFT, and what they share."""

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from rounds import SAMPLING, SETTINGS, N, begin, finish, pictures_of, rate, rollout_of
from torch import Tensor
from toy import ToyActor, ToyPolicy

from hero_core import seeding
from hero_core.embedding import EmbeddingSettings
from hero_core.errors import HeroError
from hero_core.feedback import Feedback
from hero_core.loop import (
    feedback_of,
    learn_reward,
    next_mixture,
    rate_latents,
    sample_round,
    save_round,
    show_round,
    update_lora,
)
from hero_core.lora import LoRAConfig, LoRAState
from hero_core.mixture import MixtureSettings
from hero_core.preference import reward_of_marks
from hero_core.reward import Reward, similarity
from hero_core.rollout import Rollout, join
from hero_core.store import Session
from hero_core.update import goods, nft
from hero_core.update.d3po import D3POSettings
from hero_core.update.ddpo import DDPOSettings
from hero_core.update.forward import Renoiser, error, goodness
from hero_core.update.goods import GoodsSettings
from hero_core.update.nft import NFTSettings

MARKS = Reward(torch.zeros(8), Feedback(8, {i: "good" if i < 3 else "bad" for i in range(8)}))


# -- the parts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", [False, True])
def test_the_weighted_error_is_that_of_the_models_own_prediction(flow: bool) -> None:
    z_0, noise = torch.randn(5, 4, 8, 8), torch.randn(5, 4, 8, 8)
    predicted = noise + 0.1 * torch.randn(5, 4, 8, 8)  # the noise, or for flow models noise - z_0, with an error
    sigma = torch.linspace(0.1, 0.9, 5)
    column = sigma[:, None, None, None]
    x = (1 - column) * z_0 + column * noise if flow else z_0 + column * noise
    velocity = predicted - z_0
    x0_hat = x - column * velocity if flow else x - column * predicted
    expected = (predicted - noise).square().mean((1, 2, 3))
    torch.testing.assert_close(error(x0_hat, z_0, sigma, "prediction"), expected, rtol=1e-4, atol=1e-6)
    plain = (x0_hat - z_0).square().mean((1, 2, 3)) / (x0_hat - z_0).abs().mean((1, 2, 3))
    torch.testing.assert_close(error(x0_hat, z_0, sigma, "x0"), plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weighting", ["prediction", "x0"])
def test_the_weight_of_an_error_has_no_gradient_of_its_own(weighting: Any) -> None:
    """``d error / d x0_hat = 2 (x0_hat - z_0) / (N unit)``: the unit is a number, and not one more thing to learn."""
    z_0, x0_hat = torch.randn(2, 3, 4, 8, 8, generator=seeding.generator("errors")).unbind()
    sigma = torch.tensor([0.2, 1.0, 5.0])
    units = sigma.square() if weighting == "prediction" else (x0_hat - z_0).abs().mean((1, 2, 3))
    error(x0_hat.requires_grad_(), z_0, sigma, weighting).sum().backward()
    expected = 2 * (x0_hat - z_0) / 256 / units[:, None, None, None]
    torch.testing.assert_close(x0_hat.grad, expected.detach())


@pytest.mark.parametrize("flow", [False, True])
def test_renoised_latents_follow_the_forward_process(flow: bool) -> None:
    policy = ToyPolicy(flow=flow)
    lora = policy.fresh_lora(LoRAConfig(), seeding.generator(0))
    z_0 = torch.full((400, 4, 8, 8), 2.0)
    calls = policy.run(
        lambda actor: list(Renoiser(actor, policy, 7, seeding.generator(1)).batch(z_0)), lora=lora, rows=7, grad=False
    )
    assert {len(call.x) for call in calls} == {7}
    assert sum(call.used for call in calls) == 400
    x, sigma = (
        torch.cat([part[: call.used] for call, part in zip(calls, parts, strict=True)])
        for parts in ([call.x for call in calls], [call.sigma for call in calls])
    )
    alpha = (1 - sigma) if flow else torch.ones_like(sigma)
    noise = (x - 2.0 * alpha[:, None, None, None]) / sigma[:, None, None, None]
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    shares = ((sigma - 0.03) / ((1.0 if flow else 14.6) - 0.03)).sort().values
    torch.testing.assert_close(shares, (torch.arange(400) + 0.5) / 400, atol=0.5 / 400 + 1e-4, rtol=0)


def test_finetuning_learns_the_one_good_picture(policy: ToyPolicy) -> None:
    lora, rollout = rollout_of(policy, settings=SETTINGS)
    one = Reward(torch.zeros(8), Feedback(8, {2: "good", 3: "bad"}, 2))
    settings = GoodsSettings(lr=2e-2, steps=80, batch=8, weighting="x0")
    after, metrics = goods.update(policy, lora, rollout, one, settings, seed=0)
    assert metrics["optimizer_steps"] == 80

    def distance(actor):  # type: ignore[no-untyped-def]
        x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(3)) * 3 + rollout.z_0[2]
        return float((actor.denoise(x, torch.full((4,), 3.0)) - rollout.z_0[2]).square().mean())

    before, now = (policy.run(distance, lora=state, rows=4, grad=False) for state in (lora, after))
    assert now < 0.9 * before


@pytest.mark.parametrize("side", [None, "positive"])
def test_finetuning_takes_both_prompts_in_turn(
    policy: ToyPolicy, monkeypatch: pytest.MonkeyPatch, side: Literal["positive"] | None
) -> None:
    lora, rollout = rollout_of(policy, settings=SETTINGS)
    sides: list[str] = []
    denoise = ToyActor.denoise

    def spy(actor: ToyActor, x: torch.Tensor, sigma: torch.Tensor, side: str = "guided") -> torch.Tensor:
        sides.append(side)
        return denoise(actor, x, sigma, side)

    monkeypatch.setattr(ToyActor, "denoise", spy)
    settings = GoodsSettings(steps=4, batch=4) if side is None else GoodsSettings(steps=4, batch=4, side=side)
    goods.update(policy, lora, rollout, MARKS, settings, seed=0)
    assert sides == (["positive", "negative"] * 2 if side is None else ["positive"] * 4)


def test_finetuning_without_a_good_is_refused(policy: ToyPolicy) -> None:
    lora, rollout = rollout_of(policy)
    with pytest.raises(HeroError, match="mark at least one good"):
        goods.update(policy, lora, rollout, Reward(torch.zeros(8), Feedback(8)), GoodsSettings(), seed=0)


def test_goodness_by_hand() -> None:
    reward = Reward(torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]), Feedback(5, {0: "good", 4: "bad"}))
    nan = float("nan")
    torch.testing.assert_close(goodness(reward, "marks"), torch.tensor([1, nan, nan, nan, 0]), equal_nan=True)
    centred = torch.tensor([0.75, nan, nan, nan, 0.25])
    torch.testing.assert_close(goodness(reward, "marks", True), centred, equal_nan=True)
    mostly = Reward(torch.zeros(4), Feedback(4, {0: "good", 1: "good", 2: "good", 3: "bad"}))
    assert float((goodness(mostly, "marks", True) - 0.5).sum()) == 0  # a round pushes as far as it pulls
    half = 0.5 - 0.5 / 2.5**0.5  # one below the mean, the deviation being the root of 2.5
    expected = torch.tensor([0.0, half, 0.5, 1 - half, 1.0])
    torch.testing.assert_close(goodness(reward, "embedding"), expected)
    torch.testing.assert_close(goodness(reward, "both"), torch.tensor([1.0, half, 0.5, 1 - half, 0.0]))


# -- DiffusionNFT --------------------------------------------------------------------------------------------------


def _step(rule: Any, settings: Any, reward: Reward, policy: ToyPolicy, lora: LoRAState) -> dict[str, float]:
    """One optimiser step that moves nothing: its statistics tell the gradient."""
    _, rollout = rollout_of(policy, settings=SETTINGS)
    still = replace(settings, lr=1e-12, weight_decay=0.0, max_grad_norm=1e9, steps=1, batch=8)
    return rule.update(policy, lora, rollout, reward, still, seed=0)[1]


@pytest.fixture
def trained(policy: ToyPolicy) -> LoRAState:
    """A LoRA that does something: with B = 0 every gradient to A would vanish."""
    lora, rollout = rollout_of(policy, settings=SETTINGS)
    return goods.update(policy, lora, rollout, MARKS, GoodsSettings(lr=1e-2, steps=4, batch=8), seed=1)[0]


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_at_the_old_policy_the_gradient_is_beta_times_that_of_goods_minus_bads(
    policy: ToyPolicy, trained: LoRAState, beta: float
) -> None:
    all_good = Reward(torch.zeros(8), Feedback(8, dict.fromkeys(range(8), "good")))
    all_bad = Reward(torch.zeros(8), Feedback(8, dict.fromkeys(range(8), "bad")))
    plain = _step(goods, GoodsSettings(), all_good, policy, trained)["grad_norm"]
    for reward in (all_good, all_bad):
        found = _step(nft, NFTSettings(beta=beta, centred=False), reward, policy, trained)["grad_norm"]
        assert found == pytest.approx(beta * plain, rel=1e-4)
    undecided = Reward(torch.zeros(8), Feedback(8, {0: "good"}))  # equal rewards: every picture is half good
    settings = NFTSettings(beta=beta, source="embedding")
    assert _step(nft, settings, undecided, policy, trained)["grad_norm"] < 1e-5 * plain


def _distances(policy: ToyPolicy, lora: LoRAState, z_0: Tensor) -> Tensor:
    """How far the prediction at each noised latent is from it, ``(n,)``."""

    def body(actor: Any) -> Tensor:
        x = z_0 + 3 * torch.randn(z_0.shape, generator=torch.Generator().manual_seed(3))
        return torch.cat([
            (actor.denoise(x[i : i + 4], torch.full((4,), 3.0)) - z_0[i : i + 4]).square().mean((1, 2, 3))
            for i in range(0, len(z_0), 4)
        ])  # fmt: skip

    return policy.run(body, lora=lora, rows=4, grad=False)


def test_nft_goes_towards_the_goods_and_away_from_the_bads(policy: ToyPolicy) -> None:
    lora, rollout = rollout_of(policy, settings=SETTINGS)
    settings = NFTSettings(lr=1e-2, steps=40)
    after, metrics = nft.update(policy, lora, rollout, MARKS, settings, seed=0)
    assert metrics["optimizer_steps"] == 40
    change = _distances(policy, after, rollout.z_0) - _distances(policy, lora, rollout.z_0)
    assert float(change[:3].mean()) < float(change[3:].mean())


def test_nft_learns_from_bads_alone(policy: ToyPolicy) -> None:
    lora, rollout = rollout_of(policy, settings=SETTINGS)
    bad = Reward(torch.zeros(8), Feedback(8, dict.fromkeys(range(8), "bad")))
    after, _ = nft.update(policy, lora, rollout, bad, NFTSettings(lr=1e-2, steps=10, centred=False), seed=0)
    assert float((_distances(policy, after, rollout.z_0) - _distances(policy, lora, rollout.z_0)).mean()) > 0


# -- what both may do ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "kind"), [(goods, GoodsSettings), (nft, NFTSettings)])
def test_the_penalty_keeps_the_prediction_near_the_base(rule: Any, kind: type, policy: ToyPolicy) -> None:
    lora, rollout = rollout_of(policy, settings=SETTINGS)
    far, near = (
        rule.update(policy, lora, rollout, MARKS, kind(lr=1e-2, steps=40, batch=8, ref_penalty=penalty), seed=0)[1]
        for penalty in (1e-6, 10.0)
    )
    assert near["distance_to_base"] < 0.5 * far["distance_to_base"]


@pytest.mark.parametrize("weighting", ["prediction", "x0"])
def test_the_penalty_fades_with_the_distance(weighting: Any, policy: ToyPolicy, trained: LoRAState) -> None:
    settings = GoodsSettings(ref_penalty=1e9, weighting=weighting)

    def slope(scale: float) -> float:
        weights = {k: v * (scale if k.endswith("lora_B.weight") else 1) for k, v in trained.weights.items()}
        return _step(goods, settings, MARKS, policy, replace(trained, weights=weights))["grad_norm"]

    assert slope(0.02) / slope(0.01) == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize(("rule", "kind"), [(goods, GoodsSettings), (nft, NFTSettings)])
def test_rows_that_fill_a_call_up_do_not_count(rule: Any, kind: type, policy: ToyPolicy, trained: LoRAState) -> None:
    """Six pictures in calls of 4 leave two rows over, in calls of 3 none."""
    _, rollout = rollout_of(policy, n=6, settings=SETTINGS)
    marks = Reward(torch.zeros(6), Feedback(6, {i: "good" if i % 2 else "bad" for i in range(6)}))
    found = []
    for rows in (3, 4):
        calls = replace(rollout, settings=replace(SETTINGS, micro_batch=rows))
        still = kind(lr=1e-12, weight_decay=0.0, max_grad_norm=1e9, steps=1, batch=6, ref_penalty=0.5)
        found.append(rule.update(policy, trained, calls, marks, still, seed=0)[1])
    even, filled = found
    assert filled == pytest.approx(even, rel=1e-4)


def test_weights_count(policy: ToyPolicy, trained: LoRAState) -> None:
    half = replace(MARKS, weights=torch.full((8,), 0.5))
    whole, halved = (_step(goods, GoodsSettings(), r, policy, trained) for r in (MARKS, half))
    assert halved["grad_norm"] == pytest.approx(0.5 * whole["grad_norm"], rel=1e-5)
    assert halved["loss"] == whole["loss"]


def test_the_slow_average_is_what_is_seen_and_the_fast_weights_are_what_is_trained(policy: ToyPolicy) -> None:
    lora, rollout = rollout_of(policy, settings=SETTINGS)
    settings = GoodsSettings(lr=1e-2, steps=4, batch=8)
    plain, _ = goods.update(policy, lora, rollout, MARKS, settings, seed=0)
    slow, _ = goods.update(policy, lora, rollout, MARKS, replace(settings, ema_decay=0.75), seed=0)
    for key, weight in plain.weights.items():
        torch.testing.assert_close(slow.fast[key], weight)
        torch.testing.assert_close(slow.weights[key], 0.75 * lora.weights[key] + 0.25 * weight)
    on, _ = goods.update(policy, plain, rollout, MARKS, settings, seed=0)
    also, _ = goods.update(policy, slow, rollout, MARKS, replace(settings, ema_decay=0.75), seed=0)
    for key, weight in on.weights.items():
        torch.testing.assert_close(also.fast[key], weight)


def test_the_fast_weights_are_kept(session: Session, policy: ToyPolicy) -> None:
    settings = GoodsSettings(lr=1e-2, steps=2, batch=4, ema_decay=0.5)
    finish(session, policy, begin(session, policy), settings)
    kept = session.state().lora
    again = Session(session.store, session.name).state().lora
    assert kept is not None
    assert again is not None
    assert kept.fast
    for key, weight in kept.fast.items():
        assert torch.equal(again.fast[key], weight)


def test_rounds_join_in_order(policy: ToyPolicy) -> None:
    _, rollout = rollout_of(policy, settings=SETTINGS)
    both = join([rollout, replace(rollout, round=2)])
    assert (both.n, both.round, both.x.shape[1]) == (16, 2, 0)
    marks = Feedback.join([Feedback(8, {1: "bad"}, 3), Feedback(8, {0: "bad"}, 5)])
    assert marks == Feedback(16, {1: "bad", 3: "good", 8: "bad"}, 13)


def test_replay_learns_from_earlier_rounds_with_their_weight(session: Session, policy: ToyPolicy, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    seen: list[tuple[Any, Reward]] = []
    monkeypatch.setattr(
        "hero_core.loop.RULES",
        {GoodsSettings: lambda p, lora, rollout, reward, *a, **k: (seen.append((rollout, reward)), (lora, {}))[1]},
    )
    for _ in range(4):
        finish(session, policy, begin(session, policy), GoodsSettings(replay=1, replay_weight=0.5))
    assert [rollout.n for rollout, _ in seen][:3] == [8, 16, 16]
    rollout, reward = seen[-1]
    earlier = session.round(rollout.round - 1).rollout()
    assert earlier is not None
    assert torch.equal(rollout.z_0[:8], earlier.z_0)
    assert reward.weights is not None
    assert reward.weights.tolist() == [0.5] * 8 + [1.0] * 8
    assert len(reward.rewards) == reward.feedback.n == 16


@pytest.mark.parametrize("mode", ["latent", "binary"])
def test_the_rewards_of_a_replay_are_in_the_order_of_its_pictures(
    session: Session, policy: ToyPolicy, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    seen: list[tuple[Rollout, Reward]] = []
    monkeypatch.setattr(
        "hero_core.loop.RULES",
        {GoodsSettings: lambda p, lora, rollout, reward, *a, **k: (seen.append((rollout, reward)), (lora, {}))[1]},
    )
    for _ in range(3):
        rollout = sample_round(session, policy, N, SAMPLING)
        order = similarity(rollout.z_0.flatten(1), rollout.z_0[:1].flatten(1)).argsort(descending=True).tolist()
        labels = {picture: "good" if place < 3 else "bad" for place, picture in enumerate(order)}
        begin(session, policy, Feedback(N, labels, 0))  # type: ignore[arg-type]
        feedback = feedback_of(session, rollout)
        assert feedback is not None
        reward = learn_reward(session, rollout, feedback, EmbeddingSettings(steps=0), mode)
        lora = update_lora(session, policy, rollout, reward, GoodsSettings(replay=2))
        save_round(session, reward, lora)
    joined, reward = seen[-1]
    assert [len(one.rewards) for _, one in seen] == [8, 16, 24]
    if mode == "latent":
        expected = similarity(joined.z_0.flatten(1), joined.z_0[16:17].flatten(1))  # to the best of the last round
    else:
        expected = torch.zeros(24)
        expected[reward.feedback.good] = 1.0
    torch.testing.assert_close(reward.rewards, expected)
    assert len(reward.feedback.good) == 9


# -- pictures of other samplers ------------------------------------------------------------------------------------


def _rated_from_elsewhere(session: Session, policy: ToyPolicy, z_T: Tensor | None = None) -> Rollout:
    z_0 = torch.randn(N, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    rollout = rate_latents(session, policy, z_0, SAMPLING, z_T)
    shown = show_round(session, rollout, pictures_of(rollout), "standalone")
    shown.put_marks(0, rate(rollout))
    shown.submit()
    return rollout


def test_a_round_from_elsewhere_is_learned_from_and_saved(session: Session, policy: ToyPolicy) -> None:
    rollout = _rated_from_elsewhere(session, policy)
    feedback = feedback_of(session, rollout)
    assert feedback is not None
    reward = reward_of_marks(rollout, feedback)
    lora = update_lora(session, policy, rollout, reward, NFTSettings(steps=3))
    saved = save_round(session, reward, lora)
    assert saved.lora_path is not None
    assert saved.lora_path.is_file()
    state = Session(session.store, session.name).state()
    assert state.best is not None
    assert state.best.z_T.numel() == 0
    assert torch.equal(state.best.z_0, rollout.z_0[feedback.best])  # type: ignore[index]
    drawn = begin(session, policy)
    with pytest.raises(HeroError, match="noise of the old best is not known"):
        next_mixture(session, drawn, replace(rate(drawn), best="keep"), MixtureSettings())


def test_a_round_from_elsewhere_is_kept_once_it_has_marks(session: Session, policy: ToyPolicy) -> None:
    first = torch.ones(N, 4, 8, 8)
    rate_latents(session, policy, first, SAMPLING)
    second = rate_latents(session, policy, 2 * first, SAMPLING)
    assert torch.equal(second.z_0, 2 * first)
    session.round(1).put_marks(0, Feedback(N, {0: "good"}, 0))
    assert torch.equal(rate_latents(session, policy, 3 * first, SAMPLING).z_0, 2 * first)
    assert session.round(1).marks().feedback.labels == {0: "good"}


def test_without_the_noise_there_is_no_mixture_and_with_it_there_is(session: Session, policy: ToyPolicy) -> None:
    rollout = _rated_from_elsewhere(session, policy)
    with pytest.raises(HeroError, match="leave Latent Mixture out"):
        next_mixture(session, rollout, rate(rollout), MixtureSettings())
    z_T = torch.randn(N, 4, 8, 8)
    with pytest.raises(HeroError, match=r"noise has shape \(1, 4, 8, 8\) and the latents have"):
        rate_latents(session.store.open("other", session.settings), policy, rollout.z_0, SAMPLING, z_T[:1])
    known = rate_latents(session.store.open("other", session.settings), policy, rollout.z_0, SAMPLING, z_T)
    mixture = next_mixture(session, known, rate(known), MixtureSettings())
    assert mixture is not None
    assert torch.equal(mixture.goods, z_T[rate(known).good])


def test_rules_that_need_recorded_steps_say_what_to_wire(session: Session, policy: ToyPolicy) -> None:
    rollout = _rated_from_elsewhere(session, policy)
    reward = reward_of_marks(rollout, rate(rollout))
    for settings in (DDPOSettings(), D3POSettings()):
        with pytest.raises(HeroError, match="wire Forward-Process LoRA Update"):
            update_lora(session, policy, rollout, reward, settings)


@pytest.mark.parametrize(("settings", "words"), [
    (lambda: GoodsSettings(steps=0), "steps is 0"),
    (lambda: GoodsSettings(weighting="snr"), "weighting is 'snr'"),  # type: ignore[arg-type]
    (lambda: GoodsSettings(source="dice"), "source is 'dice'"),  # type: ignore[arg-type]
    (lambda: NFTSettings(beta=0), "beta is 0"),
    (lambda: NFTSettings(ref_penalty=-1), "ref_penalty is -1"),
    (lambda: NFTSettings(ema_decay=1), "ema_decay is 1; it is 0 or more and below 1"),
])  # fmt: skip
def test_settings_out_of_range_are_refused(settings: Any, words: str) -> None:
    with pytest.raises(HeroError, match=words):
        settings()
