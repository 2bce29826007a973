# SPDX-License-Identifier: Apache-2.0
"""What a rater says of one round: good / bad marks, one best, and the rules that make them ready to submit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import HeroError

Label = Literal["good", "bad"]
KEEP: Literal["keep"] = "keep"
"""``best = KEEP`` leaves the best of an earlier round in place."""


@dataclass(frozen=True)
class Feedback:
    """Marks on the ``n`` pictures of a round; a picture that is not in ``labels`` is unrated.

    The best is always good: it is added to the goods, and a best that is marked bad is refused.
    """

    n: int
    labels: dict[int, Label] = field(default_factory=dict)
    best: int | Literal["keep"] | None = None

    def __post_init__(self) -> None:
        for picture, label in self.labels.items():
            self._check_picture(picture)
            if label not in ("good", "bad"):
                raise HeroError(f"The mark of picture {picture} is {label!r}; a mark is 'good' or 'bad'.")
        if isinstance(self.best, int):
            self._check_picture(self.best)
            if self.labels.get(self.best) == "bad":
                raise HeroError(f"Picture {self.best} is marked bad and best; choose one of them.")
            object.__setattr__(self, "labels", {**self.labels, self.best: "good"})
        elif self.best not in (None, KEEP):
            raise HeroError(f"best is {self.best!r}; it is the number of a picture, 'keep' or null.")

    def _check_picture(self, picture: object) -> None:
        if not isinstance(picture, int) or isinstance(picture, bool) or not 0 <= picture < self.n:
            raise HeroError(f"There is no picture {picture!r}: this round has pictures 0 to {self.n - 1}.")

    @property
    def good(self) -> list[int]:
        """The good pictures in order, the best of this round among them."""
        return sorted(p for p, label in self.labels.items() if label == "good")

    @property
    def bad(self) -> list[int]:
        """The bad pictures in order."""
        return sorted(p for p, label in self.labels.items() if label == "bad")

    @classmethod
    def join(cls, parts: list[Feedback]) -> Feedback:
        """The marks of several rounds in one, pictures numbered on; the best is that of the last."""
        labels: dict[int, Label] = {}
        start = 0
        for part in parts:
            labels |= {start + picture: label for picture, label in part.labels.items()}
            start += part.n
        best = parts[-1].best
        return cls(start, labels, start - parts[-1].n + best if isinstance(best, int) else best)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], n: int) -> Feedback:
        """Read ``{"labels": {"0": "good"}, "best": 0}``; a :class:`HeroError` says what does not fit."""
        labels = data.get("labels", {})
        if not isinstance(labels, Mapping):
            raise HeroError(f'labels is {type(labels).__name__}; it is an object such as {{"0": "good", "5": "bad"}}.')
        best = data.get("best")
        if isinstance(best, bool):
            raise HeroError(f"best is {best!r}; it is the number of a picture, 'keep' or null.")
        return cls(n, {_picture_number(key): label for key, label in labels.items()}, best)

    def to_json(self) -> dict[str, Any]:
        """The marks as JSON, the inverse of :meth:`from_json`."""
        return {"labels": {str(p): self.labels[p] for p in sorted(self.labels)}, "best": self.best}


def problems(feedback: Feedback, has_old_best: bool) -> list[str]:
    """Why these marks cannot be submitted yet, one sentence each; empty when they can.

    No good picture at all is allowed: such a round changes nothing, and the next one draws again.
    """
    found = []
    if not feedback.labels:
        found.append("Nothing is rated yet: mark at least one picture good or bad.")
    if feedback.good and feedback.best is None:
        keep = ", or keep the old best" if has_old_best else ""
        found.append(f"Pick the best of the good pictures{keep}.")
    if feedback.best == KEEP and not has_old_best:
        found.append("There is no old best to keep in the first round: pick the best of the good pictures.")
    return found


def _picture_number(key: object) -> int:
    text = str(key)
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise HeroError(f"{text[:40]!r} is no picture number; the keys of labels are '0', '1', and so on.")
    return int(text)
