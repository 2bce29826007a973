"""The store on disk: sessions, their rounds, a person's marks, and the state between two rounds.

::

    <root>/<session>/session.json         format, settings, pointer to the last saved round, history
    <root>/<session>/rounds/0007/         rollout.safetensors, pictures/, labels.json, metrics.json
    <root>/<session>/state/0007/          LoRA, embedding and mixture with their optimisers, the best picture
    <lora_dir>/<session>_r0007.safetensors

Moving ``saved_round`` in session.json is the only transaction.
"""

from __future__ import annotations

import logging
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from .errors import HeroError, NotFound, StaleRevision
from .feedback import Feedback, problems
from .files import FORMAT, check_format, read_json, replacing, to_image, write_json
from .policy import LoRAConfig
from .rollout import Rollout
from .state import State, read_rollout, read_state, slim_rollout, write_rollout, write_state

THUMBNAIL = 320
"""Longest side of a thumbnail in pixels."""

log = logging.getLogger(__name__)
Mode = Literal["wait", "resume", "standalone"]
Size = Literal["thumb", "full"]


@dataclass(frozen=True)
class SessionSettings:
    """What is fixed for a session's whole life."""

    seed: int = 0
    lora: LoRAConfig = field(default_factory=LoRAConfig)


@dataclass(frozen=True)
class Marks:
    """A round's marks at revision ``rev``, which counts every change."""

    rev: int
    feedback: Feedback
    submitted: bool


class Store:
    """All sessions below ``root``; LoRA files go to ``lora_dir``. Safe to share between threads."""

    def __init__(self, root: Path, lora_dir: Path) -> None:
        self.root, self.lora_dir = Path(root), Path(lora_dir)
        self.lock = threading.RLock()
        self._sessions: dict[str, Session] = {}
        self._gone: Counter[str] = Counter()

    def session(self, name: str) -> Session:
        """The session called ``name``; :class:`NotFound` where there is none."""
        check_name(name)
        with self.lock:
            known = self._sessions.get(name)
            if known is not None and not known.exists():
                del self._sessions[name]
                self._gone[name] += 1
            if not (self.root / name / "session.json").is_file():
                raise NotFound(f"There is no session {name!r} in {self.root}.")
            if name not in self._sessions:
                self._sessions[name] = Session(self, name)
            return self._sessions[name]

    def revision(self, name: str) -> str:
        """A key that changes when a round of session ``name`` is saved, or its folder is removed, and never otherwise.

        A session that is yet to begin has the key that it will have before its first saved round.
        """
        with self.lock:
            try:
                saved = self.session(name).saved_round
            except NotFound:
                saved = 0
            return f"{name}:{self._gone[name]}:{saved}"

    def open(self, name: str, settings: SessionSettings) -> Session:
        """The session called ``name``, made now if need be; changed settings are refused."""
        with self.lock:
            try:
                session = self.session(name)
            except NotFound:
                write_json(self.root / name / "session.json", _new_session(settings))
                return self.session(name)
        if session.settings != settings:
            raise HeroError(
                f"Session {name!r} was begun with {_describe(session.settings)}; this asks for {_describe(settings)}. "
                "Set these back, or choose another session name to begin anew."
            )
        return session

    def sessions(self) -> list[Session]:
        """Every session that can be read, by name; a damaged one is logged and left out."""
        found = []
        for path in sorted(self.root.glob("*/session.json")):
            try:
                found.append(self.session(path.parent.name))
            except HeroError as error:
                log.warning("%s", error)
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
            return [round for round in every if round.status == "sampled" and round.has_pictures]
        return [round for round in every if status in (None, round.status)]


NAME = r"[A-Za-z0-9_-]{1,64}"


def check_name(name: str) -> None:
    """Refuse a session name that is not ``[A-Za-z0-9_-]{1,64}``: it becomes a folder and a file name."""
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise HeroError(f"{str(name)[:80]!r} is no session name: use 1 to 64 letters, digits, '_' or '-'.")


class Session:
    """One session: one prompt, one checkpoint, one LoRA, as many rounds as it takes. Made by :class:`Store`."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name, self.folder = store, name, store.root / name
        self._data = _read_session(self.folder / "session.json")
        self._state: tuple[int, State] | None = None

    def exists(self) -> bool:
        """False once somebody has removed the folder."""
        return (self.folder / "session.json").is_file()

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
        numbers = sorted(int(path.name) for path in (self.folder / "rounds").glob("[0-9]*") if path.is_dir())
        return [self.round(number) for number in numbers]

    def tie(self, fingerprint: str, description: dict[str, str]) -> None:
        """Tie the session to a policy at its first round; refuse another one later."""
        with self.store.lock:
            if self.fingerprint is None:
                self._write(fingerprint=fingerprint, description=description)
            elif self.fingerprint != fingerprint:
                raise HeroError(self._mismatch(description))

    def _mismatch(self, description: dict[str, str]) -> str:
        changes = [
            f"{key} was {self.description.get(key, '?')!r} and is now {description.get(key, '?')!r}"
            for key in sorted({*self.description, *description})
            if self.description.get(key) != description.get(key)
        ]
        what = "; ".join(changes) or "the checkpoint or its conditioning is another one under the same name"
        return (
            f"Session {self.name!r} belongs to another set-up: {what}. A session learns one prompt on one checkpoint "
            "at one size: put it back, or give HERO Session another name to begin anew."
        )

    def state(self) -> State:
        """The state after the last saved round."""
        with self.store.lock:
            if self._state is None or self._state[0] != self.saved_round:
                self._state = (self.saved_round, read_state(self.folder / "state" / f"{self.saved_round:04d}"))
            return self._state[1]

    def save(self, state: State, metrics: dict[str, Any], write_lora: Callable[[Path], None] | None) -> Path | None:
        """Save the open round: state and LoRA beside the old ones, then move the pointer.

        ``write_lora(path)`` writes the LoRA file; returns where it lies, or None without one.
        """
        with self.store.lock:
            number = self.open_round
            write_state(self.folder / "state" / f"{number:04d}", state)
            path = self._export(number, write_lora) if write_lora else None
            entry = {"round": number, **metrics, "lora": path.name if path else None}
            write_json(self.round(number).folder / "metrics.json", entry)
            self._write(saved_round=number, history=[*self.history, entry])
            self._state = (number, state)
            self._prune()
            return path

    def _export(self, number: int, write_lora: Callable[[Path], None]) -> Path:
        path = self.store.lora_dir / f"{self.name}_r{number:04d}.safetensors"
        with replacing(path) as temporary:
            write_lora(temporary)
        return path

    def _prune(self) -> None:
        """Keep the state of two rounds, and of older rounds only what may be looked at or replayed."""
        for folder in (self.folder / "state").glob("[0-9]*"):
            if int(folder.name) < self.saved_round - 1:
                shutil.rmtree(folder, ignore_errors=True)
        self.round(self.saved_round - 1).slim()

    def _write(self, **changes: Any) -> None:
        data = {**self._data, **changes}
        write_json(self.folder / "session.json", data)
        self._data = data


class Round:
    """One round on disk; cheap to make, every property reads the disk."""

    def __init__(self, session: Session, number: int) -> None:
        self.session, self.number = session, number
        self.folder = session.folder / "rounds" / f"{number:04d}"

    @property
    def id(self) -> str:
        """``<session>.<number>``, as the HTTP interface names it."""
        return f"{self.session.name}.{self.number:04d}"

    @property
    def status(self) -> Literal["new", "sampled", "rated", "saved"]:
        """How far the round has come."""
        if self.number <= self.session.saved_round:
            return "saved"
        if not self._rollout_file.is_file():
            return "new"
        return "rated" if self.marks().submitted else "sampled"

    @property
    def n(self) -> int:
        """Pictures in the round; 0 before it is sampled."""
        return int(self._info().get("n", 0))

    @property
    def has_pictures(self) -> bool:
        """Whether the pictures can be shown."""
        return (self.folder / "pictures" / "info.json").is_file()

    @property
    def _rollout_file(self) -> Path:
        return self.folder / "rollout.safetensors"

    def _info(self) -> dict[str, Any]:
        path = self.folder / "round.json"
        return read_json(path) if path.is_file() else {}

    # -- rollout ------------------------------------------------------------------------------------------------

    def write_rollout(self, rollout: Rollout) -> None:
        """Write the rollout; pictures of an earlier draw go, marks stay."""
        with self.session.store.lock:
            shutil.rmtree(self.folder / "pictures", ignore_errors=True)
            write_json(self.folder / "round.json", {"n": rollout.n, "created": time.time()})
            write_rollout(self._rollout_file, rollout)

    def rollout(self) -> Rollout | None:
        """The rollout, or None before it is sampled; a damaged file is set aside and counts as not sampled.

        Nothing is lost by that: the seeds draw the same pictures again, and the marks are kept elsewhere.
        """
        if not self._rollout_file.is_file():
            return None
        try:
            return read_rollout(self._rollout_file)
        except HeroError as error:
            log.warning("%s It is set aside as .damaged and round %d is drawn again.", error, self.number)
            self._rollout_file.replace(self._rollout_file.with_suffix(".damaged"))
            return None

    def slim(self) -> None:
        """Drop the transitions of a saved round; z_T and z_0 stay."""
        if self._rollout_file.is_file():
            slim_rollout(self._rollout_file)

    # -- pictures -----------------------------------------------------------------------------------------------

    def write_pictures(self, pictures: Tensor, mode: Mode) -> None:
        """Write pictures ``(n, H, W, 3)`` in 0..1 with thumbnails, once; ``mode`` may change on a later call."""
        if len(pictures) != self.n:
            raise HeroError(
                f"Round {self.number} has {self.n} pictures and {len(pictures)} images arrived: "
                "wire the sampler's own latents through one VAE Decode into the grid."
            )
        with self.session.store.lock:
            if not self.has_pictures:
                self._draw(pictures)
            write_json(self.folder / "mode.json", {"mode": mode})

    def _draw(self, pictures: Tensor) -> None:
        target, temporary = self.folder / "pictures", self.folder / "pictures.part"
        for folder in (target, temporary):
            shutil.rmtree(folder, ignore_errors=True)
        temporary.mkdir(parents=True)
        for number, picture in enumerate(pictures):
            image = to_image(picture)
            image.save(temporary / f"{number:04d}.png", compress_level=1)
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            image.save(temporary / f"{number:04d}.jpg", quality=90)
        height, width = pictures.shape[1:3]
        write_json(temporary / "info.json", {"n": len(pictures), "width": width, "height": height})
        temporary.replace(target)

    def picture(self, number: int | Literal["best"], size: Size = "full") -> Path:
        """The file of one picture; ``"best"`` is the best of an earlier round, the one that may be kept."""
        if number == "best":
            best = self._old_best()
            if best is None:
                raise NotFound(f"Round {self.number} has no old best: nothing was chosen before it.")
            return self.session.round(best["round"]).picture(best["picture"], size)
        path = self.folder / "pictures" / f"{int(number):04d}{'.jpg' if size == 'thumb' else '.png'}"
        if not 0 <= int(number) < max(self.n, 1) or not path.is_file():
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
        """The marks as they are on disk; none, at revision 0, before the first."""
        path = self.folder / "labels.json"
        if not path.is_file():
            return Marks(0, Feedback(self.n), False)
        data = read_json(path)
        return Marks(data["rev"], Feedback.from_json(data, self.n), data["submitted"])

    def put_marks(self, rev: int, feedback: Feedback) -> Marks:
        """Replace all marks, if ``rev`` is still the current revision; returns the new ones.

        Raises :class:`StaleRevision` when somebody was faster, :class:`HeroError` when the round is submitted.
        """
        with self.session.store.lock:
            current = self.marks()
            if current.submitted:
                raise HeroError(f"Round {self.number} is submitted: its marks can no longer change.")
            if rev != current.rev:
                raise StaleRevision(
                    f"These marks were made on revision {rev} and round {self.number} is at {current.rev}: "
                    "load it again, then mark.", current
                )  # fmt: skip
            return self._write_marks(Marks(rev + 1, feedback, False))

    def submit(self, rev: int | None = None) -> Marks:
        """Close the round's marks, once; raises :class:`HeroError` saying what is missing."""
        with self.session.store.lock:
            current = self.marks()
            if current.submitted:
                return current
            if rev is not None and rev != current.rev:
                raise StaleRevision(
                    f"Revision {rev} was submitted and round {self.number} is at {current.rev}: look again.", current
                )  # fmt: skip
            lacking = problems(current.feedback, self.has_old_best)
            if lacking:
                raise HeroError(" ".join(lacking))
            return self._write_marks(replace(current, rev=current.rev + 1, submitted=True))

    def _write_marks(self, marks: Marks) -> Marks:
        data = {"rev": marks.rev, **marks.feedback.to_json(), "submitted": marks.submitted}
        write_json(self.folder / "labels.json", data)
        return marks

    def to_json(self) -> dict[str, Any]:
        """What the HTTP interface tells of a round."""
        marks = self.marks()
        info = read_json(self.folder / "pictures" / "info.json") if self.has_pictures else {}
        mode = read_json(self.folder / "mode.json") if (self.folder / "mode.json").is_file() else {}
        return {
            "id": self.id,
            "session": self.session.name,
            "round": self.number,
            "status": self.status,
            "mode": mode.get("mode", "standalone"),
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


# -- session.json ---------------------------------------------------------------------------------------------------


def _new_session(settings: SessionSettings) -> dict[str, Any]:
    return {
        "format": FORMAT, "created": time.time(), "seed": settings.seed, "lora": asdict(settings.lora),
        "saved_round": 0, "fingerprint": None, "description": {}, "history": [],
    }  # fmt: skip


def _read_session(path: Path) -> dict[str, Any]:
    data = read_json(path)
    check_format(data, path)
    return data


def _describe(settings: SessionSettings) -> str:
    return f"seed {settings.seed}, LoRA rank {settings.lora.rank} and alpha {settings.lora.alpha:g}"
