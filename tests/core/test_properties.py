# SPDX-License-Identifier: Apache-2.0
"""Claims that hold for every label set, shape and precision, tried on many of them."""

import math
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds import N, begin, finish
from toy import ToyPolicy

from hero_core.bench.raters import RATERS, rate
from hero_core.embedding import Embedding, distance, fresh_embedding, triplet_loss
from hero_core.feedback import KEEP, Feedback, problems
from hero_core.mixture import Mixture, MixtureSettings
from hero_core.reward import advantages, auc, similarity
from hero_core.seeding import generator, picture_generators
from hero_core.store import SessionSettings, Store
from hero_core.tiny.judges import Judgement
from hero_core.transition import Transitions
from hero_core.update.d3po import pairs

LABELS = st.lists(st.sampled_from(["good", "bad", None]), min_size=N, max_size=N)
POLICY = ToyPolicy()


def feedback_of(labels: list, choice: int, keep: bool) -> Feedback:
    """Marks with one of the goods for the best, or the old one kept."""
    given_labels = {i: label for i, label in enumerate(labels) if label}
    goods = [i for i, label in given_labels.items() if label == "good"]
    best = KEEP if keep else goods[choice % len(goods)] if goods else None
    return Feedback(len(labels), given_labels, best)


@settings(max_examples=12)
@given(LABELS, LABELS, st.integers(0, 99), st.booleans())
def test_any_two_rounds_that_may_be_submitted_can_be_learned_and_saved(
    first: list, second: list, choice: int, keep: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        session = Store(Path(folder), Path(folder) / "loras").open("x", SessionSettings())
        for labels, kept in ((first, False), (second, keep)):
            feedback = feedback_of(labels, choice, kept)
            had_best = session.state().best is not None
            if problems(feedback, had_best):
                continue
            number = session.open_round
            rollout = begin(session, POLICY, feedback)
            before = session.state()
            saved = finish(session, POLICY, rollout)
            state = session.state()
            assert session.saved_round == number
            assert not any(isinstance(v, float) and not math.isfinite(v) and k != "auc" and k != "heldout_auc"
                           for k, v in saved.metrics.items())  # fmt: skip
            if isinstance(feedback.best, int):
                assert state.best is not None
                assert torch.equal(state.best.z_0, rollout.z_0[feedback.best])
                assert torch.equal(state.mixture.best, rollout.z_T[feedback.best])  # type: ignore[union-attr]
            else:
                assert state.best is before.best or state.best == before.best
            if not feedback.good:
                assert saved.metrics["skip"]
                assert before.lora is None or all(
                    torch.equal(w, state.lora.weights[k]) for k, w in before.lora.weights.items()  # type: ignore[union-attr]
                )


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(1, 30), st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_every_mixture_draws_from_its_own_references(goods: int, n: int, beta: float, eps0: float, seed: int) -> None:
    g = generator(seed)
    best, pool = torch.randn(2, 3, 5, generator=g), torch.randn(goods, 2, 3, 5, generator=g)
    mixture = Mixture(best, pool, MixtureSettings(beta, eps0))
    z, source = mixture.sample(picture_generators(n, seed), generator(seed, "order"))
    reference = torch.stack([mixture.best if s < 0 else mixture.goods[s] for s in source.tolist()])
    noise = torch.stack([torch.randn(2, 3, 5, generator=one) for one in picture_generators(n, seed)])
    torch.testing.assert_close(z, math.sqrt(1 - eps0**2) * reference + eps0 * noise)
    counts = torch.bincount(source[source >= 0], minlength=goods)
    assert int((source < 0).sum()) == round(beta * n)
    assert int(counts.max() - counts.min()) <= 1


@settings(max_examples=60)
@given(st.lists(st.floats(0.05, 0.95), min_size=2, max_size=8), st.floats(0.01, 1), st.booleans(), st.floats(0.5, 20))
def test_steps_keep_the_marginals_of_every_schedule(shares: list, eta: float, flow: bool, top: float) -> None:
    """Fed with the true x0 and noise, a step ends at ``alpha' x0`` with deviation ``sigma'``, in any model family."""
    sigmas = torch.tensor([1.0 if flow else top]).double() * torch.tensor([1.0, *shares]).double().cumprod(0)
    t = Transitions.of(torch.cat([sigmas, torch.zeros(1).double()]), eta, flow)
    alpha = 1 - sigmas if flow else torch.ones_like(sigmas)
    alpha_next, sigma_next = torch.cat([alpha[1:], torch.ones(1)]), torch.cat([sigmas[1:], torch.zeros(1)])
    a_x, a_x0, s = t.a_x.double(), t.a_x0.double(), t.s.double()
    torch.testing.assert_close(a_x * alpha + a_x0, alpha_next, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((a_x * sigmas) ** 2 + s**2, sigma_next**2, rtol=1e-4, atol=1e-5)


@settings(max_examples=30)
@given(st.integers(1, 16), st.integers(1, 5), st.integers(1, 5), st.sampled_from([torch.float32, torch.bfloat16]))
def test_log_probs_are_float32_and_finite_in_every_shape(c: int, h: int, w: int, dtype: torch.dtype) -> None:
    t = Transitions.of(torch.tensor([14.6, 3.0, 0.5, 0.03, 0.0]), 1.0, flow=False)
    g = generator(c, h, w)
    x = torch.randn(3, c, h, w, generator=g)
    x0_hat = torch.randn(3, c, h, w, generator=g).to(dtype).float()  # a half-precision model's own rounding
    for step in t.scorable().tolist():
        mu = t.mean(x, x0_hat, step)
        log_prob = t.log_prob(mu + t.s[step] * torch.randn(x.shape, generator=g), mu, step)
        assert log_prob.dtype == torch.float32
        assert log_prob.shape == (3,)
        assert torch.isfinite(log_prob).all()


@settings(max_examples=15)
@given(st.integers(1, 8), st.integers(8, 33), st.integers(8, 33))
def test_the_embedding_takes_every_latent_of_8_by_8_and_more(c: int, h: int, w: int) -> None:
    state = fresh_embedding((c, h, w), 0)
    network = Embedding((c, h, w))
    network.load_state_dict(state.weights)
    features = network.E(torch.randn(2, c, h, w, generator=generator(0)))
    assert features.shape == (2, 2048)
    assert network.g(features).shape == (2, 512)


@given(st.integers(1, 6), st.integers(1, 6), st.floats(0, 1), st.integers(0, 999))
def test_the_triplet_loss_is_the_mean_over_pairs(p: int, q: int, margin: float, seed: int) -> None:
    g = generator(seed)
    anchor, positives, negatives = (torch.randn(*shape, 7, generator=g).double() for shape in ((), (p,), (q,)))
    cosine = lambda a, b: float((a @ b) / (a.norm() * b.norm()))  # noqa: E731
    expected = sum(
        max(0.0, (cosine(anchor, b) - cosine(anchor, a)) / 2 + margin) for a in positives for b in negatives
    ) / (p * q)
    assert float(triplet_loss(anchor, positives, negatives, margin)) == pytest.approx(expected, abs=1e-9)
    assert bool(((distance(anchor, positives) >= 0) & (distance(anchor, positives) <= 1)).all())


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=20), st.floats(0.5, 5))
def test_advantages_are_centred_in_order_and_bounded(values: list, clip: float) -> None:
    rewards = torch.tensor(values)
    found = advantages(rewards, clip)
    assert float(found.abs().max()) <= clip + 1e-6
    order = rewards.argsort()
    assert bool((found[order].diff() >= -1e-6).all())


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=12), st.integers(1, 11))
def test_auc_is_the_share_of_pairs_in_order(values: list, cut: int) -> None:
    cut = min(cut, len(values) - 1)
    good, bad = list(range(cut)), list(range(cut, len(values)))
    expected = sum(1.0 if values[g] > values[b] else 0.5 if values[g] == values[b] else 0.0 for g in good for b in bad)
    assert auc(torch.tensor(values), good, bad) == pytest.approx(expected / (len(good) * len(bad)))


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
def test_similarity_lies_in_0_to_1_and_is_1_for_the_reference(n: int, references: int, seed: int) -> None:
    features = torch.randn(n + references, 6, generator=generator(seed))
    found = similarity(features, features[:1])
    assert float(found[0]) == pytest.approx(1.0)
    assert bool(((similarity(features, features[:references]) >= 0) & (found <= 1 + 1e-6)).all())


@given(LABELS, st.integers(0, 99))
def test_pairs_are_of_a_good_and_a_bad(labels: list, seed: int) -> None:
    feedback = feedback_of(labels, 0, False)
    found = pairs(feedback, generator(seed)).tolist()
    assert all(feedback.labels[g] == "good" and feedback.labels[b] == "bad" for g, b in found)
    good, bad = len(feedback.good), len(feedback.bad)
    assert len(found) == (max(good, bad) if good and bad else 0)


@given(st.sampled_from(sorted(RATERS)), LABELS, st.integers(0, 99), st.booleans())
def test_every_simulated_rater_may_submit_what_it_marks(name: str, truth: list, seed: int, old: bool) -> None:
    import numpy as np

    good = np.array([label == "good" for label in truth])
    judge = lambda pictures: Judgement(good, np.linspace(0, 1, N, dtype=np.float32))  # noqa: E731
    feedback = rate(judge, torch.zeros(N, 3, 2, 2), RATERS[name], np.random.default_rng(seed), old)
    assert problems(feedback, old) == []
