# SPDX-License-Identifier: Apache-2.0
"""The feedback embedding: E maps finished latents to features in which the goods lie near the best (HERO, 4.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import seeding
from .compact import is_large
from .errors import HeroError
from .optimizer import load_optimizer, optimizer_state
from .policy import Progress, no_progress
from .settings import check, setting

CELLS = 8
"""Cells a side that the features of large latents are pooled to."""
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

    pace = 1.0
    """What the learning rate is multiplied by."""

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        c, height, width = latent_shape
        if height < 8 or width < 8:
            raise HeroError(f"Latents of {height} x {width} cannot be embedded: 8 x 8 is the least (64 x 64 pixels).")
        self._lay(c, height // 8, width // 8)

    def _lay(self, c: int, height: int, width: int) -> None:
        """The layers, for latents of ``c`` channels that are ``height`` x ``width`` after the convolutions."""
        features = (c << 3) * height * width
        look = _convolutions(c, c << 1, c << 2, c << 3)
        self.E = nn.Sequential(*look, nn.Flatten(), nn.Linear(features, 2048), nn.ReLU())
        self.g = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 1024), nn.ReLU(), nn.Linear(1024, 512))


class CompactEmbedding(Embedding):
    """The same for large latents, in 1.5 million weights for any of them: 32 channels, a grid of at most 8 x 8 cells
    before the linear layer, 512 features, and a head 512 -> 256 -> 128.

    On latents of Flux's shape a state takes 18 MB for 888, and 64 pictures 0.8 s a step on one core and 0.7 GiB for
    2.0 s and 2.5 GiB. It ranks no worse: AUC of good over bad in rounds of 64 of the tiny model before they are learned
    from, by E's features and after the head (``python -m tests.compact_cost auc``, the second and third round; the
    larger latents are those of enlarged pictures; no checkpoint of full size was measured):

    ===========  =====  =========  ==========  =========  =========
    latents      seeds  network    colour      place      count
    ===========  =====  =========  ==========  =========  =========
    4 x 16 x 16  3      paper's    .79, .94    .71, .85   .69, .52
    4 x 16 x 16  3      compact    .96, .99    .82, .93   .72, .65
    4 x 64 x 64  1      compact    .98, 1.00   .83, .91   .75, .78
    ===========  =====  =========  ==========  =========  =========
    """

    pace = 4.0  # narrower layers move less by the same learning rate

    def _lay(self, c: int, height: int, width: int) -> None:
        features = 32 * min(height, CELLS) * min(width, CELLS)
        look = _convolutions(c, 32, 32, 32)
        self.E = nn.Sequential(*look, Grid(), nn.Flatten(), nn.Linear(features, 512), nn.ReLU())
        self.g = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 128))


def _convolutions(*channels: int) -> Iterator[nn.Module]:
    """Convolutions from each number of channels to the next, each halving height and width."""
    for before, after in pairwise(channels):
        yield from (nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))


class Grid(nn.Module):
    """Means over a grid of at most 8 x 8 cells, ``(n, C, H, W)`` of any H and W.

    By matrices, as the gradient of torch's own adaptive pooling is not the same twice on a GPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (_cells(size).to(x) for size in x.shape[2:])
        return rows @ x @ columns.T


def _cells(size: int) -> Tensor:
    """``(cells, size)``: how much each place of a row counts in the mean of each cell."""
    count = min(size, CELLS)
    edges, places = torch.linspace(0, size, count + 1), torch.arange(size)
    overlap = torch.minimum(edges[1:, None], places + 1) - torch.maximum(edges[:-1, None], places)
    return overlap.clamp(min=0) * count / size


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


def fresh_embedding(latent_shape: tuple[int, ...], seed: int, *, compact: bool = True) -> EmbeddingState:
    """E and g before any mark, their weights drawn from ``seed``; large latents get the paper's network where they are
    not to be ``compact``."""
    kind = CompactEmbedding if compact and is_large(latent_shape) else Embedding
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.seed_for(seed, "embedding"))
        return EmbeddingState({k: v.detach().clone() for k, v in kind(latent_shape).state_dict().items()})


def build(state: EmbeddingState, latent_shape: tuple[int, ...], device: torch.device | str = "cpu") -> Embedding:
    """The network that ``state`` describes; raises :class:`HeroError` where it was made for other latents."""
    shapes = {key: tensor.shape for key, tensor in state.weights.items()}
    for kind in (Embedding, CompactEmbedding):
        with torch.device("meta"):
            network = kind(latent_shape)
        if {key: tensor.shape for key, tensor in network.state_dict().items()} == shapes:
            network.to_empty(device="cpu").load_state_dict(dict(state.weights))
            return network.to(device)
    raise HeroError(f"The saved embedding was made for other latents than {tuple(latent_shape)}: keep one size.")


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
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr * network.pace, fused=True)
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
    """``E(z)`` of latents ``(n, C, H, W)``: ``(n, features)`` on the CPU, differentiable.

    The head is dropped, as in HERO, unless ``project``: then ``g(E(z))``, which is what the triplet loss has pulled
    apart.
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
