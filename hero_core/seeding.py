# SPDX-License-Identifier: Apache-2.0
"""Random generators keyed by what they are for, so that every draw can be repeated on its own."""

from __future__ import annotations

import hashlib

import torch


def seed_for(*key: int | str) -> int:
    """A 63-bit seed from any tuple of integers and words, such as ``(session seed, round, "z_T", picture)``."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator for one purpose. CPU on purpose: the same numbers on every device."""
    return torch.Generator("cpu").manual_seed(seed_for(*key))


def picture_generators(n: int, *key: int | str) -> list[torch.Generator]:
    """One generator a picture, so that a picture does not depend on the batch that it was drawn in."""
    return [generator(*key, picture) for picture in range(n)]


def randn(shape: tuple[int, ...], generators: list[torch.Generator]) -> torch.Tensor:
    """Unit noise ``(len(generators), *shape)`` float32, row ``i`` from generator ``i``."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators])


def laps(items: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """``count`` of ``items`` ``(m,)``, m >= 1, a fresh order each lap: none comes up twice before all did."""
    orders = [items[torch.randperm(len(items), generator=generator)] for _ in range(-(-count // len(items)))]
    return torch.cat([*orders, items[:0]])[:count]
