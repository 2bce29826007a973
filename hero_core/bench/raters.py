"""Simulated raters: judges in code that mark a round as a person with a clear wish would."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from ..feedback import KEEP, Feedback
from ..tiny.judges import Judgement

Judge = Callable[[Tensor], Judgement]


def perfect(judge: Judge, pictures: Tensor, has_old_best: bool = False) -> Feedback:
    """Marks every picture ``(n, 3, H, W)`` in 0..1 as the judge sees it; the best is the good one of highest quality.

    Without a good picture there is no best, unless an old one can be kept.
    """
    judgement = judge(pictures)
    labels = {i: "good" if good else "bad" for i, good in enumerate(judgement.good.tolist())}
    best: int | str | None = KEEP if has_old_best else None
    if judgement.good.any():
        best = int(np.where(judgement.good, judgement.quality, -np.inf).argmax())
    return Feedback(len(pictures), labels, best)  # type: ignore[arg-type]


def success(judge: Judge, pictures: Tensor) -> float:
    """The share of good pictures."""
    return float(judge(pictures).good.mean())
