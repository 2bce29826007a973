# SPDX-License-Identifier: Apache-2.0
"""What is done about damaged files of a session, beyond one round's: which copy is used, and what a person is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import Damaged, HeroError
from .files import check_format, read_record
from .state import read_state


def numbered(folder: Path) -> list[tuple[int, Path]]:
    """The folders in ``folder`` that belong to a round, in order; those set aside are none."""
    return sorted((int(path.name), path) for path in folder.glob("[0-9]*") if path.name.isdigit() and path.is_dir())


def read_session(path: Path) -> dict[str, Any]:
    """A session.json; :class:`Damaged` names a damaged or missing one."""
    data = read_record(path, "seed", "lora", "saved_round", "fingerprint", "description", "history")
    check_format(data, path)
    return data


def newest_copy(folder: Path, damage: Damaged) -> dict[str, Any]:
    """The session.json of the last round in ``folder`` whose state is whole.

    Raises :class:`HeroError` where there is none: nothing begins from zero beside rounds that are there.
    """
    for _, state in reversed(numbered(folder / "state")):
        try:
            data = read_session(state / "session.json")
            read_state(state)
            return data
        except Damaged:
            continue
    raise HeroError(
        f"{damage} There is no whole copy of it below {folder / 'state'} either, so the session cannot go on: put it "
        f"back from a backup. To begin anew, choose another session name or move {folder} away."
    )


def before(data: dict[str, Any], number: int) -> dict[str, Any]:
    """A session.json as it was before round ``number`` was saved."""
    history = [entry for entry in data["history"] if entry["round"] < number]
    return {**data, "saved_round": number - 1, "history": history}


def metrics_again(rounds: Path, history: list[dict[str, Any]]) -> list[tuple[Path, dict[str, Any]]]:
    """The metrics.json that are damaged or missing in the folders of rounds, with what the history has for them."""
    found = []
    for entry in history:
        path = rounds / f"{entry['round']:04d}" / "metrics.json"
        if not path.parent.is_dir():
            continue  # somebody made room on the disk
        try:
            read_record(path, "round")
        except Damaged:
            found.append((path, entry))
    return found
