"""The store on disk: sessions, their rounds, a person's marks, and the state between two rounds.

::

    <root>/.lock                          held by the one process that writes
    <root>/<session>/session.json         format, settings, pointer to the last saved round, history
    <root>/<session>/rounds/0007/         round.json, rollout.safetensors, pictures/, mode.json, metrics.json,
                                          labels.json and labels.copy.json, which hold the same
    <root>/<session>/state/0007/          LoRA, embedding and mixture with their optimisers, the best picture, and
                                          session.json as it was when the round was saved
    <lora_dir>/<session>_r0007.safetensors

Moving ``saved_round`` in session.json is the only transaction. The states of the last two rounds are kept: where the
last is damaged the pointer moves back, and the round is learned again from its rollout and marks to the same bits. What
is damaged gets a name ending in ``.damaged``; the log and the history say what was done.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import repair
from .errors import Damaged, HeroError, NotFound
from .files import FORMAT, remove_parts, remove_tree, replacing, set_aside, write_record
from .lock import Hold, hold
from .marks import Marks
from .pictures import Size
from .policy import LoRAConfig
from .repair import numbered
from .round import Mode, Round
from .state import State, read_state, write_state

__all__ = ["Marks", "Mode", "Round", "Session", "SessionSettings", "Size", "Store", "check_name"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SessionSettings:
    """What is fixed for a session's whole life."""

    seed: int = 0
    lora: LoRAConfig = field(default_factory=LoRAConfig)


class Store:
    """All sessions below ``root``; LoRA files go to ``lora_dir``. Safe to share between threads."""

    def __init__(self, root: Path, lora_dir: Path) -> None:
        self.root, self.lora_dir = Path(root), Path(lora_dir)
        self.lock = threading.RLock()
        self._sessions: dict[str, Session] = {}
        self._turns: Counter[str] = Counter()
        self._told: set[str] = set()
        self._hold: Hold | None = None

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """The right to write, for one thread of one process; :class:`HeroError` where another process has it.

        From the first time on the process keeps others out for as long as this store is there.
        """
        with self.lock:
            if self._hold is None or not self._hold.stands:
                self._hold = hold(self.root)
            yield

    def tell(self, sentence: str) -> bool:
        """Warn a person of what was found and done, once; False where it was said before."""
        with self.lock:
            if sentence in self._told:
                return False
            self._told.add(sentence)
            log.warning("%s", sentence)
            return True

    def session(self, name: str) -> Session:
        """The session called ``name``; :class:`NotFound` where there is none."""
        check_name(name)
        with self.lock:
            known = self._sessions.get(name)
            if known is not None and not known.exists():
                del self._sessions[name]
                self.turn(name)
            if not _begun(self.root / name):
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

    def turn(self, name: str) -> None:
        """Let the next queue read all of session ``name`` from the disk again."""
        self._turns[name] += 1

    def open(self, name: str, settings: SessionSettings) -> Session:
        """The session called ``name``, made now if need be; changed settings are refused.

        Whatever of it is damaged is found here, and mended where that can be.
        """
        with self.writing():
            try:
                session = self.session(name)
            except NotFound:
                return Session.begin(self, name, settings)
            session.mend()
        if session.settings != settings:
            raise HeroError(
                f"Session {name!r} was begun with {_describe(session.settings)}; this asks for {_describe(settings)}. "
                "Set these back, or choose another session name to begin anew."
            )
        return session

    def sessions(self) -> list[Session]:
        """Every session that can be read, by name; a damaged one is logged and left out."""
        found = []
        for path in sorted(self.root.glob("*/")):
            if re.fullmatch(NAME, path.name) and _begun(path):
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


NAME = r"[A-Za-z0-9_-]{1,64}"
DEVICES = r"(?i)con|prn|aux|nul|com[0-9]|lpt[0-9]"
"""Names that Windows keeps for devices: no folder can be called like that there, and folders are shared."""


def _begun(folder: Path) -> bool:
    """Whether a session lies in ``folder``, be it damaged."""
    return any((folder / part).exists() for part in ("session.json", "state", "rounds"))


def check_name(name: str) -> None:
    """Refuse a session name that is not ``[A-Za-z0-9_-]{1,64}``: it becomes a folder and a file name."""
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise HeroError(f"{str(name)[:80]!r} is no session name: use 1 to 64 letters, digits, '_' or '-'.")
    if re.fullmatch(DEVICES, name):
        raise HeroError(f"{name!r} is no session name: Windows keeps it for a device. Choose another one.")


class Session:
    """One session: one prompt, one checkpoint, one LoRA, as many rounds as it takes. Made by :class:`Store`."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name, self.folder = store, name, store.root / name
        self._state: tuple[int, State] | None = None
        self._repairs: list[str] = []
        self._mended = False
        self._data = self._read()

    @classmethod
    def begin(cls, store: Store, name: str, settings: SessionSettings) -> Session:
        """Make a session where there is none."""
        data = _new_session(settings)
        write_record(store.root / name / "session.json", data)
        write_record(store.root / name / "state" / "0000" / "session.json", data)
        return store.session(name)

    def exists(self) -> bool:
        """False once somebody has removed the folder."""
        return _begun(self.folder)

    def tell(self, sentence: str) -> None:
        """Say in the log, and in the history of the round that is saved next, what was found and done."""
        if self.store.tell(sentence):
            self._repairs.append(sentence)
            self.store.turn(self.name)

    @property
    def settings(self) -> SessionSettings:
        """Seed and LoRA settings."""
        return SessionSettings(self._data["seed"], LoRAConfig(**self._data["lora"]))

    @property
    def saved_round(self) -> int:
        """The last saved round; 0 before the first."""
        return self._data["saved_round"]

    @property
    def open_round(self) -> int:
        """The round that is being drawn, rated or learned from."""
        return self.saved_round + 1

    @property
    def history(self) -> list[dict[str, Any]]:
        """One dict of metrics for each saved round."""
        return list(self._data["history"])

    @property
    def fingerprint(self) -> str | None:
        """Of the policy that the session was begun with; None before the first round is drawn."""
        return self._data["fingerprint"]

    @property
    def description(self) -> dict[str, str]:
        """Checkpoint, prompt and size of the session, for people."""
        return dict(self._data["description"])

    def round(self, number: int) -> Round:
        """Round ``number``, which may not exist on disk yet."""
        return Round(self, number)

    def rounds(self) -> list[Round]:
        """The rounds on disk in order."""
        return [self.round(number) for number, _ in numbered(self.folder / "rounds")]

    def tie(self, fingerprint: str, description: dict[str, str]) -> None:
        """Tie the session to a policy at its first round; refuse another one later."""
        with self.store.writing():
            if self.fingerprint is None:
                self._write({**self._data, "fingerprint": fingerprint, "description": description})
                write_record(self._state_folder(self.saved_round) / "session.json", self._data)
            elif self.fingerprint != fingerprint:
                raise HeroError(self._mismatch(description))

    def _mismatch(self, description: dict[str, str]) -> str:
        changes = [
            f"{key} was {self.description[key]!r} and is now {description[key]!r}"
            for key in sorted(self.description.keys() & description.keys())  # what is not known is not compared
            if self.description[key] != description[key]
        ]
        what = "; ".join(changes) or "the checkpoint or its conditioning is another one under the same name"
        return (
            f"Session {self.name!r} belongs to another set-up: {what}. A session learns one prompt on one checkpoint "
            "at one size: put it back, or give HERO Session another name to begin anew."
        )

    def state(self) -> State:
        """The state after the last saved round.

        Where it is damaged the session goes back to the round before, and the lost round is open again.
        """
        with self.store.lock:
            if self._state is None or self._state[0] != self.saved_round:
                try:
                    state = read_state(self._state_folder(self.saved_round))
                except Damaged as damage:
                    state = self._step_back(damage)
                self._state = (self.saved_round, state)
            return self._state[1]

    def _step_back(self, damage: Damaged) -> State:
        """The state of the round before the last saved one, which becomes the last saved one."""
        number = self.saved_round
        try:
            state = read_state(self._state_folder(number - 1))
        except Damaged as second:
            raise HeroError(
                f"{damage} The round before cannot be used either: {second} Put one of the two back from a backup, or "
                f"choose another session name to begin anew; the LoRA files in {self.store.lora_dir} are not touched."
            ) from second
        with self.store.writing():
            aside = set_aside(self._state_folder(number))
            self._write(repair.before(self._data, number))
        kept = f" It is kept in {aside}." if aside else ""
        self.tell(f"{damage}{kept} Session {self.name!r} goes back to round {number - 1}, the last one that is whole; "
                  f"queue again, and round {number} is learned again from its pictures and marks.")  # fmt: skip
        return state

    def _state_folder(self, number: int) -> Path:
        return self.folder / "state" / f"{number:04d}"

    def save(self, state: State, metrics: dict[str, Any], write_lora: Callable[[Path], None] | None) -> Path | None:
        """Save the open round: state and LoRA beside the old ones, then move the pointer.

        ``write_lora(path)`` writes the LoRA file; returns where it lies, or None without one.
        """
        with self.store.writing():
            number = self.open_round
            write_state(self._state_folder(number), state)
            path = self._export(number, write_lora) if write_lora else None
            entry = {"round": number, **metrics, "lora": path.name if path else None}
            if self._repairs:
                entry["repaired"] = list(self._repairs)
            write_record(self.round(number).folder / "metrics.json", entry)
            data = {**self._data, "saved_round": number, "history": [*self.history, entry]}
            write_record(self._state_folder(number) / "session.json", data)
            self._write(data)
            self._state = (number, state)
            self._repairs.clear()
            self._prune()
            return path

    def _export(self, number: int, write_lora: Callable[[Path], None]) -> Path:
        path = self.store.lora_dir / f"{self.name}_r{number:04d}.safetensors"
        with replacing(path) as temporary:
            write_lora(temporary)
        return path

    def _prune(self) -> None:
        """Keep the state of two rounds, and of older rounds only what may be looked at or replayed.

        Nothing here is a reason to fail: the round is saved, and the next time does this again.
        """
        try:
            for number, folder in numbered(self.folder / "state"):
                if number < self.saved_round - 1:
                    remove_tree(folder)
            self.round(self.saved_round - 1).slim()
        except (OSError, HeroError) as error:
            self.tell(str(error))

    def mend(self) -> None:
        """Look after everything that a kill or a failing disk may have left, once in the life of this object."""
        with self.store.writing():
            if self._mended:
                return
            self.state()
            for folder in (self.folder, *self.folder.glob("state/*/"), self.folder / "state", self.folder / "rounds"):
                remove_parts(folder)
            for number in (self.saved_round, self.open_round):
                remove_parts(self.round(number).folder)
            for part in self.store.lora_dir.glob(f".{self.name}_r*.part"):
                remove_tree(part)
            for path, entry in repair.metrics_again(self.folder / "rounds", self._data["history"]):
                write_record(path, entry)
                self.tell(f"{path} was damaged or missing and is written again from the session's history.")
            self._prune()
            self._mended = True

    def _read(self) -> dict[str, Any]:
        """session.json, or where it is damaged the copy that lies beside the newest state."""
        path = self.folder / "session.json"
        try:
            return repair.read_session(path)
        except Damaged as damage:
            data = repair.newest_copy(self.folder, damage)
            with self.store.writing():
                for number, folder in numbered(self.folder / "state"):
                    if number > data["saved_round"]:
                        set_aside(folder)
                aside = set_aside(path)
                write_record(path, data)
            kept = f" It is kept as {aside.name}." if aside else ""
            self.tell(f"{damage}{kept} Session {self.name!r} goes on after round {data['saved_round']}, from the copy "
                      "beside that round's state.")  # fmt: skip
            return data

    def _write(self, data: dict[str, Any]) -> None:
        write_record(self.folder / "session.json", data)
        self._data = data


# -- session.json ---------------------------------------------------------------------------------------------------


def _new_session(settings: SessionSettings) -> dict[str, Any]:
    return {
        "format": FORMAT, "created": time.time(), "seed": settings.seed, "lora": asdict(settings.lora),
        "saved_round": 0, "fingerprint": None, "description": {}, "history": [],
    }  # fmt: skip


def _describe(settings: SessionSettings) -> str:
    return f"seed {settings.seed}, LoRA rank {settings.lora.rank} and alpha {settings.lora.alpha:g}"
