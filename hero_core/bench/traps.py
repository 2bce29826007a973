# SPDX-License-Identifier: Apache-2.0
"""Two slips that an implementation of HERO can make and hardly notice, to measure what they cost. In the bench only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import embedding
from ..feedback import Feedback

Trap = Literal["batch_cosine", "wrong_best"]


def wrong_best(feedback: Feedback, round: int) -> Feedback:
    """From the second round on, the best's place among the goods is taken for the number of a picture."""
    if round < 2 or not isinstance(feedback.best, int):
        return feedback
    taken = feedback.good.index(feedback.best)
    return Feedback(feedback.n, {**feedback.labels, taken: "good"}, taken)


@contextmanager
def batch_cosine() -> Iterator[None]:
    """The triplet loss with its cosine over the triplets of the batch, for each feature, and not over the features."""
    right = embedding.triplet_loss
    embedding.triplet_loss = _over_the_batch
    try:
        yield
    finally:
        embedding.triplet_loss = right


def _over_the_batch(anchor: Tensor, positives: Tensor, negatives: Tensor, margin: float) -> Tensor:
    near, far = (
        (1 - F.cosine_similarity(anchor.expand_as(others), others, dim=0)) / 2 for others in (positives, negatives)
    )
    return torch.relu(near - far + margin).mean()
