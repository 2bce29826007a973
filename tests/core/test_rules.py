# SPDX-License-Identifier: Apache-2.0
"""The update rules beside HERO's own, and DDPO on a problem whose gradient is known by hand."""

import math

import pytest
import torch
from rounds import rollout_of
from torch import Tensor, nn
from toy import ToyPolicy

from hero_core import seeding
from hero_core.errors import HeroError
from hero_core.feedback import Feedback
from hero_core.lora import LoRA, LoRAConfig, LoRAState
from hero_core.reward import Reward
from hero_core.rollout import SamplingSettings, sample
from hero_core.transition import Transitions
from hero_core.update import d3po, ddpo
from hero_core.update.common import ScoredSteps
from hero_core.update.d3po import D3POSettings

MARKS = Reward(torch.zeros(8), Feedback(8, {i: "good" if i < 3 else "bad" for i in range(8)}))


# -- DDPO on a linear-Gaussian problem -----------------------------------------------------------------------------


class _Constant(nn.Module):
    """One number for every cell, from one weight: what the mean of a Gaussian needs to be known by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.attn1 = nn.Module()
        self.attn1.to_q = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.attn1.to_q.weight)


class _Gaussian(ToyPolicy):
    """``x0_hat = theta`` everywhere, theta the LoRA's one number (0 at the start)."""

    latent_shape = (1, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.net = _Constant().requires_grad_(False)

    def run(self, body, *, lora, rows, grad, cfg):  # type: ignore[no-untyped-def]
        adapters = LoRA.inject(self.net, lora.config)
        adapters.load(lora.weights)
        actor = type("Actor", (), {"device": torch.device("cpu"), "dtype": torch.float32, "lora": adapters})()
        actor.gradient_scale = None
        actor.denoise = lambda x, sigma, side="guided": self.net.attn1.to_q(torch.ones(1, 1)).expand_as(x)
        actor.initial, actor.final = (lambda z, sigma: z * sigma), (lambda x: x)
        with torch.set_grad_enabled(grad):
            result = body(actor)
        adapters.eject()
        return result


def test_the_gradient_on_a_linear_gaussian_problem_is_the_one_by_hand() -> None:
    """With ``x' ~ N(mu(theta), s^2)`` in each of 64 cells and the mean of the step's noise as reward, the normalised
    advantage is that mean over ``s / 8``, and ``d E[A log p] / d theta = (d mu / d theta) / (8 s)``."""
    policy = _Gaussian()
    lora = policy.fresh_lora(LoRAConfig(rank=1, alpha=1.0), seeding.generator(0))
    settings = SamplingSettings(steps=12, micro_batch=64, scored_steps=1)
    n = 4096
    z_T = seeding.randn((1, 8, 8), seeding.picture_generators(n, "z_T"))
    rollout = sample(policy, lora, z_T, torch.full((n,), -1), settings, seed=0, round=1)
    t = Transitions.of(rollout.sigmas, 1.0, flow=False)
    step = rollout.steps[:, 0]
    noise = rollout.x_next[:, 0] - t.mean(rollout.x[:, 0], torch.zeros_like(rollout.x[:, 0]), step)
    reward = noise.mean((1, 2, 3)) / t.s[step]  # in units of its step's own deviation, so that all steps count alike
    whole = ddpo.DDPOSettings(batch=n, lr=1e-12, weight_decay=0.0, max_grad_norm=1e9, scored_steps=1)
    _, metrics = ddpo.update(policy, lora, rollout, Reward(reward, Feedback(n)), whole, seed=0)
    into_theta = float(next(w for k, w in lora.weights.items() if k.endswith("lora_A.weight")).abs())
    expected = float((t.a_x0[step] / (8 * t.s[step])).mean()) * into_theta
    assert metrics["grad_norm"] == pytest.approx(expected, rel=0.05)


# -- D3PO ----------------------------------------------------------------------------------------------------------


def test_every_picture_is_in_a_pair_and_the_rarer_kind_in_several() -> None:
    found = d3po.pairs(MARKS.feedback, torch.Generator().manual_seed(0))
    assert found.shape == (5, 2)
    assert sorted(found[:, 1].tolist()) == [3, 4, 5, 6, 7]
    assert sorted(found[:, 0].tolist().count(good) for good in (0, 1, 2)) == [1, 2, 2]
    assert len(d3po.pairs(Feedback(3, {0: "good"}), torch.Generator())) == 0


def test_the_preference_loss_by_hand() -> None:
    good, bad = torch.tensor([0.0, 2.0]), torch.tensor([0.0, -3.0])
    expected = [math.log(2), math.log(1 + math.exp(-0.5))]
    torch.testing.assert_close(d3po.preference_loss(good, bad, beta=0.1), torch.tensor(expected))


def _log_probs(policy: ToyPolicy, lora: LoRAState, rollout, index: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    def body(actor):  # type: ignore[no-untyped-def]
        scored = ScoredSteps(actor, policy, rollout, rollout.rows)
        return torch.cat([scored.log_prob(part)[weight > 0] for part, weight in scored.chunks(index)])

    return policy.run(body, lora=lora, rows=rollout.rows, grad=False)


@pytest.mark.parametrize("mixed", [True, False])
def test_d3po_prefers_goods_to_bads(mixed: bool) -> None:
    policy = ToyPolicy(mixed_sigmas=mixed)
    lora, rollout = rollout_of(policy, settings=SamplingSettings(steps=12, micro_batch=4, scored_steps=12))
    after, metrics = d3po.update(policy, lora, rollout, MARKS, D3POSettings(lr=1e-3, epochs=4), seed=0)
    assert metrics["pair_steps"] == 25
    assert metrics["kl_to_base"] > 0
    slots = torch.arange(rollout.steps.shape[1])
    index = torch.cartesian_prod(torch.arange(8), slots)
    if not mixed:
        index = index[rollout.steps[index[:, 0], index[:, 1]].argsort(stable=True)]
    gain = _log_probs(policy, after, rollout, index) - _log_probs(policy, lora, rollout, index)
    assert float(gain[index[:, 0] < 3].mean()) > float(gain[index[:, 0] >= 3].mean()) + 1e-4


def test_d3po_starts_at_log_two_and_at_the_gradient_of_the_paper(policy: ToyPolicy) -> None:
    """At the base model every ratio is 1: the loss is log 2 and its gradient -(beta / 2) d(log p_good - log p_bad)."""
    lora, rollout = rollout_of(policy, settings=SamplingSettings(steps=12, micro_batch=4, scored_steps=12))
    settings = D3POSettings(lr=1e-12, weight_decay=0.0, max_grad_norm=1e9, batch=100, scored_steps=3)
    _, metrics = d3po.update(policy, lora, rollout, MARKS, settings, seed=0)
    assert metrics["loss"] == pytest.approx(math.log(2), rel=1e-6)
    steps = d3po._pair_steps(rollout, MARKS.feedback, settings, seed=0)

    def body(actor):  # type: ignore[no-untyped-def]
        scored = ScoredSteps(actor, policy, rollout, rollout.rows)
        for side, sign in ((steps[:, :2], 1.0), (steps[:, 2:], -1.0)):
            for part, weight in scored.chunks(side):
                (-0.05 * sign * 256 * (scored.log_prob(part) * weight).sum() / len(steps)).backward()
        gradients = [p.grad for p in actor.lora.parameters().values() if p.grad is not None]
        return math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))

    assert metrics["grad_norm"] == pytest.approx(policy.run(body, lora=lora, rows=4, grad=True), rel=1e-4)


def test_d3po_without_a_bad_says_what_is_missing(policy: ToyPolicy) -> None:
    lora, rollout = rollout_of(policy)
    with pytest.raises(HeroError, match="mark some pictures bad"):
        d3po.update(policy, lora, rollout, Reward(torch.zeros(8), Feedback(8, {0: "good"})), D3POSettings(), seed=0)


@pytest.mark.parametrize(("settings", "words"), [
    (lambda: D3POSettings(beta=0), "beta is 0"),
    (lambda: D3POSettings(lr=-1), "lr is -1"),
])  # fmt: skip
def test_settings_out_of_range_are_refused(settings, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(HeroError, match=words):
        settings()
