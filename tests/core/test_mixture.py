# SPDX-License-Identifier: Apache-2.0
"""pi_HERO: shares, spread and order."""

import pytest
import torch

from hero_core.errors import HeroError
from hero_core.mixture import FROM_BEST, FROM_FRESH, Mixture, MixtureSettings
from hero_core.seeding import generator, picture_generators

SHAPE = (4, 8, 8)


def mixture(beta: float = 0.5, eps0: float = 0.1, goods: int = 3) -> Mixture:
    g = generator("test")
    best = torch.randn(SHAPE, generator=g)
    return Mixture(best, torch.randn(goods, *SHAPE, generator=g), MixtureSettings(beta, eps0))


def draw(m: Mixture, n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return m.sample(picture_generators(n, seed, "z"), generator(seed, "order"))


def test_shares_are_exact() -> None:
    _, source = draw(mixture(), 64)
    assert int((source == FROM_BEST).sum()) == 32
    counts = [int((source == good).sum()) for good in range(3)]
    assert sum(counts) == 32
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("beta", "from_best"), [(0.0, 0), (1.0, 10), (0.25, 2)])
def test_beta_is_the_share_of_the_best(beta: float, from_best: int) -> None:
    assert int((draw(mixture(beta), 10)[1] == FROM_BEST).sum()) == from_best


def test_a_share_may_be_fresh_noise() -> None:
    m = mixture(eps0=0.0)
    m = Mixture(m.best, m.goods, MixtureSettings(0.5, 0.0, fresh=0.25))
    z, source = draw(m, 400)
    assert [int((source == kind).sum()) for kind in (FROM_FRESH, FROM_BEST)] == [100, 150]
    fresh = z[source == FROM_FRESH]
    assert float(fresh.std()) == pytest.approx(1, rel=0.02)
    assert float(fresh.mean()) == pytest.approx(0, abs=0.02)
    torch.testing.assert_close(z[source == FROM_BEST][0], m.best)


def test_moments_are_those_of_the_formula() -> None:
    m = mixture(beta=1.0, eps0=0.3)
    z, _ = draw(m, 4000)
    torch.testing.assert_close(z.mean(0), (1 - 0.3**2) ** 0.5 * m.best, atol=0.03, rtol=0)
    assert float(z.std(0).mean()) == pytest.approx(0.3, rel=0.02)


def test_the_noise_stays_unit_noise() -> None:
    """Variance preserving: over random references the drawn noise has variance 1."""
    z = torch.cat([draw(Mixture(b, b[None], MixtureSettings(1.0, 0.4)), 4)[0] for b in torch.randn(200, *SHAPE)])
    assert float(z.var()) == pytest.approx(1.0, rel=0.02)


def test_position_does_not_leak_the_source() -> None:
    """The public code fills the first half from the best."""
    halves = [float((draw(mixture(), 64, seed)[1][:32] == FROM_BEST).float().mean()) for seed in range(50)]
    assert 0.4 < sum(halves) / 50 < 0.6


def test_without_jitter_the_references_come_back() -> None:
    m = mixture(eps0=0.0)
    z, source = draw(m, 6)
    for row, origin in zip(z, source.tolist(), strict=True):
        torch.testing.assert_close(row, m.best if origin == FROM_BEST else m.goods[origin])


def test_settings_outside_their_range_are_refused() -> None:
    with pytest.raises(HeroError, match=r"beta is 1\.5"):
        MixtureSettings(beta=1.5)
