# SPDX-License-Identifier: Apache-2.0
"""One round on disk: its rollout, its pictures, a person's marks."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from ..errors import Damaged, HeroError, NotFound, StaleRevision
from ..feedback import Feedback, problems
from ..rollout import Rollout
from .files import checksum_of_tensors, read_record, remove_tree, set_aside, write_record
from .marks import Marks, MarksFile
from .pictures import Pictures, Size
from .state import read_rollout, slim_rollout, write_rollout

Mode = Literal["wait", "resume", "standalone"]


class Owner(Protocol):
    """What a round asks of the session that it belongs to."""

    name: str
    folder: Path

    @property
    def saved_round(self) -> int:
        """The last saved round."""

    @property
    def history(self) -> list[dict[str, Any]]:
        """One dict of metrics for each saved round."""

    @property
    def description(self) -> dict[str, str]:
        """Checkpoint, prompt and size, for people."""

    def writing(self) -> AbstractContextManager[None]:
        """The right to write."""

    def tell(self, sentence: str) -> None:
        """Say what was found and done."""


class Round:
    """One round on disk; cheap to make, every property reads the disk. Nothing that only reads changes anything."""

    def __init__(self, session: Owner, number: int) -> None:
        self.session, self.number = session, number
        self.folder = session.folder / "rounds" / f"{number:04d}"
        self.pictures, self._marks = Pictures(self.folder / "pictures"), MarksFile(self.folder)

    @property
    def id(self) -> str:
        """``<session>.<number>``, as the HTTP interface names it."""
        return f"{self.session.name}.{self.number:04d}"

    @property
    def saved(self) -> bool:
        """Whether the round is over."""
        return self.number <= self.session.saved_round

    @property
    def status(self) -> Literal["new", "sampled", "rated", "saved"]:
        """How far the round has come; one whose marks cannot be read counts as not rated."""
        if self.saved:
            return "saved"
        if not self._rollout_file.is_file():
            return "new"
        try:
            return "rated" if self.marks().submitted else "sampled"
        except HeroError as error:
            self.session.tell(str(error))
            return "sampled"

    @property
    def n(self) -> int:
        """Pictures in the round; 0 before it is sampled."""
        return int(self._info().get("n", 0))

    @property
    def has_pictures(self) -> bool:
        """Whether the pictures can be shown."""
        return self.pictures.drawn

    @property
    def _rollout_file(self) -> Path:
        return self.folder / "rollout.safetensors"

    def _info(self) -> dict[str, Any]:
        """Number of pictures ``n`` and checksum of their ``latents``; of other files where round.json is damaged."""
        try:
            return read_record(self._info_file, "n")
        except Damaged:
            if not self._info_file.exists() and not self._rollout_file.is_file():
                return {}
        try:
            return _about(read_rollout(self._rollout_file))
        except Damaged:
            return {"n": self.pictures.info()["n"]} if self.has_pictures else {}

    @property
    def _info_file(self) -> Path:
        return self.folder / "round.json"

    def mend(self) -> None:
        """Write again what is damaged and stands elsewhere too; the damaged file is kept under another name."""
        if not self.folder.is_dir():
            return
        with self.session.writing():
            self._mend_info()
            self._marks.mend(self.n, self.session.tell)

    def _mended_marks(self) -> Marks:
        """The marks as they are on disk, about to be replaced: a damaged file is kept under another name first."""
        self._mend_info()
        n = self.n
        return self._marks.mend(n, self.session.tell) or self._marks.read(n) or Marks(0, Feedback(n), False)

    def _mend_info(self) -> None:
        try:
            read_record(self._info_file, "n")
        except Damaged as damage:
            info = self._info()
            if "latents" not in info:
                return
            aside = set_aside(self._info_file)
            self.session.tell(f"{damage} {f'It is kept as {aside.name}, and w' if aside else 'W'}hat it says is taken "
                              f"from the other files of round {self.number}.")  # fmt: skip
            write_record(self._info_file, info)

    # -- rollout ------------------------------------------------------------------------------------------------

    def write_rollout(self, rollout: Rollout) -> None:
        """Write the rollout; pictures of another draw go, marks stay.

        Raises :class:`HeroError` where the round has marks that were made on other latents.
        """
        with self.session.writing():
            info, about = self._info(), _about(rollout)
            if info.get("latents") != about["latents"]:
                if "latents" in info and self.marks().rev > 0:
                    raise HeroError(self._other_pictures())
                remove_tree(self.pictures.folder)
            write_record(self._info_file, about)
            write_rollout(self._rollout_file, rollout)

    def _other_pictures(self) -> str:
        return (
            f"The rollout of round {self.number} of session {self.session.name!r} was damaged or removed, and the "
            "pictures that come now are not those that its marks were made on. Put the sampler's settings and the "
            "device back as they were; to mark the new pictures instead, remove labels.json and labels.copy.json in "
            f"{self.folder}."
        )

    def rollout(self) -> Rollout | None:
        """The rollout, or None before it is sampled; a damaged file is set aside and counts as not sampled.

        Nothing is lost by that: the seeds draw the same pictures again, and the marks are kept elsewhere.
        """
        if not self._rollout_file.is_file():
            return None
        try:
            rollout = read_rollout(self._rollout_file)
        except Damaged as damage:
            self._without_rollout(damage)
            return None
        about = _about(rollout)
        if not self.saved and any(self._info().get(key) != about[key] for key in ("n", "latents")):
            with self.session.writing():  # a kill came between the two files, or an older version wrote them
                write_record(self._info_file, about)
        return rollout

    def _without_rollout(self, damage: Damaged) -> None:
        with self.session.writing():
            aside = set_aside(self._rollout_file)
        then = "nothing needs it any more, as its round is saved" if self.saved else (
            f"round {self.number} is drawn again to the same bits, with its marks"
        )  # fmt: skip
        self.session.tell(f"{damage} It is kept as {aside.name if aside else 'it was'}, and {then}.")

    def slim(self) -> None:
        """Drop the transitions of a saved round; z_T and z_0 stay."""
        if not self._rollout_file.is_file():
            return
        try:
            slim_rollout(self._rollout_file)
        except Damaged as damage:
            self._without_rollout(damage)

    # -- pictures -----------------------------------------------------------------------------------------------

    def write_pictures(self, pictures: Tensor, mode: Mode) -> None:
        """Write pictures ``(n, H, W, 3)`` in 0..1 with thumbnails, once; ``mode`` may change on a later call.

        Where one of them is damaged or missing on the disk, all are drawn again.
        """
        if len(pictures) != self.n:
            raise HeroError(
                f"Round {self.number} has {self.n} pictures and {len(pictures)} images arrived: "
                "wire the sampler's own latents through one VAE Decode into the grid."
            )
        with self.session.writing():
            self._if_readable("mode.json", "mode")  # one of a newer version is refused
            if self._must_draw():
                self.pictures.draw(pictures)
            write_record(self.folder / "mode.json", {"mode": mode})

    def _must_draw(self) -> bool:
        folder = self.pictures.folder
        if not folder.exists():
            return True
        broken = self.pictures.broken()
        if broken:
            aside, more = set_aside(folder), f" and {len(broken) - 1} more" if len(broken) > 1 else ""
            self.session.tell(
                f"{broken[0]}{more} is damaged or missing: the pictures of round {self.number} are drawn again, and "
                f"the old ones are kept in {aside.name if aside else folder.name}."
            )
        return bool(broken)

    def picture(self, number: int | Literal["best"], size: Size = "full") -> Path:
        """The file of one picture; ``"best"`` is the best of an earlier round, the one that may be kept.

        Raises :class:`NotFound` where it is not there or is damaged.
        """
        if number == "best":
            best = self._old_best()
            if best is None:
                raise NotFound(f"Round {self.number} has no old best: nothing was chosen before it.")
            return Round(self.session, best["round"]).picture(best["picture"], size)
        try:
            path = self.pictures.file(number, size) if 0 <= number < max(self.n, 1) else None
        except Damaged as damage:
            remedy = "Its round is saved; nothing is learned from it any more." if self.saved else (
                "Queue again, and the round's pictures are drawn again."
            )  # fmt: skip
            raise NotFound(f"{damage} {remedy}") from damage
        if path is None:
            raise NotFound(f"Round {self.number} of session {self.session.name!r} has no picture {number}.")
        return path

    def _old_best(self) -> dict[str, int] | None:
        """Where the best before this round lies; None before the first."""
        for entry in reversed(self.session.history[: self.number - 1]):
            if entry.get("best"):
                return entry["best"]
        return None

    # -- marks --------------------------------------------------------------------------------------------------

    @property
    def has_old_best(self) -> bool:
        """Whether ``best = "keep"`` has something to keep."""
        return self._old_best() is not None

    def marks(self) -> Marks:
        """The marks as they are on disk; none, at revision 0, before the first.

        Where labels.json is damaged its copy is read; where both are, a :class:`HeroError` names them.
        """
        n = self.n
        return self._marks.read(n) or Marks(0, Feedback(n), False)

    def put_marks(self, rev: int, feedback: Feedback) -> Marks:
        """Replace all marks, if ``rev`` is still the current revision; returns the new ones.

        Raises :class:`StaleRevision` when somebody was faster, :class:`HeroError` when the round is submitted.
        """
        with self.session.writing():
            current = self._mended_marks()
            if current.submitted:
                raise HeroError(f"Round {self.number} is submitted: its marks can no longer change.")
            if rev != current.rev:
                raise StaleRevision(
                    f"These marks were made on revision {rev} and round {self.number} is at {current.rev}: "
                    "load it again, then mark.", current
                )  # fmt: skip
            return self._marks.write(Marks(rev + 1, feedback, False))

    def submit(self, rev: int | None = None) -> Marks:
        """Close the round's marks, once; raises :class:`HeroError` saying what is missing."""
        with self.session.writing():
            current = self._mended_marks()
            if current.submitted:
                return current
            if rev is not None and rev != current.rev:
                raise StaleRevision(
                    f"Revision {rev} was submitted and round {self.number} is at {current.rev}: look again.", current
                )  # fmt: skip
            lacking = problems(current.feedback, self.has_old_best)
            if lacking:
                raise HeroError(" ".join(lacking))
            return self._marks.write(replace(current, rev=current.rev + 1, submitted=True))

    def to_json(self) -> dict[str, Any]:
        """What the HTTP interface tells of a round."""
        marks, info = self.marks(), self._if_readable("pictures/info.json", "width", "height")
        return {
            "id": self.id,
            "session": self.session.name,
            "round": self.number,
            "status": self.status,
            "mode": self._if_readable("mode.json", "mode").get("mode", "standalone"),
            "n": self.n,
            "width": info.get("width"),
            "height": info.get("height"),
            "rev": marks.rev,
            **marks.feedback.to_json(),
            "submitted": marks.submitted,
            "has_old_best": self.has_old_best,
            "problems": [] if marks.submitted else problems(marks.feedback, self.has_old_best),
            "prompt": self.session.description.get("prompt", ""),
        }

    def _if_readable(self, name: str, *keys: str) -> dict[str, Any]:
        """A file that the next queue writes again where it is damaged; empty where it cannot be read."""
        path = self.folder / name
        if not path.exists():
            return {}
        try:
            return read_record(path, *keys)
        except Damaged as damage:
            self.session.tell(f"{damage} It is written again when the round is queued again.")
            return {}


def _about(rollout: Rollout) -> dict[str, Any]:
    latents = checksum_of_tensors({"z_0": rollout.z_0})
    return {"n": rollout.n, "latents": latents, "created": time.time()}
