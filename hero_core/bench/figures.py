# SPDX-License-Identifier: Apache-2.0
"""Single figures from the runs, for prose: ``fresh 4 nft`` is a share of good pictures with its interval."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean as mean

from ..errors import HeroError
from ..store.files import read_json
from ..tiny.tasks import TASKS
from .records import BenchRun, pool
from .tables import against_base, by_seed, interval, mean_of, table


@dataclass(frozen=True)
class Figures:
    """Every run and every timed update that a folder of results holds."""

    runs: list[BenchRun]
    cost: list[dict[str, float | str]]

    @classmethod
    def of(cls, folder: Path) -> Figures:
        """From ``folder/*.json``; ``cost.json`` is a file of :mod:`.cost`."""
        cost = folder / "cost.json"
        runs = pool(path for path in sorted(folder.glob("*.json")) if path != cost)
        return cls(runs, read_json(cost)["rows"] if cost.is_file() else [])

    def figure(self, what: str) -> str:
        """The figure of ``KIND ROUNDS METHOD [setting=value…] [TASK…] [seed=N]``; over all six tasks if none is named.

        KIND is one of :data:`KINDS`; ``use "WAY"`` tells success in that way of using the LoRA, and ``cost RULE
        COLUMN`` the ``seconds`` or ``memory`` of an update against those of DDPO. :class:`HeroError` where no run, or
        not every task, has it.
        """
        kind, *words = shlex.split(what)
        if kind == "cost":
            return self._cost(*words)
        way = words.pop(0) if kind == "use" else ""
        rounds = next((int(word) for word in words if word.isdigit()), None)
        tasks = [word for word in words if word in TASKS] or list(TASKS)
        seeds = [int(word.removeprefix("seed=")) for word in words if word.startswith("seed=")]
        label = {word for word in words if not (word.isdigit() or word in TASKS or word.startswith("seed="))}
        runs = [run for run in self.runs if set(run.label.split()) == label and run.task in tasks]
        runs = [run for run in runs if not seeds or run.seed in seeds]
        if kind == "use":
            return _use([run for run in runs if "use" in run.rows[-1]], way, what)
        if kind not in KINDS or rounds is None:
            raise HeroError(f"The figure {what!r} is none: {', '.join([*KINDS, 'use', 'cost'])}, with rounds learned.")
        runs = [run.until(rounds) for run in runs if run.rows[-1]["round"] >= rounds]
        if missing := sorted(set(tasks) - {run.task for run in runs}):
            raise HeroError(f"The figure {what!r} has no run of {rounds} rounds on {', '.join(missing)}.")
        return KINDS[kind](runs, rounds)

    def _cost(self, rule: str, column: str) -> str:
        rows = {str(row["rule"]): row for row in self.cost}
        return f"{float(rows[rule][column]) / float(rows['ddpo'][column]):.2f}"


def _success(key: str) -> Callable[[list[BenchRun], int], str]:
    """Success after these rounds: the mean over the tasks, with its interval over the seeds that ran them all."""

    def figure(runs: list[BenchRun], rounds: int) -> str:
        learned = rounds - 1 if key == "success_mixture" else rounds
        if missing := [run for run in runs if learned not in run.curve(key)]:
            raise HeroError(f"{missing[0].label} on {missing[0].task} has no {key} after {rounds} rounds.")
        return interval(by_seed(runs, lambda run: run.curve(key)[learned]))

    return figure


def _use(runs: list[BenchRun], way: str, what: str) -> str:
    if not runs or way not in runs[0].rows[-1]["use"]:
        raise HeroError(f"The figure {what!r} has no run that drew pictures in this way.")
    return f"{100 * mean(run.rows[-1]['use'][way]['success'] for run in runs):.0f} %"


KINDS: dict[str, Callable[[list[BenchRun], int], str]] = {
    "fresh": _success("success_fresh"),
    "own": _success("success_mixture"),
    "base": lambda runs, rounds: interval(by_seed(runs, lambda run: run.rows[0]["success_fresh"])),
    "variety": lambda runs, rounds: against_base(runs, "entropy_fresh", "entropy_fresh"),
    "heldout": lambda runs, rounds: mean_of(runs, "heldout_auc", "{:.2f}"),
    "trained": lambda runs, rounds: mean_of(runs, "auc", "{:.2f}"),
}
"""Good pictures from fresh noise and of the rounds' own; the base model's; what good pictures keep of its variety; how
often E ranks a good above a bad in a round that it has not seen, and in the one that it was trained on."""


@dataclass(frozen=True)
class Advice:
    """One row of the table *which update, when*."""

    want: str
    take: str
    label: str
    rounds: int


WHICH = (
    Advice("a LoRA to keep or to share, soon", "`nft_tiny`, 16 pictures a round", "nft pictures=16", 12),
    Advice("the same, more varied", "`nft_tiny`, 64 a round", "nft", 8),
    Advice(
        "good pictures out of noise that is refined while you rate",
        "`nft_tiny` with Latent Mixture wired beside it, 16 a round", "nft_noise pictures=16", 12,
    ),
    Advice("one best picture that leads", "`score_action_tiny`, 64 a round", "score_action_projected", 4),
    Advice("the paper's method as it is", "`hero_tiny`, 64 a round", "hero", 8),
)  # fmt: skip


def which_table(figures: Figures, advice: Iterable[Advice] = WHICH) -> str:
    """Which update for which wish, with its marks, its figures and how many seeds stand behind them."""
    return table(
        ["what you want", "take", "marks", "own", "fresh", "variety", "runs a task"],
        [_advised(figures, one) for one in advice],
    )


def _advised(figures: Figures, one: Advice) -> Sequence[str]:
    runs = [run for run in figures.runs if run.label == one.label and run.rows[-1]["round"] >= one.rounds]
    marks = {sum(row.get("marks", 0) for row in run.until(one.rounds).rows) for run in runs}
    seeds = len({run.seed for run in runs})
    shown = [figures.figure(f"{kind} {one.rounds} {one.label}") for kind in ("own", "fresh", "variety")]
    return [one.want, one.take, "–".join(map(str, sorted({min(marks), max(marks)}))), *shown, str(seeds)]
