# SPDX-License-Identifier: Apache-2.0
"""What a terminal shows of a run: one progress bar at a time, and a table that grows with the rounds."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from torch import Tensor

from .policy import Progress


class Watcher:
    """A context that turns ``(part, round)`` into the progress callback of one bar."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description:<24}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
        self.bars = RichProgress(*columns, TimeElapsedColumn(), console=console, transient=True)

    def __enter__(self) -> Watcher:
        self.bars.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bars.stop()

    def __call__(self, part: str, round: int) -> Progress:
        self.clear()
        task = self.bars.add_task(f"round {round}: {part}" if round else part, total=None)

        def progress(done: int, total: int, preview: Tensor | None = None) -> None:
            self.bars.update(task, completed=done, total=total)

        return progress

    def clear(self) -> None:
        """Take the bars away."""
        for task in self.bars.task_ids:
            self.bars.remove_task(task)


class Table:
    """Rows of a run as they come."""

    HEAD = f"{'round':>5} {'mixture':>8} {'fresh':>7} {'good':>5} {'bad':>5} {'max|ratio-1|':>13} {'seconds':>8}"

    def __init__(self, console: Console) -> None:
        self.console = console
        console.print("Success = the share of pictures that show what the prompt asks for.")
        console.print(self.HEAD, style="bold", highlight=False)

    def add(self, row: dict[str, Any]) -> None:
        """Print one row; round 0 is the base model."""
        mixture = f"{row['success_mixture']:.0%}" if "success_mixture" in row else "–"
        good, bad = (f"{row[key]:.0f}" if key in row else "–" for key in ("good", "bad"))
        ratio = f"{row['ratio_error']:.1e}" if "ratio_error" in row else "–"
        seconds = f"{sum(row['seconds'].values()):.0f}" if "seconds" in row else "–"
        fresh = f"{row['success_fresh']:.0%}"
        line = f"{row['round']:>5} {mixture:>8} {fresh:>7} {good:>5} {bad:>5} {ratio:>13} {seconds:>8}"
        self.console.print(line, highlight=False)
        if row.get("skip"):
            self.console.print(f"      {row['skip']}", style="yellow")
