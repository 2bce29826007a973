"""Tables and plots of RESULTS.md from the runs in ``results/*.json``: ``python -m hero_core results``.

The words of RESULTS.md are written by hand; this fills its marked blocks.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import HeroError
from ..files import read_json
from .methods import METHODS
from .run import RunSettings

T_95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
"""Two-sided 95 % quantiles of Student's t by degrees of freedom; above 9 the normal's is near enough."""

Row = dict[str, Any]


@dataclass(frozen=True)
class BenchRun:
    """One run as the JSON has it."""

    settings: dict[str, Any]
    rows: list[Row]

    @property
    def task(self) -> str:
        return str(self.settings["task"])

    @property
    def label(self) -> str:
        """The method, and every setting in which the run differs from the method's defaults."""
        return " ".join([self.settings["method"], *(f"{name}={value}" for name, value in self.changed.items())])

    @property
    def changed(self) -> dict[str, Any]:
        """Settings that are not the defaults, as ``part.name``; task, method and seed left out."""
        usual = _flat(RunSettings(method=self.settings["method"]).to_json())
        mine = _flat(self.settings)
        kept = ("task", "method", "seed", "rounds", "fresh_rounds", "fresh_pictures", "maps")
        return {k: v for k, v in mine.items() if usual.get(k) != v and k not in kept}

    def curve(self, key: str) -> dict[int, float]:
        """``key`` by rounds learned; pictures from the mixture stand at the rounds learned before they were drawn."""
        shift = 1 if key.endswith("_mixture") else 0
        return {row["round"] - shift: row[key] for row in self.rows if key in row}

    def marks_to(self, share: float, key: str) -> float:
        """Marks spent before ``key`` first reached ``share``; infinite where it never did."""
        per_round = [row.get("marks", 0) for row in self.rows]
        reached = [learned for learned, value in self.curve(key).items() if value >= share]
        return sum(per_round[: min(reached) + 1]) if reached else math.inf


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval over seeds in per cent; one value stands alone."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.0%} (1 seed)"
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    half = T_95.get(len(values) - 1, 1.96) * deviation / math.sqrt(len(values))
    return f"{100 * mean:.0f} ± {100 * half:.0f} %"


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


def success_table(runs: list[BenchRun], key: str) -> str:
    """``key`` after the last round, per label and task."""
    tasks = sorted({run.task for run in runs}, key=lambda task: [r.task for r in runs].index(task))
    rows = []
    for label, group in by_label(runs).items():
        cells = []
        for task in tasks:
            values = [last(run, key) for run in group if run.task == task]
            cells.append(interval(values) if values else "not run")
        rows.append([label, *cells])
    return table(["method", *tasks], rows)


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
            for share in (0.5, 0.75):
                found = sorted(run.marks_to(share, key) for run in group)
                middle, reached = found[(len(found) - 1) // 2], sum(map(math.isfinite, found))
                cells.append(f"{'–' if math.isinf(middle) else f'{middle:.0f}'} ({reached} of {len(found)})")
        rows.append([label, *cells])
    return table(["method", "mixture 50 %", "mixture 75 %", "fresh 50 %", "fresh 75 %"], rows)


def side_table(runs: list[BenchRun]) -> str:
    """What success does not tell, by label: means over tasks and seeds."""
    rows = []
    for label, group in by_label(runs).items():
        base = [run.rows[0]["diversity_fresh"] for run in group]
        fresh = [last(run, "diversity_fresh") for run in group]
        mixture = [run.rows[-1]["diversity_mixture"] for run in group]
        rows.append([
            label,
            f"{mean(f / b for f, b in zip(fresh, base, strict=True)):.2f}",
            f"{mean(m / b for m, b in zip(mixture, base, strict=True)):.2f}",
            _mean_of(group, "heldout_auc", "{:.2f}"),
            _mean_of(group, "kl_to_base", "{:.1e}", of=lambda values: values[-1]),
            _mean_of(group, "ratio_error", "{:.0e}", of=max),
            _mean_of(group, "clip_fraction", "{:.0%}"),
            f"{mean(sum(row['seconds'].values()) for run in group for row in run.rows[1:] if 'seconds' in row):.0f}",
        ])  # fmt: skip
    head = ["method", "diversity fresh", "diversity mixture", "held-out AUC", "KL", "max ratio error", "clipped", "s"]
    return table(head, rows)


def mean(values: Iterable[float]) -> float:
    """The mean."""
    found = list(values)
    return sum(found) / len(found)


def _mean_of(group: list[BenchRun], key: str, form: str, of: Callable[[list[float]], float] = mean) -> str:
    found = [[row[key] for row in run.rows if row.get(key) is not None and row[key] == row[key]] for run in group]
    values = [of(one) for one in found if one]
    return form.format(mean(values)) if values else "–"


def curves(runs: list[BenchRun], path: Path) -> None:
    """Success over rounds from the mixture and from fresh noise: one line a label, the mean over tasks and seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    for axes, key, title in zip(
        figure.subplots(1, 2, sharey=True), ("success_mixture", "success_fresh"),
        ("the rounds' own pictures", "from fresh noise: the LoRA alone"), strict=True,
    ):  # fmt: skip
        for label, group in by_label(runs).items():
            points = defaultdict(list)
            for run in group:
                for learned, value in run.curve(key).items():
                    points[learned].append(value)
            axes.plot(list(points), [mean(values) for values in points.values()], marker="o", ms=3, label=label)
        axes.set(xlabel="rounds learned", ylim=(0, 1), title=title)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("share of good pictures")
    figure.legend(*figure.axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)


def maps(run: BenchRun, path: Path) -> None:
    """Where E puts the pictures of each round, one panel a round: goods green, bads red, unrated grey."""
    from matplotlib.figure import Figure

    rows = [row for row in run.rows if "map" in row]
    figure = Figure(figsize=(2.2 * len(rows), 2.5), layout="constrained")
    colours = {"good": "tab:green", "bad": "tab:red", "": "tab:gray"}
    for axes, row in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows, strict=True):
        axes.scatter(*zip(*row["map"], strict=True), c=[colours[label] for label in row["labels"]], s=8)
        axes.set(title=f"round {row['round']}", xticks=[], yticks=[])
    figure.savefig(path, dpi=100)


def fill(page: Path, folder: Path) -> None:
    """Fill the blocks of ``page``: ``<!-- FILE: KIND -->`` takes the runs of ``folder/FILE.json``.

    KIND is ``fresh``, ``mixture``, ``marks``, ``side``, ``curves`` or ``maps`` (of the first run that has them).
    """
    text = page.read_text(encoding="utf-8")

    def block(match: re.Match[str]) -> str:
        name, kind = match["name"], match["kind"]
        runs = [BenchRun(run["settings"], run["rows"]) for run in read_json(folder / f"{name}.json")["runs"]]
        return f"<!-- {name}: {kind} -->\n{_content(kind, name, runs, page)}\n<!-- end -->"

    pattern = r"<!-- (?P<name>[\w-]+): (?P<kind>\w+) -->\n.*?<!-- end -->"
    page.write_text(re.sub(pattern, block, text, flags=re.DOTALL), encoding="utf-8")


def _content(kind: str, name: str, runs: list[BenchRun], page: Path) -> str:
    if kind in ("fresh", "mixture"):
        return success_table(runs, f"success_{kind}")
    if kind == "marks":
        return marks_table(runs)
    if kind == "side":
        return side_table(runs)
    picture = page.parent / "results" / f"{name}_{kind}.png"
    if kind == "curves":
        curves(runs, picture)
        return f"![Success over the rounds](results/{picture.name})"
    if kind == "maps":
        maps(next(run for run in runs if run.settings.get("maps")), picture)
        return f"![The embedding over the rounds](results/{picture.name})"
    raise HeroError(f"RESULTS.md asks for {kind!r}; it can be fresh, mixture, marks, side, curves or maps.")
