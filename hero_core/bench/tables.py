# SPDX-License-Identifier: Apache-2.0
"""Tables of results from the runs in ``results/*.json``."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean as mean
from statistics import median_low, stdev

from ..errors import HeroError
from ..tiny.tasks import TASKS
from .methods import METHODS
from .records import BenchRun
from .use import UNRELATED

T_95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
"""Two-sided 95 % quantiles of Student's t by degrees of freedom; above 9 the normal's is near enough."""

SHARES = (0.5, 0.75, 0.9)
"""The shares of good pictures whose price in marks is told."""


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval over seeds in per cent; the value of one seed stands without an interval."""
    if len(values) == 1:
        return f"{100 * values[0]:.0f} %"
    return f"{100 * mean(values):.0f} ± {100 * _half_width(values):.0f} %"


def _half_width(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean of some seeds' values."""
    if len(values) < 2:
        return 0.0
    return T_95.get(len(values) - 1, 1.96) * stdev(values) / math.sqrt(len(values))


def by_label(runs: Iterable[BenchRun]) -> dict[str, list[BenchRun]]:
    """Runs that differ in task and seed alone, together; the methods in their own order."""
    groups = defaultdict(list)
    order = list(METHODS)
    for run in sorted(runs, key=lambda run: (order.index(run.settings["method"]), len(run.changed), run.label)):
        groups[run.label].append(run)
    return dict(groups)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tasks_of(runs: list[BenchRun]) -> list[str]:
    """The tasks of some runs: the tiny model's in their own order, then others."""
    found = dict.fromkeys(run.task for run in runs)
    return [*(task for task in TASKS if task in found), *(task for task in found if task not in TASKS)]


def success_table(runs: list[BenchRun], key: str) -> str:
    """``key`` after the last round, per label and task, and the mean over the tasks of the seeds that ran them all."""
    tasks = tasks_of(runs)
    rows = []
    for label, group in by_label(runs).items():
        found: dict[str, list[float]] = {task: [] for task in tasks}
        for run in group:
            found[run.task].append(last(run, key))
        cells = list(found.values())
        if len(tasks) > 1:
            cells.append(by_seed(group, lambda run: last(run, key)) if all(cells) else [])
        rows.append([label, *(interval(values) if values else "not run" for values in cells)])
    return table(["method", *tasks, *(["mean"] if len(tasks) > 1 else [])], rows)


def by_seed(runs: Iterable[BenchRun], value: Callable[[BenchRun], float]) -> list[float]:
    """The mean of ``value`` over the tasks of these runs, for each seed that ran them all."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for run in runs:
        found[run.task][run.seed] = value(run)
    seeds = set.intersection(*(set(values) for values in found.values()))
    return [mean(values[seed] for values in found.values()) for seed in sorted(seeds)]


def last(run: BenchRun, key: str) -> float:
    """The last value of a curve."""
    curve = run.curve(key)
    return curve[max(curve)]


def marks_table(runs: list[BenchRun]) -> str:
    """Marks needed, by label: the median over tasks and seeds, and how many runs got there."""
    rows = []
    for label, group in by_label(runs).items():
        cells = []
        for key in ("success_mixture", "success_fresh"):
            for share in SHARES:
                found = [run.marks_to(share, key) for run in group]
                middle, reached = median_low(found), sum(map(math.isfinite, found))
                cells.append(f"{'–' if math.isinf(middle) else f'{middle:.0f}'} ({reached} of {len(found)})")
        rows.append([label, *cells])
    return table(["method", *(f"{kind} {share:.0%}" for kind in ("own", "fresh") for share in SHARES)], rows)


def ratio_table(runs: list[BenchRun], key: str, share: float = 0.75) -> str:
    """How many times the first label's marks the others need until ``key`` reaches ``share``, by task.

    The geometric mean over seeds with its 95 % interval. ``>`` where some run of the other never got there, and ``<``
    where some run of the first did not: their ratios are taken at all the marks that they were given.
    """
    groups = by_label(runs)
    first, *others = groups
    tasks = tasks_of(runs)
    rows = []
    for label in others:
        cells = []
        for task in tasks:
            mine, theirs = ({run.seed: run for run in groups[name] if run.task == task} for name in (first, label))
            pairs = [(mine[seed], theirs[seed]) for seed in mine if seed in theirs]
            cells.append(_ratio(pairs, key, share))
        rows.append([f"{label} / {first}", *cells])
    return table(["ratio", *tasks], rows)


def _ratio(pairs: list[tuple[BenchRun, BenchRun]], key: str, share: float) -> str:
    logs, signs = [], set()
    for pair in pairs:
        found = [run.marks_to(share, key) for run in pair]
        missed = [math.isinf(marks) for marks in found]
        if all(missed) or not min(found):
            return "–"
        signs |= {sign for sign, never in zip("<>", missed, strict=True) if never}
        spent = [sum(row.get("marks", 0) for row in run.rows) for run in pair]
        mine, theirs = (all_ if never else marks for marks, never, all_ in zip(found, missed, spent, strict=True))
        logs.append(math.log(theirs / mine))
    if not logs or len(signs) > 1:
        return "–"
    middle, half = mean(logs), _half_width(logs)
    sign = f"{signs.pop()} " if signs else ""
    spread = f" ({math.exp(middle - half):.1f}–{math.exp(middle + half):.1f})" if len(logs) > 1 else ""
    return f"{sign}{math.exp(middle):.1f}{spread}"


def use_table(runs: list[BenchRun]) -> str:
    """Success in each way of using the LoRA beside the base model's, by label: means over tasks and seeds."""
    groups = {label: [run for run in group if "use" in run.rows[-1]] for label, group in by_label(runs).items()}
    groups = {label: group for label, group in groups.items() if group}
    if not groups:
        raise HeroError("None of these runs drew pictures in other ways: run the bench with --use.")
    rows = []
    for use in next(iter(groups.values()))[0].rows[-1]["use"]:
        found = {label: [run.rows[-1]["use"][use] for run in group] for label, group in groups.items()}
        if use == UNRELATED:
            cells = ["", *(f"changed by {mean(one['drift'] for one in ones):.3f}" for ones in found.values())]
        else:
            base = mean(one["base"] for ones in found.values() for one in ones)
            cells = [f"{base:.0%}", *(f"{mean(one['success'] for one in ones):.0%}" for ones in found.values())]
        rows.append([use, *cells])
    return table(["use", "base", *groups], rows)


def side_table(runs: list[BenchRun]) -> str:
    """What success does not tell, by label: means over tasks and seeds."""
    rows = []
    for label, group in by_label(runs).items():
        rows.append([
            label,
            against_base(group, "entropy_fresh", "entropy_fresh"),
            against_base(group, "diversity_fresh", "diversity_fresh"),
            against_base(group, "diversity_mixture", "diversity_fresh"),
            mean_of(group, "heldout_auc", "{:.2f}"),
            mean_of(group, "critic_r2", "{:.2f}"),
            mean_of(group, "kl_to_base", "{:.1e}", of=lambda values: values[-1]),
            mean_of(group, "ratio_error", "{:.0e}", of=max),
            mean_of(group, "clip_fraction", "{:.0%}"),
            f"{mean(sum(row['seconds'].values()) for run in group for row in run.rows[1:] if 'seconds' in row):.0f}",
        ])  # fmt: skip
    head = "method|variety fresh|spread fresh|spread own|held-out AUC|critic R²|KL|max ratio error|clipped|s a round"
    return table(head.split("|"), rows)


def against_base(group: list[BenchRun], key: str, base_key: str) -> str:
    """The last value of ``key`` over the base model's ``base_key``, both summed over the runs that have them."""
    pairs = [(last(run, key), run.rows[0][base_key]) for run in group if base_key in run.rows[0] and run.curve(key)]
    return f"{sum(now for now, _ in pairs) / sum(base for _, base in pairs):.2f}" if pairs else "–"


def mean_of(group: list[BenchRun], key: str, form: str, of: Callable[[list[float]], float] = mean) -> str:
    """The mean over the runs of ``of`` the values that a run's rounds have of ``key``, or a dash where none has."""
    found = [[row[key] for row in run.rows if row.get(key) is not None and row[key] == row[key]] for run in group]
    values = [of(one) for one in found if one]
    return form.format(mean(values)) if values else "–"


TABLES: dict[str, Callable[[list[BenchRun]], str]] = {
    "fresh": lambda runs: success_table(runs, "success_fresh"),
    "mixture": lambda runs: success_table(runs, "success_mixture"),
    "marks": marks_table,
    "ratio": lambda runs: ratio_table(runs, "success_mixture"),
    "ratio_fresh": lambda runs: ratio_table(runs, "success_fresh"),
    "side": side_table,
    "use": use_table,
}
