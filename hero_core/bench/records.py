# SPDX-License-Identifier: Apache-2.0
"""The runs in ``results/*.json``, under the names that settings have today."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import HeroError
from ..lora import FORMER as FORMER_TARGETS
from ..lora import targets
from ..store.files import read_json
from .run import RunSettings

Row = dict[str, Any]

FORMER = {"kl": "kl_coef", "trace": "gae_lambda", "pull": "ref_penalty", "average": "ema_decay"}
"""What settings of the updates were once called, and what they are called today."""

APART = ("task", "method", "seed", "rounds", "fresh_rounds", "fresh_pictures", "maps", "use")
"""Settings that a run's label leaves out: tables tell them apart by other means, or they change no picture."""


@dataclass(frozen=True)
class BenchRun:
    """One run as the JSON has it, its settings as :func:`current` gives them."""

    settings: dict[str, Any]
    rows: list[Row]

    @property
    def task(self) -> str:
        return str(self.settings["task"])

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])

    @cached_property
    def label(self) -> str:
        """The method, and every setting in which the run differs from the method's defaults."""
        return " ".join([self.settings["method"], *(f"{name}={value}" for name, value in self.changed.items())])

    @property
    def changed(self) -> dict[str, Any]:
        """Settings that are not the defaults, as ``part.name``; those of :data:`APART` left out."""
        usual = _flat(RunSettings(method=self.settings["method"]).to_json())
        return {k: v for k, v in _flat(self.settings).items() if usual.get(k) != v and k not in APART}

    def curve(self, key: str) -> dict[int, float]:
        """``key`` by rounds learned; pictures from the mixture stand at the rounds learned before they were drawn."""
        shift = 1 if key.endswith("_mixture") else 0
        return {row["round"] - shift: row[key] for row in self.rows if key in row}

    def until(self, round: int) -> BenchRun:
        """The run as it was when ``round`` rounds had been learned; :class:`HeroError` where it ended before."""
        if self.rows[-1]["round"] < round:
            raise HeroError(f"{self.label} on {self.task} ended after round {self.rows[-1]['round']}, before {round}.")
        return BenchRun(self.settings, [row for row in self.rows if row["round"] <= round])

    def marks_to(self, share: float, key: str) -> float:
        """Marks spent before ``key`` first reached ``share``; infinite where it never did."""
        per_round = [row.get("marks", 0) for row in self.rows]
        reached = [learned for learned, value in self.curve(key).items() if value >= share]
        return sum(per_round[: min(reached) + 1]) if reached else math.inf


def read(path: Path) -> list[BenchRun]:
    """The runs of one results file."""
    return [BenchRun(current(run["settings"]), run["rows"]) for run in read_json(path)["runs"]]


def load(*paths: Path) -> list[BenchRun]:
    """The runs of results files; :class:`HeroError` where two differ in nothing that the tables tell apart."""
    runs = [run for path in paths for run in read(path)]
    seen = Counter((run.label, run.task, run.seed) for run in runs)
    for (label, task, seed), times in seen.items():
        if times > 1:
            where = " and ".join(path.name for path in paths)
            raise HeroError(
                f"{where}: {label} on {task} with seed {seed} is there {times} times (other numbers of rounds?): the "
                "tables would count one seed as several. Keep one of them."
            )
    return runs


def pool(paths: Iterable[Path]) -> list[BenchRun]:
    """The runs of all these files; of those that differ in their number of rounds alone, the longest."""
    found: dict[tuple[str, str, int], BenchRun] = {}
    for run in sorted((run for path in paths for run in read(path)), key=lambda run: len(run.rows)):
        found[run.label, run.task, run.seed] = run
    return list(found.values())


def current(settings: dict[str, Any]) -> dict[str, Any]:
    """A run's settings under today's names; what was no setting yet when it was run has its default."""
    usual = RunSettings(method=settings["method"]).to_json()
    if settings["update"] and usual["update"]:
        settings = {**settings, "update": _renamed(settings["update"], usual["update"])}
    lora = settings.get("lora", {})
    if lora.get("targets") in FORMER_TARGETS:
        settings = {**settings, "lora": {**lora, "targets": targets(FORMER_TARGETS[lora["targets"]])}}
    return _over(usual, settings)


def _renamed(update: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    update = {FORMER[name] if FORMER.get(name) in known else name: value for name, value in update.items()}
    if "accumulation" not in known:  # it multiplied the batch, and nothing else
        accumulation = update.pop("accumulation", 1)
        if "batch" in update:
            update["batch"] *= accumulation
    return update


def _over(usual: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    found = dict(usual)
    for name, value in given.items():
        inner = usual.get(name)
        found[name] = _over(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return found


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
