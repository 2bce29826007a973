# SPDX-License-Identifier: Apache-2.0
"""Simulated raters: judges in code that mark a round as a person with a clear wish would, and as people really do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from ..errors import HeroError
from ..feedback import KEEP, Feedback
from ..tiny.judges import Judgement

Judge = Callable[[Tensor], Judgement]
"""Judges pictures ``(n, 3, H, W)`` in 0..1."""


@dataclass(frozen=True)
class RaterSettings:
    """A rater with faults. ``flipped``: share of marks turned round; ``marked``: share of pictures marked at all.

    ``second`` adds a second rater, who gets every other picture and calls good only the clearer half of the goods.
    ``best``: which of the pictures marked good is picked: the clearest (``clearest``), any, or the least clear.
    """

    flipped: float = 0.0
    marked: float = 1.0
    second: bool = False
    best: Literal["clearest", "any", "least"] = "clearest"

    def __post_init__(self) -> None:
        for name in ("flipped", "marked"):
            if not 0 <= getattr(self, name) <= 1:
                raise HeroError(f"{name} is {getattr(self, name)}; it is a share from 0 to 1.")


RATERS: dict[str, RaterSettings] = {
    "perfect": RaterSettings(),
    "noisy_5": RaterSettings(flipped=0.05),
    "noisy_10": RaterSettings(flipped=0.10),
    "noisy_20": RaterSettings(flipped=0.20),
    "two": RaterSettings(second=True),
    "third": RaterSettings(marked=1 / 3),
    "any_best": RaterSettings(best="any"),
    "worst_best": RaterSettings(best="least"),
}
"""Raters by name. A flipped mark may make a wrong picture the best, as a slip of the hand does."""


def rate(
    judge: Judge, pictures: Tensor, settings: RaterSettings, rng: np.random.Generator, has_old_best: bool = False
) -> Feedback:
    """Marks of pictures ``(n, 3, H, W)`` in 0..1; without a good picture there is no best, unless one can be kept."""
    judgement = judge(pictures)
    n, good = len(pictures), judgement.good.copy()
    if settings.second and good.any():
        clear = judgement.quality >= np.median(judgement.quality[judgement.good])
        good[1::2] &= clear[1::2]
    good ^= rng.random(n) < settings.flipped
    order = rng.permutation(n)
    marked = np.sort(order[: max(1, round(settings.marked * n))])
    labels = {int(i): "good" if good[i] else "bad" for i in marked}
    goods = [i for i in order if labels.get(int(i)) == "good"]
    best: int | str | None = KEEP if has_old_best else None
    if goods:
        rank = {"clearest": judgement.quality, "least": -judgement.quality, "any": np.zeros(n)}[settings.best]
        best = int(max(goods, key=lambda i: rank[i]))
    return Feedback(n, labels, best)  # type: ignore[arg-type]


def perfect(judge: Judge, pictures: Tensor, has_old_best: bool = False) -> Feedback:
    """Every picture marked as the judge sees it; the best is the clearest of the goods."""
    return rate(judge, pictures, RaterSettings(), np.random.default_rng(0), has_old_best)


def success(judge: Judge, pictures: Tensor) -> float:
    """The share of good pictures."""
    return float(judge(pictures).good.mean())
