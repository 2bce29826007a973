# SPDX-License-Identifier: Apache-2.0
"""One session on disk: its settings, its rounds, and the state after the last saved one."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import Damaged, HeroError, NotFound
from ..lora import LoRAConfig, LoRAFile, called
from ..settings import setting
from . import repair
from .files import FORMAT, copy, remove_parts, remove_tree, set_aside, strict, write_lora, write_record
from .repair import numbered
from .round import Round
from .shared import Shared
from .state import Best, State, read_state, write_state


@dataclass(frozen=True)
class SessionSettings:
    """What is fixed for a session's whole life."""

    seed: int = setting(
        0, "Every random draw of the session comes from it. Fixed once the session has begun.", low=0, high=2**53 - 1
    )
    lora: LoRAConfig = field(default_factory=LoRAConfig)


def begun(folder: Path) -> bool:
    """Whether a session lies in ``folder``, be it damaged."""
    return any((folder / part).exists() for part in ("session.json", "state", "rounds"))


class Session:
    """One session: one prompt, one checkpoint, one LoRA, as many rounds as it takes. Made by :class:`Store`."""

    def __init__(self, store: Shared, name: str) -> None:
        self.store, self.name, self.folder = store, name, store.root / name
        self._state: tuple[int, State] | None = None
        self._repairs: list[str] = []
        self._mended = False
        self._damage: Damaged | None = None
        self._data = self._read()

    def exists(self) -> bool:
        """False once somebody has removed the folder."""
        return begun(self.folder)

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """The right to write, see :meth:`Shared.writing`."""
        return self.store.writing()

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
    def compact(self) -> bool:
        """Whether large latents take little room here: sessions that were begun without go on as they began."""
        return bool(self._data.get("compact", False))

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
        """Tie the session to the policy of its first round, once."""
        with self.writing():
            self.refuse_another(fingerprint, description)
            if self.fingerprint is None:
                self._write({**self._data, "fingerprint": fingerprint, "description": description})
                write_record(self._state_folder(self.saved_round) / "session.json", self._data)

    def refuse_another(self, fingerprint: str, description: dict[str, str]) -> None:
        """Raise :class:`HeroError` for a policy that is not the one the session is tied to."""
        if self.fingerprint not in (None, fingerprint):
            raise HeroError(self._mismatch(description))

    def refuse_other_settings(self, settings: SessionSettings) -> None:
        """Raise :class:`HeroError` for settings that are not those the session was begun with.

        What a name of the LoRA's targets stands for is that of the first day, whatever a later version makes of it.
        """
        mine, asked = self.settings.lora.targets, settings.lora.targets
        of_then = mine if called(mine) == called(asked) else asked
        if self.settings != replace(settings, lora=replace(settings.lora, targets=of_then)):
            raise HeroError(
                f"Session {self.name!r} was begun with {_describe(self.settings)}; this asks for "
                f"{_describe(settings)}. Set these back, or choose another session name to begin anew."
            )

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
        """The state after the last saved round; :class:`Damaged` names the file where it cannot be read."""
        with self.store.lock:
            if self._state is None or self._state[0] != self.saved_round:
                self._state = (self.saved_round, read_state(self._state_folder(self.saved_round)))
            return self._state[1]

    def _step_back(self, damage: Damaged) -> None:
        """Let the round before the last saved one be the last saved one, and the lost round be open again."""
        number = self.saved_round
        try:
            read_state(self._state_folder(number - 1))
        except Damaged as second:
            raise HeroError(
                f"{damage} The round before cannot be used either: {second} Put one of the two back from a backup, or "
                f"choose another session name to begin anew; the LoRA files in {self.store.lora_dir} are not touched."
            ) from second
        with self.writing():
            aside = set_aside(self._state_folder(number))
            self._write(repair.before(self._data, number))
        kept = f" It is kept in {aside}." if aside else ""
        self.tell(f"{damage}{kept} Session {self.name!r} goes back to round {number - 1}, the last one that is whole; "
                  f"queue again, and round {number} is learned again from its pictures and marks.")  # fmt: skip

    def _state_folder(self, number: int) -> Path:
        return self.folder / "state" / f"{number:04d}"

    def save(
        self, state: State, metrics: dict[str, Any], lora: LoRAFile | None, preview: Path | None = None
    ) -> Path | None:
        """Save the open round: state and LoRA beside the old ones, then move the pointer.

        Returns where the file of ``lora`` lies, or None without one. ``preview``: the picture to lay beside it.
        """
        with self.writing():
            number = self.open_round
            self.round(number).mend()
            write_state(self._state_folder(number), state)
            path = self._export(number, lora, preview) if lora else None
            entry = strict({"round": number, **metrics, "lora": path.name if path else None})
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

    def picture_of(self, best: Best | None) -> Path | None:
        """The file of the best picture so far; None where there is none, or it cannot be shown."""
        if best is None:
            return None
        try:
            return self.round(best.round).picture(best.picture)
        except NotFound as error:
            self.tell(f"The LoRA's file gets no preview: {error}")
            return None

    def _export(self, number: int, lora: LoRAFile, preview: Path | None) -> Path:
        path = self.store.lora_dir / f"{self.name}_r{number:04d}.safetensors"
        write_lora(path, *lora)
        beside = path.with_suffix(".preview.png")  # the one name that all who show LoRAs look for
        if preview:
            copy(preview, beside)
        else:
            remove_tree(beside)
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
        """Look after everything that a kill or a failing disk may have left.

        A damaged session.json gives way to its copy; a damaged state to the one before it, and its round is open again.
        """
        with self.writing():
            if not self._mended:
                self._mend_pointer()
                self._mend_state()
                self._mend_files()
                self._mended = True
            self.round(self.open_round).mend()

    def _mend_pointer(self) -> None:
        if self._damage is None:
            return
        for number, folder in numbered(self.folder / "state"):
            if number > self.saved_round:
                set_aside(folder)
        path = self.folder / "session.json"
        aside = set_aside(path)
        write_record(path, self._data)
        kept = f" It is kept as {aside.name}." if aside else ""
        self.tell(f"{self._damage}{kept} Session {self.name!r} goes on after round {self.saved_round}, from the copy "
                  "beside that round's state.")  # fmt: skip
        self._damage = None

    def _mend_state(self) -> None:
        try:
            self.state()
        except Damaged as damage:
            self._step_back(damage)

    def _mend_files(self) -> None:
        for folder in (self.folder, *self.folder.glob("state/*/"), self.folder / "state", self.folder / "rounds"):
            remove_parts(folder)
        for number in (self.saved_round, self.open_round):
            remove_parts(self.round(number).folder)
        self.round(self.saved_round).mend()
        for part in self.store.lora_dir.glob(f".{self.name}_r*.part"):
            remove_tree(part)
        for path, entry in repair.metrics_again(self.folder / "rounds", self._data["history"]):
            write_record(path, entry)
            self.tell(f"{path} was damaged or missing and is written again from the session's history.")
        self._prune()

    def _read(self) -> dict[str, Any]:
        """session.json, or where it is damaged the copy that lies beside the newest state."""
        try:
            return repair.read_session(self.folder / "session.json")
        except Damaged as damage:
            self._damage = damage
            return repair.newest_copy(self.folder, damage)

    def _write(self, data: dict[str, Any]) -> None:
        write_record(self.folder / "session.json", data)
        self._data = data


# -- session.json ---------------------------------------------------------------------------------------------------


def begin(folder: Path, settings: SessionSettings) -> None:
    """Make a session in ``folder``, where there is none."""
    data = {
        "format": FORMAT, "created": time.time(), "seed": settings.seed, "lora": asdict(settings.lora),
        "compact": True, "saved_round": 0, "fingerprint": None, "description": {}, "history": [],
    }  # fmt: skip
    write_record(folder / "session.json", data)
    write_record(folder / "state" / "0000" / "session.json", data)


def _describe(settings: SessionSettings) -> str:
    lora = settings.lora
    return f"seed {settings.seed}, LoRA rank {lora.rank}, alpha {lora.alpha:g} and targets {called(lora.targets)!r}"
