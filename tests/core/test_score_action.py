# SPDX-License-Identifier: Apache-2.0
"""Scores as Actions: the advantages where V is known, the critic, and the whole update on a small policy."""

from dataclasses import replace

import pytest
import torch
from rounds import SETTINGS, rollout_of
from torch import Tensor
from toy import ToyPolicy

from hero_core import seeding
from hero_core.errors import HeroError
from hero_core.feedback import Feedback
from hero_core.reward import Reward
from hero_core.update import ddpo
from hero_core.update.common import ScoredSteps
from hero_core.update.critic import FOLDS, NOISE, Critics, CriticSettings, Points, _under_noise, explained
from hero_core.update.ddpo import DDPOSettings
from hero_core.update.score_action import (
    ADVANTAGES,
    Replay,
    ScoreActionSettings,
    along,
    normalised,
    returns,
    step_advantages,
    update,
)

N, STEPS, W, S = 20_000, 20, 1.5, 0.3
"""Walks ``x <- x + theta + S noise`` whose reward is ``W x`` at the end, so ``V_k = W (x_k + (STEPS - k) theta)``."""


@pytest.fixture(scope="module")
def walks() -> tuple[Tensor, Tensor, Tensor]:
    """Noise, values and final rewards at theta = 0: ``(N, STEPS)``, ``(N, STEPS)``, ``(N,)``."""
    noise = torch.randn(N, STEPS, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x = torch.cat([torch.zeros(N, 1, dtype=torch.float64), (S * noise).cumsum(1)], dim=1)
    return noise, W * x[:, :-1], W * x[:, -1]


def estimates(noise: Tensor, gains: Tensor) -> Tensor:
    """Each walk's estimate of d E[R] / d theta: ``sum over k of A_k d log p / d theta``."""
    return (gains * noise / S).sum(1)


def gains_of(kind: str, values: Tensor, end: Tensor) -> Tensor:
    return step_advantages(values, end, torch.zeros_like(values), kind, 0.9)  # type: ignore[arg-type]


def slope_estimates(values: Tensor) -> Tensor:
    """The same from the gradient of V: the objective's own slope in the mean, freed of its unit and clamp."""
    n, k = values.shape
    slopes, s = torch.full((n, k, 1, 1, 1), W, dtype=torch.float64), torch.full((n, k), S, dtype=torch.float64)
    mu = torch.zeros(n * k, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    index = torch.cartesian_prod(torch.arange(n), torch.arange(k))
    along(slopes, torch.zeros_like(slopes), s, 5.0, 1e-4)(index, mu, torch.ones(n * k)).sum().backward()
    return -mu.grad.view(n, k).sum(1) * (W * S)  # type: ignore[union-attr]


def test_all_advantages_agree_in_expectation_and_differ_in_variance(walks: tuple[Tensor, Tensor, Tensor]) -> None:
    noise, values, end = walks
    found = {kind: estimates(noise, gains_of(kind, values, end)) for kind in ("delta", "gae", "terminal")}
    found["gradient"] = slope_estimates(values)
    found["ddpo"] = estimates(noise, (end - end.mean())[:, None].expand_as(values))
    for kind, estimate in found.items():
        error = float(estimate.std()) / N**0.5
        assert float(estimate.mean()) == pytest.approx(W * STEPS, abs=4 * error + 1e-9), kind
    variance = {kind: float(estimate.var()) / float(found["ddpo"].var()) for kind, estimate in found.items()}
    assert variance["gradient"] == pytest.approx(0, abs=1e-12)
    assert variance["gradient"] < variance["delta"] < variance["gae"] < variance["terminal"] < 1
    # delta gives W sum(noise^2), of variance 2 W^2 STEPS; DDPO W sum(noise)^2, of variance 2 W^2 STEPS^2
    assert variance["delta"] == pytest.approx(1 / STEPS, rel=0.1)


def test_a_critic_as_wrong_as_the_rewards_are_wide_is_no_better_than_none(walks: tuple[Tensor, Tensor, Tensor]) -> None:
    noise, values, end = walks
    wrong = values + end.std() * torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
    plain = estimates(noise, (end - end.mean())[:, None].expand_as(values)).var()
    # two errors a step, each as wide as the rewards, add 2 (STEPS - 1/2) W^2 STEPS to delta's own variance
    expected = 1 / STEPS + (STEPS - 0.5) / STEPS
    assert float(estimates(noise, gains_of("delta", wrong, end)).var() / plain) == pytest.approx(expected, rel=0.08)
    assert explained(wrong.flatten(), returns(end, torch.zeros_like(values)).flatten()) < 0.1


def test_advantages_by_hand() -> None:
    values, end = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([3.0])
    running = torch.tensor([[-0.5, 0.0, 1.0]])
    assert step_advantages(values, end, running, "delta", 0.0).tolist() == [[0.5, 2.0, 0.0]]
    assert step_advantages(values, end, running, "terminal", 0.0).tolist() == [[2.5, 2.0, 0.0]]
    torch.testing.assert_close(step_advantages(values, end, running, "gae", 0.5), torch.tensor([[1.5, 2.0, 0.0]]))
    one = step_advantages(values, end, running, "gae", 1.0)
    torch.testing.assert_close(one, step_advantages(values, end, running, "terminal", 0.0))


def test_normalised_by_the_round_or_by_each_kind_of_step() -> None:
    steps = torch.tensor([[0, 1]]).expand(16, 2)
    gains = torch.randn(16, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0])
    by_step = normalised(gains, steps, "step", 100.0)
    torch.testing.assert_close(by_step.std(0), torch.ones(2))
    whole = normalised(gains, steps, "round", 100.0)
    assert float(whole.std()) == pytest.approx(1)
    assert float(whole[:, 1].std()) > 5 * float(whole[:, 0].std())
    assert float(normalised(gains, steps, "round", 0.5).abs().max()) == 0.5
    few = torch.arange(32).view(16, 2)  # every step of its own kind: too few of each
    torch.testing.assert_close(normalised(gains, few, "step", 100.0), whole)


def critic_points(n: int = 64) -> tuple[Points, Tensor]:
    """States whose return is the mean of x0_hat, which a critic can learn."""
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(n, 4, 8, 8, generator=generator) + torch.randn(n, 1, 1, 1, generator=generator)
    points = Points(torch.randn(n, 4, 8, 8, generator=generator), x0, torch.rand(n, generator=generator),
                    torch.full((n,), torch.nan), torch.arange(n) % FOLDS)  # fmt: skip
    return points, x0.mean((1, 2, 3))


def test_a_critic_starts_at_the_prior_and_learns() -> None:
    points, target = critic_points(256)
    critics = Critics(4, CriticSettings(steps=150), 0, {}, torch.device("cpu"))
    assert torch.equal(critics.values(points), torch.zeros(256))
    half = points._replace(prior=torch.full((256,), 2.0), tau=torch.full((256,), 0.5))
    torch.testing.assert_close(critics.values(half), torch.full((256,), 2**0.5))
    critics.train(points, target, drawing())
    assert explained(critics.values(points).detach(), target) > 0.8
    certain = points._replace(prior=target, tau=torch.zeros(256))
    torch.testing.assert_close(critics.values(certain).detach(), target)  # at the end, V is the reward


def drawing(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("fold", range(FOLDS))
def test_no_critic_knows_the_reward_of_the_pictures_it_judges(fold: int) -> None:
    """Other rewards for some pictures change the values of all others, and not their own."""
    points, target = critic_points(32)
    theirs = points.fold == fold
    found = []
    for rewards in (target, torch.where(theirs, 9.0, target)):
        critics = Critics(4, CriticSettings(steps=3), 0, {}, torch.device("cpu"))
        critics.train(points, rewards, drawing())
        found.append(critics.values(points).detach())
    assert torch.equal(found[0][theirs], found[1][theirs])
    assert bool((found[0] != found[1])[~theirs].all())


def test_the_values_that_are_used_know_nothing_by_heart() -> None:
    """Returns without a pattern: whoever has seen them explains them, and the values that are used do not."""
    points, _ = critic_points(32)
    target = torch.randn(32, generator=torch.Generator().manual_seed(5))
    critics = Critics(4, CriticSettings(steps=300, width=64), 0, {}, torch.device("cpu"))
    critics.train(points, target, drawing())
    moved = points._replace(fold=(points.fold + 1) % FOLDS)  # ask each critic about what it has learned
    assert explained(critics.values(moved).detach(), target) > 0.7
    assert explained(critics.values(points).detach(), target) < 0.1


def test_critics_go_on_where_they_were() -> None:
    points, target = critic_points()
    settings, cpu = CriticSettings(steps=5), torch.device("cpu")
    whole = Critics(4, settings, 0, {}, cpu)
    whole.train(points, target, drawing())
    second = Critics(4, settings, 0, whole.memory(), cpu)
    whole.train(points, target, drawing(1))
    second.train(points, target, drawing(1))
    assert all(torch.equal(v, second.memory()[k]) for k, v in whole.memory().items())
    other = Critics(4, CriticSettings(steps=5, width=8), 0, whole.memory(), cpu)
    assert torch.equal(other.values(points), torch.zeros(64))  # of another size: begins anew


def linear_reward(n: int, marks: bool = False):  # type: ignore[no-untyped-def]
    """A rollout of the toy with a reward that is linear in the latent, and marks by it."""
    policy = ToyPolicy()
    lora, rollout = rollout_of(policy, n)
    weights = torch.randn(rollout.z_0.shape[1:], generator=torch.Generator().manual_seed(2))

    def score(z: Tensor) -> Tensor:
        return (z * weights).flatten(1).mean(1)

    rewards = score(rollout.z_0)
    order = rewards.argsort(descending=True).tolist()
    labels = {picture: "good" if place < n // 2 else "bad" for place, picture in enumerate(order)}
    feedback = Feedback(n, labels, order[0])
    return policy, lora, rollout, Reward(rewards, feedback, score=None if marks else score)


@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_a_round_learns_with_every_advantage(advantage: str) -> None:
    policy, lora, rollout, reward = linear_reward(32)
    settings = ScoreActionSettings(advantage=advantage, lr=3e-3, min_r2=-9.0)  # type: ignore[arg-type]
    after, metrics = update(policy, lora, rollout, reward, settings, seed=0)
    assert metrics["advantage"] == advantage
    assert metrics["ratio_error"] < 1e-6
    assert metrics["kl_to_base"] > 0
    # the same noise drawn again is worth more
    again = rollout_of(policy, 32)[1].z_0, sampled_with(policy, after, 32)
    assert reward.score is not None
    before, now = (float(reward.score(z).mean()) for z in again)
    assert now > before


def sampled_with(policy: ToyPolicy, lora, n: int) -> Tensor:  # type: ignore[no-untyped-def]
    from hero_core.rollout import sample

    z_T = seeding.randn((4, 8, 8), seeding.picture_generators(n, 0, 1, "z_T"))
    return sample(policy, lora, z_T, torch.full((n,), -1), SETTINGS, seed=0, round=1).z_0


@pytest.mark.parametrize(("marks", "bound"), [(False, 5.0), (True, 5.0), (False, 0.3)])
def test_a_critic_that_explains_nothing_leaves_ddpo(marks: bool, bound: float) -> None:
    policy, lora, rollout, reward = linear_reward(16, marks)
    settings = ScoreActionSettings(min_r2=1.0, lr=DDPOSettings.lr, advantage_clip=bound)
    after, metrics = update(policy, lora, rollout, reward, settings, seed=0)
    plain, _ = ddpo.update(policy, lora, rollout, reward, DDPOSettings(advantage_clip=bound), seed=0)
    assert metrics["advantage"] == "mean"
    for key, weight in plain.weights.items():
        torch.testing.assert_close(after.weights[key], weight, rtol=0, atol=1e-6)


def test_the_slope_of_the_value_is_its_gradient() -> None:
    """``_slopes`` against finite differences of V one step on, along a random direction of the prediction."""
    from hero_core.update.score_action import _Round

    policy, lora, rollout, reward = linear_reward(4)
    settings = ScoreActionSettings(critic_steps=30)

    def body(actor):  # type: ignore[no-untyped-def]
        round_ = _Round(actor, policy, lora, rollout, reward, settings)
        points, critics = round_._points(*round_._states(), round_.fold), round_._critics(0)
        critics.train(points, torch.linspace(-1, 1, len(points.tau)), drawing())
        slopes, t = round_._slopes(critics)[0].flatten(0, 1), round_.scored.transitions
        direction = torch.randn(rollout.x0_hat.flatten(0, 1).shape, generator=torch.Generator().manual_seed(0))

        def value(move: float) -> Tensor:
            x0_hat, step = rollout.x0_hat.flatten(0, 1) + move * direction, rollout.steps.flatten()
            mu = t.mean(rollout.x.flatten(0, 1), x0_hat, step)
            return critics.values(round_._points(*round_._seen(mu, x0_hat, t.sigmas[step + 1]), round_.fold)).detach()

        measured = (value(1e-2) - value(-1e-2)) / 2e-2
        claimed = (slopes * direction).flatten(1).sum(1) * t.a_x0[rollout.steps.flatten()]
        return measured, claimed

    measured, claimed = policy.run(body, lora=lora, rows=4, grad=True)
    torch.testing.assert_close(measured, claimed, rtol=2e-2, atol=2e-3)
    assert float(claimed.abs().max()) > 1e-2


def test_a_mean_goes_up_the_slope_as_far_as_the_clip_and_no_further() -> None:
    slopes, s = torch.tensor([3.0, -4.0]).view(1, 1, 2, 1, 1), torch.full((1, 1), 0.5)
    means = torch.ones(1, 1, 2, 1, 1)
    objective, index = along(slopes, means, s, advantage_clip=5.0, clip=0.01), torch.zeros(1, 2, dtype=torch.int64)
    uphill = slopes[0] / 5 * 2**0.5  # unit root mean square

    def slope_at(far: float) -> Tensor:
        """The loss's gradient where the mean has gone ``far`` standard deviations up the slope."""
        mu = (means[0] + far * 0.5 * uphill).requires_grad_()
        objective(index, mu, torch.ones(1)).sum().backward()
        return mu.grad  # type: ignore[return-value]

    torch.testing.assert_close(slope_at(0.0), -uphill / 0.5 / 2)
    assert slope_at(0.009).norm() > 0
    assert slope_at(0.011).norm() == 0
    assert slope_at(-0.1).norm() > 0, "what went down must come up again"


def test_the_ratio_of_a_step_up_the_slope_is_that_of_two_gaussians() -> None:
    slopes, means, shift = torch.randn(3, 2, 1, 2, 3, 3, generator=drawing(4)).double().unbind()
    s, index = torch.tensor([[0.5], [2.0]]).double(), torch.tensor([[0, 0], [1, 0]])
    mu, old = means[:, 0] + 0.3 * shift[:, 0], means[:, 0]
    found = along(slopes, means, s, advantage_clip=0.9, clip=0.99)(index, mu, torch.ones(2))
    size = (s[:, 0] * slopes.flatten(1).norm(dim=1)).double()
    gains = (size / size.square().mean().sqrt()).clamp(max=0.9)
    assert bool((gains < 0.9).any() and (gains == 0.9).any()), "one is bounded and one is not"
    noise = slopes[:, 0] / slopes[:, 0].square().mean((1, 2, 3), keepdim=True).sqrt()
    wide = s[:, :, None, None]
    drawn = old + wide * noise
    by = [torch.distributions.Normal(mean, wide).log_prob(drawn).mean((1, 2, 3)) for mean in (mu, old)]
    torch.testing.assert_close(found, -gains * (by[0] - by[1]).exp(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("flow", [False, True])
def test_the_critic_sees_states_at_unit_scale(flow: bool) -> None:
    from hero_core.update.score_action import _Round

    policy = ToyPolicy(flow=flow)
    lora, rollout = rollout_of(policy)
    rollout = replace(rollout, z_0=7 * rollout.z_0)
    values = torch.tensor([1.0, 2.0, 3.0, 10.0, -4.0, 0.5, 0.0, 2.0])
    reward = Reward(values, Feedback(8), score=lambda z: z.mean((1, 2, 3)))

    def body(actor):  # type: ignore[no-untyped-def]
        round_ = _Round(actor, policy, lora, rollout, reward, ScoreActionSettings())
        return round_._points(*round_._states(), round_.fold)

    points = policy.run(body, lora=lora, rows=4, grad=False)
    sigma = rollout.sigmas[rollout.steps.flatten()]
    length = ((1 - sigma) ** 2 + sigma**2).sqrt() if flow else (1 + sigma**2).sqrt()
    x, x0_hat = rollout.x.flatten(0, 1), rollout.x0_hat.flatten(0, 1)
    torch.testing.assert_close(points.x, x / length[:, None, None, None])
    torch.testing.assert_close(points.x0_hat, x0_hat / rollout.z_0.std())
    torch.testing.assert_close(points.prior, (x0_hat.mean((1, 2, 3)) - values.mean()) / values.std())
    share = (sigma - 0.03) / ((1.0 if flow else 14.6) - 0.03)
    torch.testing.assert_close(points.tau, share.clamp(0, 1), rtol=0, atol=1.1e-3)
    assert points.fold.tolist() == [picture % FOLDS for picture in range(8) for _ in range(5)]


def test_critics_learn_from_a_quarter_of_the_points_under_noise() -> None:
    points, _ = critic_points(256)
    points = points._replace(prior=torch.rand(256, generator=drawing()))
    places = torch.arange(64, 256)
    some, found = _under_noise(points, places, drawing(3))
    assert len(found) == len(set(found.tolist())) == 48
    assert set(found.tolist()) <= set(places.tolist())
    for name in ("tau", "prior", "fold"):
        assert torch.equal(getattr(some, name), getattr(points, name)[found])
    for noise in (some.x - points.x[found], some.x0_hat - points.x0_hat[found]):
        assert float(noise.std()) == pytest.approx(NOISE, rel=0.02)
        assert float(noise.mean()) == pytest.approx(0, abs=0.05)


def test_the_kl_as_reward_stands_for_the_steps_that_were_not_recorded() -> None:
    """Each recorded step bears its share of all that can be scored: ``- kl (scorable / K) KL``."""
    from hero_core.update.score_action import _Round

    policy, lora, _, reward = linear_reward(6)
    moved = replace(lora, weights={k: v + 0.2 for k, v in lora.weights.items()})
    rollout = sampled_round(policy, moved, 6)
    settings = ScoreActionSettings(kl_as="reward", kl_coef=0.5)

    def body(actor):  # type: ignore[no-untyped-def]
        t = ScoredSteps(actor, policy, rollout, 4).transitions
        expected = torch.zeros(6, 5)
        for k in range(5):
            for rows in (torch.arange(4), torch.arange(2, 6)):
                x, step = rollout.x[rows, k], rollout.steps[rows, k]
                mu = t.mean(x, actor.denoise(x, t.sigmas[step]), step)
                with actor.lora.disabled():
                    base = t.mean(x, actor.denoise(x, t.sigmas[step]), step)
                kl = ((mu - base) ** 2).mean((1, 2, 3)) / (2 * t.s[step] ** 2)
                expected[rows, k] = -0.5 * len(t.scorable()) / 5 * kl
        return _Round(actor, policy, moved, rollout, reward, settings)._running_kl(), expected

    found, expected = policy.run(body, lora=moved, rows=4, grad=False)
    assert float(expected.max()) < 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_marks_alone_teach_a_critic_without_a_reward_of_latents() -> None:
    """What the critics in the memory explain is what was told, and it is what ``f`` alone says."""
    from hero_core.update.score_action import _Round

    policy, lora, rollout, reward = linear_reward(32, marks=True)
    after, metrics = update(policy, lora, rollout, reward, ScoreActionSettings(), seed=0)

    def body(actor):  # type: ignore[no-untyped-def]
        round_ = _Round(actor, policy, after, rollout, reward, ScoreActionSettings())
        points = round_._points(*round_._states(), round_.fold)
        return points, round_._critics(0).values(points)

    points, values = policy.run(body, lora=lora, rows=4, grad=False)
    assert bool(points.prior.isnan().all())
    returns = (reward.rewards - reward.rewards.mean()) / reward.rewards.std()
    told = explained(values, returns.repeat_interleave(5))
    assert float(values.std()) > 0.1, "it learned something"
    assert metrics["critic_r2"] == pytest.approx(told, abs=1e-5)


def test_critic_replay_and_kl_coefficient_travel_in_the_memory() -> None:
    policy, lora, rollout, reward = linear_reward(8)
    settings = ScoreActionSettings(replay=1, kl_coef=0.5, kl_target=1e9)
    after, _ = update(policy, lora, rollout, reward, settings, seed=0)
    assert float(after.memory["kl"]) == pytest.approx(0.5 / 1.5)
    kept = Replay.of(after.memory)
    assert len(kept.z_0) == 8
    assert len(kept.tau) == 40
    assert torch.equal(kept.z_0[kept.picture[5]], rollout.z_0[1])
    later = kept.then((kept.x.float(), kept.x0.float(), kept.tau), kept.fold, replace(rollout, round=2), kept.rewards)
    assert later.last(2).round.tolist() == [1] * 8 + [2] * 8
    assert torch.equal(later.last(1).picture, kept.picture)
    assert not any(key.startswith("replay") for key in later.last(0).memory())


def test_the_kl_as_running_reward_takes_from_the_return() -> None:
    policy, lora, rollout, reward = linear_reward(8)
    moved = replace(lora, weights={k: v + 0.2 for k, v in lora.weights.items()})
    again = replace(rollout, **vars(sampled_round(policy, moved, 8)))
    free, _ = update(policy, moved, again, reward, ScoreActionSettings(kl_as="reward"), seed=0)
    held, metrics = update(policy, moved, again, reward, ScoreActionSettings(kl_as="reward", kl_coef=100.0), seed=0)
    assert any(not torch.equal(held.weights[k], v) for k, v in free.weights.items())
    assert metrics["kl_by_step"] == sorted(metrics["kl_by_step"])
    assert len(metrics["kl_by_step"]) == 4
    assert all(kl > 0 for _, kl in metrics["kl_by_step"])


def sampled_round(policy: ToyPolicy, lora, n: int):  # type: ignore[no-untyped-def]
    from hero_core.rollout import sample

    z_T = seeding.randn((4, 8, 8), seeding.picture_generators(n, 0, 1, "z_T"))
    return sample(policy, lora, z_T, torch.full((n,), -1), SETTINGS, seed=0, round=1)


def test_what_is_shown_are_values_in_units_of_the_reward() -> None:
    policy, lora, rollout, reward = linear_reward(8)
    _, metrics = update(policy, lora, rollout, reward, ScoreActionSettings(), seed=0)
    good, bad = metrics["values"]["good"], metrics["values"]["bad"]
    assert good["picture"] == reward.feedback.best
    assert good["steps"] == [*rollout.steps[good["picture"]].tolist(), 20]
    assert good["values"][-1] == pytest.approx(float(reward.rewards.max()))
    assert bad["picture"] == reward.feedback.bad[0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"advantage": "best"}, "advantage is 'best'; it is one of gradient, gae, delta"),
        ({"gae_lambda": 1.5}, "gae_lambda is 1.5; it is between 0 and 1"),
        ({"critic_width": 0}, "critic_width is 0; it is 1 or more"),
        ({"critic_lr": float("nan")}, "critic_lr is nan; it is above 0"),
        ({"replay": -1}, "replay is -1"),
        ({"kl_target": 0.1}, "kl_target is 0.1 and kl_coef is 0"),
        ({"min_r2": 2.0}, "min_r2 is 2.0"),
    ],
)
def test_settings_are_refused_with_a_sentence(change: dict, sentence: str) -> None:
    with pytest.raises(HeroError, match=sentence):
        ScoreActionSettings(**change)
