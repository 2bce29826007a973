# SPDX-License-Identifier: Apache-2.0
"""Errors that a person can cause and mend. Each message says what is wrong, quotes the value and names the remedy."""

from __future__ import annotations

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
