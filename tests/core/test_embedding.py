# SPDX-License-Identifier: Apache-2.0
"""E, g, triplets and rewards, by hand-worked numbers and known traps."""

import math

import pytest
import torch

from hero_core import embedding as E
from hero_core import reward
from hero_core.errors import HeroError
from hero_core.feedback import Feedback
from hero_core.seeding import generator

SHAPE = (4, 8, 8)


def test_distance_is_half_of_one_minus_cosine() -> None:
    u = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    v = torch.tensor([[0.0, 3.0], [-1.0, 0.0], [5.0, 0.0]])
    torch.testing.assert_close(E.distance(u, v), torch.tensor([0.5, 1.0, 0.0]))


def test_triplet_loss_by_hand() -> None:
    anchor = torch.tensor([1.0, 0.0])
    positives = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # d = 0, 1/2
    negatives = torch.tensor([[-1.0, 0.0], [0.0, 1.0]])  # d = 1, 1/2
    # max(0, dp - dn + 1/2): (0, 0), (0, 1/2) -> 0, 0, 0, 1/2
    assert float(E.triplet_loss(anchor, positives, negatives, 0.5)) == pytest.approx(0.125)


def test_one_triplet_has_a_gradient() -> None:
    """A cosine over the batch axis gives exactly 0 here."""
    anchor = torch.randn(512, generator=generator(1), requires_grad=True)
    E.triplet_loss(anchor, torch.randn(1, 512), torch.randn(1, 512), 0.5).backward()
    assert float(anchor.grad.norm()) > 1e-4


def test_the_network_has_the_papers_sizes() -> None:
    network = E.Embedding((4, 64, 64))
    shapes = [tuple(m.weight.shape) for m in network.modules() if hasattr(m, "weight")]
    assert shapes == [
        (8, 4, 3, 3), (16, 8, 3, 3), (32, 16, 3, 3), (2048, 2048), (2048, 2048), (1024, 2048), (512, 1024),
    ]  # fmt: skip


LARGE = [(4, 128, 128), (16, 128, 128), (128, 64, 64), (16, 104, 152), (512, 16, 16), (16, 200, 90), (4, 8, 600)]


@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_the_state_of_large_latents_takes_at_most_20_mb(shape: tuple[int, ...]) -> None:
    """Weights and the two moments of Adam, which is what is kept."""
    state = E.fresh_embedding(shape, 0)
    assert 3 * 4 * sum(tensor.numel() for tensor in state.weights.values()) <= 20e6
    assert E.embed(state, torch.randn(2, *shape)).shape == (2, 512)


def test_latents_up_to_those_of_sd15_keep_the_papers_network() -> None:
    assert type(E.build(E.fresh_embedding((4, 64, 64), 0), (4, 64, 64))) is E.Embedding
    assert type(E.build(E.fresh_embedding((4, 64, 72), 0), (4, 64, 72))) is E.CompactEmbedding


def test_an_embedding_of_large_latents_that_was_begun_as_the_papers_goes_on_as_it() -> None:
    shape = (4, 72, 72)
    before = E.fresh_embedding(shape, 0, compact=False)
    assert type(E.build(before, shape)) is E.Embedding
    m = marks(shape=shape)
    after, _ = E.train(before, m, E.EmbeddingSettings(steps=1), generator=generator(0))
    step = max(float((after.weights[key] - before.weights[key]).abs().max()) for key in before.weights)
    assert step == pytest.approx(1e-5, rel=0.02), "Adam's first step is the learning rate"


def test_the_compact_network_separates_good_from_bad() -> None:
    shape = (8, 50, 70)
    before, m = E.fresh_embedding(shape, seed=0), marks(offset=0.3, shape=shape)
    after, metrics = E.train(before, m, E.EmbeddingSettings(steps=60), generator=generator(0))
    assert type(E.build(after, shape)) is E.CompactEmbedding
    assert metrics["embedding_loss_first"] == pytest.approx(0.5, abs=0.05)
    assert metrics["embedding_loss_last"] < 0.05
    again, _ = E.train(before, m, E.EmbeddingSettings(steps=60), generator=generator(0))
    assert all(torch.equal(after.weights[key], again.weights[key]) for key in after.weights)


@pytest.mark.parametrize("size", [(16, 16), (13, 19), (8, 8), (3, 9), (64, 1)])
def test_the_grid_holds_the_means_of_its_cells(size: tuple[int, int]) -> None:
    """Each place counts by the share of it that lies in the cell: whole places where the sides divide, as in torch's
    pooling, and the mean over the cells is the mean over the latent always."""
    x = torch.randn(2, 3, *size, generator=generator("grid"))
    found = E.Grid()(x)
    assert found.shape == (2, 3, min(8, size[0]), min(8, size[1]))
    torch.testing.assert_close(found.mean((2, 3)), x.mean((2, 3)))
    if all(side <= 8 or side % 8 == 0 for side in size):
        torch.testing.assert_close(found, torch.nn.functional.adaptive_avg_pool2d(x, found.shape[2:]))


def marks(offset: float = 1.0, goods: int = 6, shape: tuple[int, ...] = SHAPE) -> E.RatedLatents:
    """Goods lie around +offset, bads around -offset in the first channel."""
    g = generator("marks")
    shift = torch.zeros(shape)
    shift[0] = offset
    good = torch.randn(goods + 1, *shape, generator=g) + shift
    return E.RatedLatents(good[0], good[1:], torch.randn(6, *shape, generator=g) - shift)


def rewards(state: E.EmbeddingState, m: E.RatedLatents) -> torch.Tensor:
    latents = torch.cat([m.best[None], m.goods, m.bads])
    features = E.embed(state, latents)
    return reward.similarity(features, features[:1])


def test_training_separates_good_from_bad() -> None:
    before, m = E.fresh_embedding(SHAPE, seed=0), marks()
    after, metrics = E.train(before, m, E.EmbeddingSettings(steps=60, lr=1e-4), generator=generator(0))
    assert metrics["embedding_loss_first"] == pytest.approx(0.5, abs=0.05)
    assert metrics["embedding_loss_last"] < 0.05
    goods, bads = list(range(1, 7)), list(range(7, 13))
    assert reward.auc(rewards(after, m), goods, bads) > reward.auc(rewards(before, m), goods, bads) - 1e-9
    assert reward.auc(rewards(after, m), goods, bads) == 1.0
    assert after.rounds == 1


def test_where_the_loss_is_zero_the_projected_rewards_rank_every_mark() -> None:
    """The loss is taken after the head: E's own features need not follow it."""
    m = marks(offset=0.2)
    settings = E.EmbeddingSettings(steps=300, lr=1e-4)
    after, metrics = E.train(E.fresh_embedding(SHAPE, 0), m, settings, generator=generator(0))
    assert metrics["embedding_loss_last"] == 0.0
    latents = torch.cat([m.best[None], m.goods, m.bads])
    network = E.build(after, SHAPE)
    features = E.embed(after, latents, project=True)
    assert torch.equal(features, network.g(network.E(latents)))
    projected = reward.similarity(features, features[:1])
    goods, bads = list(range(1, 7)), list(range(7, 13))
    assert float(projected[goods].min() - projected[bads].max()) >= 0.5
    assert reward.auc(rewards(after, m), goods, bads) < 1.0


def test_the_best_has_reward_one() -> None:
    after, _ = E.train(E.fresh_embedding(SHAPE, 0), marks(), E.EmbeddingSettings(steps=5), generator=generator(0))
    assert float(rewards(after, marks())[0]) == pytest.approx(1.0, abs=1e-6)


def test_only_best_is_good_trains_on_itself() -> None:
    m = marks()._replace(goods=torch.empty(0, *SHAPE))
    before = E.fresh_embedding(SHAPE, 0)
    after, metrics = E.train(before, m, E.EmbeddingSettings(steps=40, lr=1e-4), generator=generator(0))
    assert metrics["embedding_loss_last"] < metrics["embedding_loss_first"]
    assert float(rewards(after, m)[1:].mean()) < float(rewards(before, m)[1:].mean())


def test_without_bads_nothing_is_trained() -> None:
    before = E.fresh_embedding(SHAPE, 0)
    m = marks()._replace(bads=torch.empty(0, *SHAPE))
    after, metrics = E.train(before, m, E.EmbeddingSettings(), generator=generator(0))
    assert after is before
    assert metrics == {}


def test_training_in_two_parts_equals_training_at_once() -> None:
    """Adam's moments travel with the state."""
    start, m = E.fresh_embedding(SHAPE, 0), marks(offset=0.05)
    whole, _ = E.train(start, m, E.EmbeddingSettings(steps=6), generator=generator(0))
    half, _ = E.train(start, m, E.EmbeddingSettings(steps=3), generator=generator(0))
    rest, _ = E.train(half, m, E.EmbeddingSettings(steps=3), generator=generator(0))
    assert all(torch.equal(whole.weights[k], rest.weights[k]) for k in whole.weights)


def test_training_ends_when_no_triplet_is_left() -> None:
    _, metrics = E.train(
        E.fresh_embedding(SHAPE, 0), marks(3.0), E.EmbeddingSettings(steps=400, lr=1e-4), generator=generator(0)
    )
    assert metrics["embedding_loss_last"] == 0
    assert metrics["embedding_steps"] < 200


def test_another_latent_size_is_refused() -> None:
    with pytest.raises(HeroError, match="made for other latents"):
        E.embed(E.fresh_embedding(SHAPE, 0), torch.zeros(2, 4, 16, 16))
    with pytest.raises(HeroError, match="4 x 4"):
        E.Embedding((4, 4, 4))


def test_auc_counts_ties_as_half() -> None:
    r = torch.tensor([0.9, 0.5, 0.5, 0.1])
    assert reward.auc(r, [0, 1], [2, 3]) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert math.isnan(reward.auc(r, [0], []))


def test_advantages_are_normalised_and_clipped() -> None:
    r = torch.tensor([1.0, 2.0, 3.0, 6.0])
    torch.testing.assert_close(reward.advantages(r, 5.0), (r - 3) / (r.std() + 1e-8))
    assert float(reward.advantages(r, 0.5).max()) == 0.5


def test_similarity_to_all_goods_is_the_mean() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    torch.testing.assert_close(reward.similarity(features, features[:2]), torch.tensor([0.75, 0.75, 0.25]))


def test_rewards_that_tell_nothing_are_refused() -> None:
    feedback = Feedback(4, {0: "good", 1: "good", 2: "bad", 3: "bad"}, best=0)
    assert reward.why_not(torch.tensor([1.0, 0.9, 0.2, 0.1]), feedback) is None
    assert "equal" in reward.why_not(torch.full((4,), 0.98), feedback)
    assert "no better than chance" in reward.why_not(torch.tensor([1.0, 0.1, 0.2, 0.3]), feedback)


def test_the_map_keeps_distances_of_flat_features() -> None:
    flat = torch.randn(10, 2, generator=generator(3))
    features = torch.cat([flat, torch.zeros(10, 5)], 1)
    on_map = E.plane(features)
    torch.testing.assert_close(torch.cdist(on_map, on_map), torch.cdist(flat, flat), atol=1e-4, rtol=0)
