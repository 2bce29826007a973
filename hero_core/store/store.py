# SPDX-License-Identifier: Apache-2.0
"""All sessions below one folder: begin, find and list them and their rounds."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import HeroError, NotFound
from .round import Round
from .session import Session, SessionSettings, begin, begun
from .shared import Shared

NAME = r"[A-Za-z0-9_-]{1,64}"
DEVICES = r"(?i)con|prn|aux|nul|com[0-9]|lpt[0-9]"
"""Names that Windows keeps for devices: no folder can be called like that there, and folders are shared."""


class Store(Shared):
    """All sessions below ``root``; LoRA files go to ``lora_dir``. Safe to share between threads."""

    def __init__(self, root: Path, lora_dir: Path) -> None:
        super().__init__(root, lora_dir)
        self._sessions: dict[str, Session] = {}

    def session(self, name: str) -> Session:
        """The session called ``name``; :class:`NotFound` where there is none."""
        check_name(name)
        with self.lock:
            known = self._sessions.get(name)
            if known is not None and not known.exists():
                del self._sessions[name]
                self.turn(name)
            if not begun(self.root / name):
                raise NotFound(f"There is no session {name!r} in {self.root}.")
            if name not in self._sessions:
                self._sessions[name] = Session(self, name)
            return self._sessions[name]

    def revision(self, name: str) -> str:
        """A key that changes when a round of session ``name`` is saved, something of it was damaged, or its folder is
        removed, and never otherwise.

        A session that is yet to begin has the key that it will have before its first saved round.
        """
        with self.lock:
            try:
                saved = self.session(name).saved_round
            except NotFound:
                saved = 0
            return f"{name}:{self._turns[name]}:{saved}"

    def revisions(self) -> str:
        """A key that changes when the :meth:`revision` of any session does; sessions without a saved round count for
        nothing, so that it stays as it is where one is begun."""
        with self.lock:
            names = sorted({*self._turns, *(session.name for session in self.sessions() if session.saved_round)})
            return ",".join(self._revision_or_refused(name) for name in names)

    def _revision_or_refused(self, name: str) -> str:
        try:
            return self.revision(name)
        except HeroError:
            return f"{name}:refused"

    def open(self, name: str, settings: SessionSettings) -> Session:
        """The session called ``name``, made now if need be; changed settings are refused.

        Whatever of it is damaged is found here, and mended where that can be.
        """
        with self.writing():
            try:
                session = self.session(name)
            except NotFound:
                begin(self.root / name, settings)
                return self.session(name)
            session.mend()
        session.refuse_other_settings(settings)
        return session

    def sessions(self) -> list[Session]:
        """Every session that can be read, by name; a damaged one is logged and left out."""
        found = []
        for path in sorted(self.root.glob("*/")):
            if re.fullmatch(NAME, path.name) and begun(path):
                try:
                    found.append(self.session(path.name))
                except HeroError as error:
                    self.tell(str(error))
        return found

    def round(self, round_id: str) -> Round:
        """The round called ``<session>.<number>``; :class:`NotFound` where there is none."""
        name, _, number = round_id.rpartition(".")
        if not re.fullmatch(r"[0-9]{4,8}", number) or not re.fullmatch(NAME, name):
            raise NotFound(f"There is no round {round_id[:80]!r}; a round is called like 'default.0001'.")
        round = self.session(name).round(int(number))
        if not round.folder.is_dir() or round.id != round_id:
            raise NotFound(f"Session {name!r} has no round {int(number)}.")
        return round

    def rounds(self, status: str | None = None) -> list[Round]:
        """All rounds, or those that are ``pending`` (waiting for marks), ``sampled``, ``rated`` or ``saved``."""
        known = ("pending", "sampled", "rated", "saved")
        if status not in (None, *known):
            raise HeroError(f"status is {status[:40]!r}; it is one of {', '.join(known)}.")
        every = [round for session in self.sessions() for round in session.rounds()]
        if status == "pending":
            found = [round for round in every if round.status == "sampled" and round.has_pictures]
        else:
            found = [round for round in every if status in (None, round.status)]
        return [round for round in found if self._readable(round)]

    def _readable(self, round: Round) -> bool:
        """Whether a round can be shown; why not, the log says."""
        try:
            round.marks()
        except HeroError as error:
            self.tell(str(error))
            return False
        return True


def check_name(name: str) -> None:
    """Refuse a session name that is not ``[A-Za-z0-9_-]{1,64}``: it becomes a folder and a file name."""
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise HeroError(f"{str(name)[:80]!r} is no session name: use 1 to 64 letters, digits, '_' or '-'.")
    if re.fullmatch(DEVICES, name):
        raise HeroError(f"{name!r} is no session name: Windows keeps it for a device. Choose another one.")
