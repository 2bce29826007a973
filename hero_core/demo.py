# SPDX-License-Identifier: Apache-2.0
"""The whole loop on the tiny model without ComfyUI: with a simulated rater, or with a person at the rating page."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import chain, count
from pathlib import Path
from typing import Any

from torch import Tensor

from .bench import raters
from .bench.command import key
from .bench.plots import curve_of_success
from .bench.records import current
from .bench.run import Rater, Run, RunSettings, Watch, complete
from .feedback import Feedback
from .report import contact_sheet
from .store import Round
from .store.files import read_json

SESSION = "demo"


def human(watch: Watch, pause: float = 0.2) -> Rater:
    """A person at the rating page: waits, without end, until the round is submitted."""

    def rater(shown: Round, pictures: Tensor) -> Feedback:
        progress = watch("waiting for your marks", shown.number)
        while not (marks := shown.marks()).submitted:
            progress(len(marks.feedback.labels), shown.n, None)
            time.sleep(pause)
        return marks.feedback

    return rater


def run_demo(settings: RunSettings, out: Path, watch: Watch, report: Callable[[dict[str, Any]], None]) -> Path | None:
    """Run all rounds with the simulated rater and write pictures, curve, numbers and LoRA below ``out``.

    ``report(row)`` is called for the base model (round 0) and after each round; a run that was stopped goes on where it
    stopped. Returns the LoRA's path, None where no round taught anything.
    """
    run = Run(settings, out, watch, SESSION)

    def keep(number: int, pictures: Tensor) -> None:
        _sheet(run, pictures, out / ("after_fresh.png" if number else "before.png"))

    rows = complete(run, out / "result.json", report, keep)
    _sheet(run, run.pictures(settings.rounds), out / "after_mixture.png")
    curve_of_success(rows, f"{settings.task}: {run.session.description['prompt']}", out / "curve.png")
    return run.store.lora_dir / rows[-1]["lora"] if rows[-1].get("lora") else None


def free_folder(folder: Path, settings: RunSettings) -> Path:
    """``folder``, or the first of folder-2, folder-3 … that holds no rounds but an unfinished run's like this."""
    others = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
    return next(one for one in chain([folder], others) if _may_go_on_in(one, settings))


def _may_go_on_in(folder: Path, settings: RunSettings) -> bool:
    record = folder / "result.json"
    if not record.is_file():  # rounds without it are a person's, who rated them at the page
        return not any(folder.glob("sessions/*/rounds/*"))
    found = read_json(record)
    both = settings.to_json(), current(found["settings"])
    mine, theirs = (key({**one, "rounds": 0, "fresh_rounds": 0}) for one in both)
    return len(found["rows"]) <= settings.rounds and mine == theirs


def _sheet(run: Run, pictures: Tensor, path: Path) -> None:
    marks = raters.perfect(run.judge, pictures)
    contact_sheet(pictures.permute(0, 2, 3, 1), marks).save(path)
