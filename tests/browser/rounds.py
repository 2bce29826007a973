# SPDX-License-Identifier: Apache-2.0
"""Rounds for the browser to rate: drawn pictures in a real store, no model needed."""

from __future__ import annotations

import torch

from hero_core.rollout import Rollout, SamplingSettings
from hero_core.store import Round, SessionSettings, State, Store


def draw_pictures(n: int, height: int = 128, width: int = 128, seed: int = 0) -> torch.Tensor:
    """Pictures `(n, H, W, 3)` in 0..1 that can be told apart: a disc of one colour on a gradient of another."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    low, high, disc = (torch.rand(n, 1, 1, 3, generator=g) for _ in range(3))
    angle = torch.rand(n, 1, 1, generator=g) * 6.28
    ramp = ((torch.cos(angle) * (x - 0.5) + torch.sin(angle) * (y - 0.5)) + 0.5).clamp(0, 1)[..., None]
    place = torch.rand(n, 2, 1, 1, generator=g) * 0.5 + 0.25
    radius = torch.rand(n, 1, 1, generator=g) * 0.15 + 0.12
    distance = ((x - place[:, 0]) ** 2 + ((y - place[:, 1]) * height / width) ** 2).sqrt()
    inside = ((radius - distance) * height / 2 + 0.5).clamp(0, 1)[..., None]
    return (low * 0.7 * (1 - ramp) + high * 0.8 * ramp) * (1 - inside) + disc * inside


def draw_round(store: Store, session: str = "blue_rose", n: int = 16, mode: str = "standalone", **size: int) -> Round:
    """The open round of `session`, sampled and with pictures that wait for marks."""
    opened = store.open(session, SessionSettings())
    if opened.fingerprint is None:
        opened.tie("drawn", {"prompt": "a photo of one blue rose in a vase"})
    latents, steps = torch.zeros(2, n, 4, 2, 2), torch.zeros(2, n, 1, 4, 2, 2)
    rollout = Rollout(
        round=opened.open_round, z_T=latents[0].clone(), z_0=latents[1].clone(), source=torch.full((n,), -1),
        sigmas=torch.tensor([1.0, 0.0]), steps=torch.zeros(n, 1, dtype=torch.int64), x=steps[0].clone(),
        x_next=steps[1].clone(), x0_hat=steps[1].clone(), log_prob=torch.zeros(n, 1),
        settings=SamplingSettings(steps=1, scored_steps=1),
    )  # fmt: skip
    round_ = opened.round(opened.open_round)
    round_.write_rollout(rollout)
    round_.write_pictures(draw_pictures(n, seed=opened.open_round, **size), mode)
    return round_


def save_round(round_: Round, best: int) -> None:
    """Close a rated round as Save Round does, with picture `best` as the old best of later ones."""
    round_.session.save(State(), {"best": {"round": round_.number, "picture": best}}, None)
