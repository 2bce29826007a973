# SPDX-License-Identifier: Apache-2.0
"""A round's marks on disk, in two files with the same content, so that damage to one of them loses no mark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import Damaged, HeroError
from ..feedback import Feedback
from .files import read_record, set_aside, write_record


@dataclass(frozen=True)
class Marks:
    """A round's marks at revision ``rev``, which counts every change."""

    rev: int
    feedback: Feedback
    submitted: bool


class MarksFile:
    """``labels.json`` in a round's folder, and its copy. Writing is for whoever holds the store's lock."""

    def __init__(self, folder: Path) -> None:
        self.path, self.copy = folder / "labels.json", folder / "labels.copy.json"

    def write(self, marks: Marks) -> Marks:
        """Write both files; on return the marks are on the disk and may be acknowledged."""
        data = {"rev": marks.rev, **marks.feedback.to_json(), "submitted": marks.submitted}
        for path in (self.path, self.copy):
            write_record(path, data)
        return marks

    def read(self, n: int) -> Marks | None:
        """The marks on the round's ``n`` pictures, None before the first; of the copy where the file is damaged.

        Raises :class:`HeroError` where both are: marks are never dropped in silence.
        """
        if not self.path.exists() and not self.copy.exists():
            return None
        try:
            return _read(self.path, n)
        except Damaged as damage:
            try:
                return _read(self.copy, n)
            except Damaged as second:
                raise HeroError(
                    f"{damage} Its copy is no better: {second} Put one of the two back from a backup; to mark the "
                    "round anew instead, remove both."
                ) from second

    def mend(self, n: int, tell: Callable[[str], None]) -> Marks | None:
        """The marks; the copy takes the place of a damaged file, and ``tell`` hears of it. None where :meth:`read` has
        the last word: before the first mark, or where both files are damaged."""
        if not self.path.exists() and not self.copy.exists():
            return None
        try:
            return _read(self.path, n)
        except Damaged as damage:
            try:
                marks = _read(self.copy, n)
            except Damaged:
                return None
            aside = set_aside(self.path)
            self.write(marks)
            kept = f" It is kept as {aside.name}." if aside else ""
            state = "submitted" if marks.submitted else "not submitted"
            tell(f"{damage}{kept} Its copy has {len(marks.feedback.labels)} marks at revision {marks.rev}, {state}: "
                 "those are used. Look whether they are all that you made.")  # fmt: skip
            return marks


def _read(path: Path, n: int) -> Marks:
    data = read_record(path, "rev", "labels", "submitted")
    try:
        return Marks(data["rev"], Feedback.from_json(data, n), data["submitted"])
    except HeroError as error:
        raise Damaged(f"{path} cannot be read: {error}") from error
