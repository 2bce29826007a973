# SPDX-License-Identifier: Apache-2.0
"""How many pictures go through a model at a time, and what is kept for the backward pass, by what memory there is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

MARGIN, SPARE = 1.15, 256 << 20
"""What is not counted: an allocator's gaps, as a share, and the kernels' own room, in bytes. Not measured on a GPU."""

LEAST_SHARE = 0.5
"""This share of the memory may always be computed in: a host keeps weights that find no room in main memory."""

GB = 1 << 30


@dataclass(frozen=True)
class Peak:
    """Bytes beside the model's weights: some whatever the rows, and some for each row of a call."""

    fixed: float
    row: float

    def of(self, rows: int) -> float:
        """With so many rows, and what is not counted."""
        return (self.fixed + rows * self.row) * MARGIN + SPARE


@dataclass(frozen=True)
class Room:
    """Bytes that are free, or would be with no other model loaded, and those of the model's weights."""

    free: int
    weights: int

    @property
    def beside(self) -> float:
        """What there is to compute in."""
        return max(self.free - self.weights, LEAST_SHARE * self.free)


@dataclass(frozen=True)
class Choice:
    """``rows`` of a call, of ``most`` that were asked for; ``recompute``: whether blocks are computed again for the
    backward pass. ``need``: bytes beside the weights; None where nothing is known and nothing was chosen."""

    rows: int
    most: int
    recompute: bool
    need: float | None = None
    room: Room | None = None

    @property
    def fits(self) -> bool:
        """Whether the memory is enough, as far as it is known."""
        return self.need is None or self.room is None or self.need <= self.room.beside


Reckon = Callable[[bool, float], "Peak | None"]
"""``reckon(recompute, enough)``: the peak with blocks computed again or not; None where a row takes more than
``enough``."""


def choose(most: int, room: Room, reckon: Reckon, *, exactly: bool = False, learns: bool = True) -> Choice:
    """The most rows that fit, at most ``most`` and at least 1 (``exactly``: ``most`` whatever fits), and of these the
    faster way: with nothing computed again, where that fits too."""
    peak = reckon(learns, math.inf)
    if peak is None:
        return Choice(most, most, learns, None, room)
    rows = most
    while rows > 1 and not exactly and peak.of(rows) > room.beside:
        rows -= 1
    if learns:
        kept = reckon(False, room.beside / rows)
        if kept is not None and kept.of(rows) <= room.beside:
            return Choice(rows, most, False, kept.of(rows), room)
    return Choice(rows, most, learns, peak.of(rows), room)


def sentence(choice: Choice, side: int | None = None) -> str | None:
    """What a person is told of a choice; None where nothing was chosen. ``side``: of the pictures, in pixels."""
    need, room = choice.need, choice.room
    if need is None or room is None:
        return None
    if not choice.fits:
        return _does_not_fit(choice, need, room, side)
    total = min(room.weights + need, room.free)
    told = f"{choice.rows} pictures at a time" if choice.rows > 1 else "1 picture at a time"
    told += f", since {choice.most} would not fit" if choice.rows < choice.most else ""
    told += f": about {total / GB:.1f} of {room.free / GB:.1f} GB, by an estimate."
    outside = room.weights + need - room.free
    if outside > 0:
        told += f" About {outside / GB:.1f} GB of the checkpoint wait in main memory, which is slower."
    return told


def _does_not_fit(choice: Choice, need: float, room: Room, side: int | None) -> str:
    many = f"{choice.rows} pictures at a time take" if choice.rows > 1 else "One picture takes"
    told = (
        f"{many} about {need / GB:.1f} GB beside the checkpoint, by an estimate, and there are about "
        f"{room.beside / GB:.1f} GB for it: it may run out of memory or be very slow."
    )
    if choice.rows > 1:
        return f"{told} Set micro_batch to 0, or lower it."
    fitting = int(side * (room.beside / need) ** 0.5) // 64 * 64 if side else 0
    return f"{told} A session with pictures of about {fitting} x {fitting} would fit." if fitting >= 256 else told
