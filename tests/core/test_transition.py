# SPDX-License-Identifier: Apache-2.0
"""One Gaussian step against closed forms in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hero_core.transition import Transitions

SIGMAS = torch.tensor([14.6, 7.0, 3.0, 1.2, 0.5, 0.029, 0.0])
FLOW = torch.tensor([1.0, 0.8, 0.5, 0.3, 0.1, 0.0])


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_eta_one_is_the_ancestral_euler_step() -> None:
    t = Transitions.of(SIGMAS, 1.0, flow=False)
    x, x0 = randn(2, 4, 8, 8), randn(2, 4, 8, 8).flip(0)
    for i in range(5):
        a, b = float(SIGMAS[i]), float(SIGMAS[i + 1])
        up = math.sqrt(b**2 * (a**2 - b**2) / a**2)
        down = math.sqrt(b**2 - up**2)
        expected = x.double() + (x.double() - x0.double()) / a * (down - a)
        assert float(t.s[i]) == pytest.approx(up, rel=1e-6)
        torch.testing.assert_close(t.mean(x, x0, i), expected.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("flow", [False, True])
def test_eta_zero_keeps_predicted_noise_and_adds_none(flow: bool) -> None:
    sigmas = FLOW if flow else SIGMAS
    t = Transitions.of(sigmas, 0.0, flow)
    x0, eps = randn(1, 4, 8, 8), randn(1, 4, 8, 8).flip(2)
    alpha = (1 - sigmas) if flow else torch.ones_like(sigmas)
    for i in range(len(t)):
        x = alpha[i] * x0 + sigmas[i] * eps
        torch.testing.assert_close(t.mean(x, x0, i), alpha[i + 1] * x0 + sigmas[i + 1] * eps, rtol=1e-4, atol=1e-5)
    assert not t.s.any()


@pytest.mark.parametrize("flow", [False, True])
def test_marginal_is_preserved_at_any_eta(flow: bool) -> None:
    """With the true x0 and eps, the step's mean and s give variance sigma'^2 around alpha' * x0."""
    sigmas = FLOW if flow else SIGMAS
    for eta in (0.3, 0.7, 1.0):
        t = Transitions.of(sigmas, eta, flow)
        kept = t.a_x.double() * sigmas[:-1].double()
        torch.testing.assert_close(kept**2 + t.s.double() ** 2, sigmas[1:].double() ** 2, rtol=1e-5, atol=1e-7)


def test_the_last_step_gives_x0_and_is_never_scored() -> None:
    t = Transitions.of(SIGMAS, 1.0, flow=False)
    x, x0 = randn(1, 4, 8, 8), randn(1, 4, 8, 8) * 2
    torch.testing.assert_close(t.mean(x, x0, 5), x0)
    assert 5 not in t.scorable()


def training_levels() -> torch.Tensor:
    abar = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
    return ((1 - abar) / abar).sqrt()


@pytest.mark.parametrize(("steps", "worst"), [(20, 5.43), (50, 3.27)])
def test_the_step_onto_the_last_training_level_is_never_scored(steps: int, worst: float) -> None:
    """Evenly spaced timesteps that end on t = 1, as DDIM has them: that step is hypersensitive, the others are not."""
    sigmas = training_levels()[torch.arange(steps - 1, -1, -1) * (1000 // steps) + 1]
    t = Transitions.of(torch.cat([sigmas, torch.zeros(1)]), 1.0, flow=False)
    assert float(t.sensitivity[steps - 2]) == pytest.approx(worst, abs=0.01)
    assert t.scorable().tolist() == list(range(steps - 2))


def test_log_prob_is_the_mean_gaussian_log_density() -> None:
    t = Transitions.of(SIGMAS, 1.0, flow=False)
    mu = randn(3, 4, 8, 8)
    x = mu + 0.3 * randn(3, 4, 8, 8).flip(1)
    expected = torch.distributions.Normal(mu.double(), t.s[2].double()).log_prob(x.double()).mean((1, 2, 3))
    torch.testing.assert_close(t.log_prob(x, mu, 2), expected.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("flow", [False, True])
def test_the_gradient_of_the_log_prob_is_its_finite_difference(flow: bool) -> None:
    """By the prediction, whose error it passes on to the LoRA: ``(x' - mu) a_x0 / (s^2 N)`` in each of N cells."""
    t = Transitions.of(FLOW if flow else SIGMAS, 1.0, flow)
    x, x0, x_next = (randn(1, 2, 3, 3).double().roll(k, -1) for k in range(3))

    def log_prob(x0_hat: torch.Tensor) -> torch.Tensor:
        return t.log_prob(x_next, t.mean(x, x0_hat, 1), 1).sum()

    (gradient,) = torch.autograd.grad(log_prob(x0.requires_grad_()), x0)
    steps = 1e-4 * torch.eye(18, dtype=torch.float64).reshape(18, 2, 3, 3)
    finite = torch.stack([(log_prob(x0 + h) - log_prob(x0 - h)) / 2e-4 for h in steps]).reshape(1, 2, 3, 3)
    torch.testing.assert_close(gradient, finite.detach(), rtol=1e-6, atol=1e-9)
    by_hand = (x_next - t.mean(x, x0, 1)) * t.a_x0[1].double() / (t.s[1].double() ** 2 * 18)
    torch.testing.assert_close(gradient, by_hand.detach(), rtol=1e-6, atol=1e-9)


def test_rows_may_have_different_steps() -> None:
    t = Transitions.of(SIGMAS, 1.0, flow=False)
    x, x0 = randn(3, 4, 8, 8), randn(3, 4, 8, 8).flip(0)
    steps = torch.tensor([0, 4, 2])
    mixed = t.mean(x, x0, steps)
    for row, step in enumerate(steps.tolist()):
        torch.testing.assert_close(mixed[row], t.mean(x, x0, step)[row], rtol=0, atol=0)
        torch.testing.assert_close(
            t.log_prob(x, mixed, steps)[row], t.log_prob(x, mixed, step)[row], rtol=0, atol=0
        )


def test_kl_agrees_with_monte_carlo() -> None:
    t = Transitions.of(SIGMAS, 1.0, flow=False)
    mu, other = randn(1, 1, 2, 2), randn(1, 1, 2, 2) + 0.4
    draws = mu + t.s[3] * torch.randn(200_000, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    gap = t.log_prob(draws, mu.expand_as(draws), 3) - t.log_prob(draws, other.expand_as(draws), 3)
    assert float(t.kl(mu, other, 3)) == pytest.approx(float(gap.mean()), rel=0.02)


@given(st.floats(0.01, 1), st.floats(0.05, 0.99), st.floats(0.05, 1.0))
def test_the_sensitivity_of_flow_models_is_the_derivative_by_their_velocity(
    sigma: float, share: float, eta: float
) -> None:
    """A flow model predicts ``v = (x - x0) / sigma``: the mean where v is 1 against the mean where v is 0."""
    t = Transitions.of(torch.tensor([sigma, sigma * share, 0.0]), eta, flow=True)
    x = torch.ones(1, 1, 1, 1)
    shift = t.mean(x, x - sigma * 1.0, 0) - t.mean(x, x - sigma * 0.0, 0)
    assert float(shift.abs() / t.s[0]) == pytest.approx(float(t.sensitivity[0]), rel=2e-3, abs=1e-4)


def test_the_long_last_step_of_a_flow_schedule_is_never_scored() -> None:
    t = Transitions.of(torch.tensor([1.0, 0.95, 0.9, 0.8, 0.6, 0.3, 0.02, 0.0]), 1.0, flow=True)
    assert float(t.sensitivity[5]) == pytest.approx(14.68, abs=0.01)
    assert t.scorable().tolist() == [0, 1, 2, 3, 4]


@given(st.floats(0.01, 20), st.floats(0.05, 0.99), st.floats(0.05, 1.0))
def test_sensitivity_is_the_derivative_by_the_prediction(sigma: float, share: float, eta: float) -> None:
    t = Transitions.of(torch.tensor([sigma, sigma * share, 0.0]), eta, flow=False)
    x = torch.ones(1, 1, 1, 1)
    shift = t.mean(x, x - sigma * 1.0, 0) - t.mean(x, x - sigma * 0.0, 0)
    assert float(shift.abs() / t.s[0]) == pytest.approx(float(t.sensitivity[0]), rel=2e-3, abs=1e-4)
