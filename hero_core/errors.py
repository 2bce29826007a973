"""Errors that a person can cause and mend. Each message says what is wrong, quotes the value and names the remedy."""

from __future__ import annotations

from typing import Any


class HeroError(ValueError):
    """Something a person can mend; the message is meant for them."""


class NotFound(HeroError):
    """A session, round or picture that the store does not hold."""


class StaleRevision(HeroError):
    """Marks that were made against an older revision; ``current`` holds the marks as they are now."""

    def __init__(self, message: str, current: Any) -> None:
        super().__init__(message)
        self.current = current
