"""Errors that a person can cause and mend. Each message says what is wrong, quotes the value and names the remedy."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any


class HeroError(ValueError):
    """Something a person can mend; the message is meant for them."""


class NotFound(HeroError):
    """A session, round or picture that the store does not hold."""


class Damaged(HeroError):
    """A file of ours that is gone, or whose content is not what was written. Its name is in the message."""


class DiskRefused(OSError):
    """The disk did not take a file: full, read-only, without rights. An older file in its place is as it was."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(error.errno, error.strerror or type(error).__name__, str(path))

    def __str__(self) -> str:
        return (
            f"{self.filename} could not be written ({self.strerror}): free space on the disk or mend its rights, then "
            "try again. What was kept before is still there."
        )


class StaleRevision(HeroError):
    """Marks that were made against an older revision; ``current`` holds the marks as they are now."""

    def __init__(self, message: str, current: Any) -> None:
        super().__init__(message)
        self.current = current


def above_zero(settings: object, *names: str) -> None:
    """Raise :class:`HeroError` where one of these settings is not above 0 and finite."""
    _refuse(settings, names, lambda value: value > 0, "above 0")


def zero_or_more(settings: object, *names: str) -> None:
    """Raise :class:`HeroError` where one of these settings is below 0 or not finite."""
    _refuse(settings, names, lambda value: value >= 0, "0 or more")


def one_or_more(settings: object, *names: str) -> None:
    """Raise :class:`HeroError` where one of these settings is below 1 or not finite."""
    _refuse(settings, names, lambda value: value >= 1, "1 or more")


def _refuse(settings: object, names: tuple[str, ...], fits: Callable[[float], bool], range: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not (math.isfinite(value) and fits(value)):
            raise HeroError(f"{name} is {value}; it is {range}.")
