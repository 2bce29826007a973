# SPDX-License-Identifier: Apache-2.0
"""Large latents in little room: which latents are large, and how their recorded states are kept in few bits.

A latent of Flux has 16 times as many numbers as one of SD 1.5 at 512 x 512, and one of Flux.2 32 times. What a session
keeps of them must not grow as much: a round of 64 takes 117 MB on Flux and 193 MB on Flux.2, for 1141 and 2282 in
float32. What it costs is a model call without gradients for each recorded step of an update, and a gradient that is a
little another one (DDPO's, rounds of 32 of the tiny model on colour and place, ``python -m tests.compact_cost gradient
--pictures 32 --seeds 1``; in an update each ratio begins at 1, however few the bits):

====  ==============================================  ===================
bits  cosine with the gradient of states in float32   length
====  ==============================================  ===================
8     .99997, .99998                                  .9996, 1.0001
6     .9996, .9997                                    .9990, .9996
4     .993, .994                                      .979, .987
====  ==============================================  ===================
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

LARGE = 4 * 64 * 64
"""Numbers in a latent of SD 1.5 at 512 x 512; one with more is large."""
ROOM = 2_000_000
"""Bytes that the recorded states of one picture may take, where :data:`FEWEST` bits a number leave a choice."""
FEWEST, MOST = 6, 8


def is_large(latent_shape: tuple[int, ...]) -> bool:
    """Whether latents of this shape ``(C, H, W)`` have more numbers than one of SD 1.5 at 512 x 512."""
    return math.prod(latent_shape) > LARGE


def rounded(latents: Tensor) -> Tensor:
    """Float32 latents as float16 has them, so that they can be kept in it: nearer than a model in half precision can
    tell."""
    return latents.half().float()


def shortest(tensor: Tensor) -> Tensor:
    """Large latents ``(n, C, H, W)`` in float16 where they are :func:`rounded` to it; anything else as it is."""
    if tensor.ndim != 4 or tensor.dtype != torch.float32 or not is_large(tuple(tensor.shape[1:])):
        return tensor
    half = tensor.half()
    return half if torch.equal(half.float(), tensor) else tensor


def bits_for(numbers: int) -> int:
    """Bits for each of the ``numbers`` in a picture's recorded states: 8, or as few as 6 where there are many."""
    return max(FEWEST, min(MOST, 8 * ROOM // max(1, numbers)))


def to_levels(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """States ``(..., C, H, W)`` as whole numbers of ``bits`` (uint8, same shape) and their scale ``(..., C, 2)``: each
    channel of a state is ``scale[0] + scale[1] * level``."""
    low, high = x.amin((-2, -1)), x.amax((-2, -1))
    scale = torch.stack([low, (high - low) / (2**bits - 1)], dim=-1)
    level = (x - _column(scale, 0)) / _column(scale, 1).clamp(min=torch.finfo(torch.float32).tiny)
    return level.round().clamp(0, 2**bits - 1).to(torch.uint8), scale


def from_levels(levels: Tensor, scale: Tensor) -> Tensor:
    """The states ``(..., C, H, W)`` float32 that :func:`to_levels` made ``levels`` and ``scale`` of, nearly."""
    return _column(scale, 0) + _column(scale, 1) * levels.float()


def _column(scale: Tensor, which: int) -> Tensor:
    return scale[..., which, None, None]


def pack(levels: Tensor, bits: int) -> Tensor:
    """``bits`` of each of ``levels`` ``(n, ...)``, picture by picture without a gap: ``(n, bytes)``."""
    rows = levels.flatten(1).numpy()
    if bits == MOST:
        return torch.from_numpy(rows)
    # one picture at a time, for each bit is a byte in between
    packed = [np.packbits(np.unpackbits(row[:, None], axis=1)[:, MOST - bits :]) for row in rows]
    return torch.from_numpy(np.stack(packed))


def unpack(packed: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """The inverse of :func:`pack`, to levels of ``shape`` ``(n, ...)``."""
    if bits == MOST:
        return packed.view(shape)
    numbers = math.prod(shape[1:])
    rows = [np.unpackbits(row.numpy(), count=numbers * bits).reshape(numbers, bits) for row in packed]
    levels = [np.packbits(np.pad(row, ((0, 0), (MOST - bits, 0))), axis=1)[:, 0] for row in rows]
    return torch.from_numpy(np.stack(levels)).view(shape)
