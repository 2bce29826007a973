# SPDX-License-Identifier: Apache-2.0
"""The feedback embedding: E maps finished latents to features in which the goods lie near the best (HERO, 4.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import seeding
from .errors import HeroError
from .optimizer import load_optimizer, optimizer_state
from .policy import Progress, no_progress
from .settings import check, setting

JITTER = 0.1
"""Noise, in units of the latent's own spread, that makes a positive of the best where it is the only good."""


@dataclass(frozen=True)
class EmbeddingSettings:
    """How E and g learn from a round: Adam on the triplet loss (``margin`` is alpha in the paper)."""

    steps: int = setting(
        500,
        "Training steps a round. The paper's runs take 5000; this is a tenth, because training goes on from round to "
        "round, and on the tiny model 100, 500 and 2000 steps brought the same within what seeds differ by.",
        least=0, high=100_000,
    )  # fmt: skip
    lr: float = setting(1e-5, "Learning rate of the network: 1e-5 in the paper.", above=0, low=1e-8, high=1, step=1e-6)
    margin: float = setting(
        0.5,
        "How much farther from the best a bad picture shall lie than a good one: 0.5 in the paper.",
        least=0, most=1, step=0.01, why=", as distances do",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)


COAST = 50
"""Training ends after this many steps of exactly zero loss: no gradient is left, and Adam's momentum has died away."""


class Embedding(nn.Module):
    """E: three convolutions and a linear layer to 2048 features; g: the projection head 2048 -> 1024 -> 512.

    ``E(z)`` takes latents ``(n, C, H, W)`` of the shape that it was made for, H and W at least 8.
    """

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        c, height, width = latent_shape
        if height < 8 or width < 8:
            raise HeroError(f"Latents of {height} x {width} cannot be embedded: 8 x 8 is the least (64 x 64 pixels).")
        blocks: list[nn.Module] = []
        for level in range(3):
            convolution = nn.Conv2d(c << level, c << (level + 1), 3, padding=1)
            blocks += [convolution, nn.ReLU(), nn.MaxPool2d(2)]
        features = (c << 3) * (height // 8) * (width // 8)
        self.E = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(features, 2048), nn.ReLU())
        self.g = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 1024), nn.ReLU(), nn.Linear(1024, 512))


@dataclass(frozen=True)
class EmbeddingState:
    """E and g between two rounds: weights and Adam state by name, and how many rounds they have learned from."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    rounds: int = 0


class RatedLatents(NamedTuple):
    """The rated latents of a round: ``best`` ``(C, H, W)``, ``goods`` without the best, ``bads``."""

    best: Tensor
    goods: Tensor
    bads: Tensor


def fresh_embedding(latent_shape: tuple[int, ...], seed: int) -> EmbeddingState:
    """E and g before any mark, their weights drawn from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.seed_for(seed, "embedding"))
        return EmbeddingState({k: v.detach().clone() for k, v in Embedding(latent_shape).state_dict().items()})


def build(state: EmbeddingState, latent_shape: tuple[int, ...], device: torch.device | str = "cpu") -> Embedding:
    """The network that ``state`` describes; raises :class:`HeroError` where it was made for other latents."""
    with torch.random.fork_rng(devices=[]):
        network = Embedding(latent_shape)
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    if {key: tensor.shape for key, tensor in state.weights.items()} != shapes:
        raise HeroError(f"The saved embedding was made for other latents than {tuple(latent_shape)}: keep one size.")
    network.load_state_dict(dict(state.weights))
    return network.to(device)


def distance(u: Tensor, v: Tensor) -> Tensor:
    """``(1 - cos(u, v)) / 2`` over the last axis, in 0..1."""
    return (1 - F.cosine_similarity(u, v, dim=-1)) / 2


def triplet_loss(anchor: Tensor, positives: Tensor, negatives: Tensor, margin: float) -> Tensor:
    """``mean over (p, n) of max(0, d(a, p) - d(a, n) + margin)`` (HERO, eq. 3).

    ``anchor`` ``(d,)``, ``positives`` ``(p, d)``, ``negatives`` ``(q, d)``: every pair counts once.
    """
    near, far = distance(anchor, positives), distance(anchor, negatives)
    return F.relu(near[:, None] - far[None, :] + margin).mean()


def train(
    state: EmbeddingState,
    marks: RatedLatents,
    settings: EmbeddingSettings,
    *,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    progress: Progress = no_progress,
) -> tuple[EmbeddingState, dict[str, float]]:
    """Train E and g on one round's marks; returns the new state and ``loss_first`` / ``loss_last``.

    Where the best is the only good, a jittered copy of it is its positive. Where nothing is bad there is no triplet,
    and the state comes back as it was.
    """
    if len(marks.bads) == 0 or settings.steps == 0:
        return state, {}
    network = build(state, tuple(marks.best.shape), device)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr, fused=True)
    load_optimizer(optimizer, dict(network.named_parameters()), state.optimizer)
    goods = marks.goods if len(marks.goods) else _jittered(marks.best, generator)
    latents = torch.cat([marks.best[None], goods, marks.bads]).to(device)
    losses: list[float] = []
    for step in range(settings.steps):
        features = network.g(network.E(latents))
        loss = triplet_loss(features[0], features[1 : 1 + len(goods)], features[1 + len(goods) :], settings.margin)
        losses.append(float(loss.detach()))
        if losses[-COAST:] == [0.0] * COAST:
            break
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        progress(step + 1, settings.steps, None)
    progress(settings.steps, settings.steps, None)
    weights = {k: v.detach().to("cpu", copy=True) for k, v in network.state_dict().items()}
    saved = optimizer_state(optimizer, dict(network.named_parameters()))
    metrics = {
        "embedding_loss_first": losses[0],
        "embedding_loss_last": losses[-1],
        "embedding_steps": float(len(losses)),
    }
    return EmbeddingState(weights, saved, state.rounds + 1), metrics


def embed(
    state: EmbeddingState, latents: Tensor, device: torch.device | str = "cpu", *, project: bool = False
) -> Tensor:
    """``E(z)`` of latents ``(n, C, H, W)``: ``(n, 2048)`` on the CPU, differentiable.

    The head is dropped, as in HERO, unless ``project``: then ``g(E(z))``, ``(n, 512)``, which is what the triplet loss
    has pulled apart.
    """
    network = build(state, tuple(latents.shape[1:]), device).requires_grad_(False)
    features = nn.Sequential(network.E, network.g) if project else network.E
    return torch.cat([features(part.to(device)).cpu() for part in latents.split(64)])


def plane(features: Tensor) -> Tensor:
    """A map of features ``(n, d)`` on their two principal axes ``(n, 2)``, for people to look at."""
    centred = features - features.mean(0)
    u, s, _ = torch.linalg.svd(centred.double(), full_matrices=False)
    coordinates = torch.zeros(len(features), 2, dtype=torch.float64)
    axes = min(2, len(s))
    coordinates[:, :axes] = u[:, :axes] * s[:axes]
    return coordinates.float()


def _jittered(best: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(best.shape, generator=generator)
    return (best + JITTER * best.std() * noise)[None]
