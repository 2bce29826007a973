"""Tables and plots of RESULTS.md from the runs in ``results/*.json``: ``python -m hero_core results``.

The words of RESULTS.md are written by hand; this fills its marked blocks.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean as mean
from statistics import median_low, stdev
from typing import Any

from ..errors import HeroError
from ..files import read_json
from ..tiny.tasks import TASKS
from . import cost
from .methods import METHODS
from .run import RunSettings
from .use import UNRELATED

T_95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
"""Two-sided 95 % quantiles of Student's t by degrees of freedom; above 9 the normal's is near enough."""

SHARES = (0.5, 0.75, 0.9)
"""The shares of good pictures whose price in marks is told."""

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
        kept = ("task", "method", "seed", "rounds", "fresh_rounds", "fresh_pictures", "maps", "use")
        return {k: v for k, v in mine.items() if usual.get(k) != v and k not in kept}

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


def load(*paths: Path) -> list[BenchRun]:
    """The runs of results files; :class:`HeroError` where two differ in nothing that the tables tell apart."""
    runs = [BenchRun(run["settings"], run["rows"]) for path in paths for run in read_json(path)["runs"]]
    seen = Counter((run.label, run.task, run.settings["seed"]) for run in runs)
    for (label, task, seed), times in seen.items():
        if times > 1:
            where = " and ".join(path.name for path in paths)
            raise HeroError(
                f"{where}: {label} on {task} with seed {seed} is there {times} times (other numbers of rounds?): the "
                "tables would count one seed as several. Keep one of them."
            )
    return runs


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


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
        found: dict[str, dict[int, float]] = {task: {} for task in tasks}
        for run in group:
            found[run.task][run.settings["seed"]] = last(run, key)
        cells = [list(values.values()) for values in found.values()]
        if len(tasks) > 1:
            seeds = set.intersection(*(set(values) for values in found.values()))
            cells.append([mean(values[seed] for values in found.values()) for seed in sorted(seeds)])
        rows.append([label, *(interval(values) if values else "not run" for values in cells)])
    return table(["method", *tasks, *(["mean"] if len(tasks) > 1 else [])], rows)


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
            mine, theirs = (
                {run.settings["seed"]: run for run in groups[name] if run.task == task} for name in (first, label)
            )
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
            _against_base(group, "entropy_fresh", "entropy_fresh"),
            _against_base(group, "diversity_fresh", "diversity_fresh"),
            _against_base(group, "diversity_mixture", "diversity_fresh"),
            _mean_of(group, "heldout_auc", "{:.2f}"),
            _mean_of(group, "critic_r2", "{:.2f}"),
            _mean_of(group, "kl_to_base", "{:.1e}", of=lambda values: values[-1]),
            _mean_of(group, "ratio_error", "{:.0e}", of=max),
            _mean_of(group, "clip_fraction", "{:.0%}"),
            f"{mean(sum(row['seconds'].values()) for run in group for row in run.rows[1:] if 'seconds' in row):.0f}",
        ])  # fmt: skip
    head = "method|variety fresh|spread fresh|spread own|held-out AUC|critic R²|KL|max ratio error|clipped|s a round"
    return table(head.split("|"), rows)


def _against_base(group: list[BenchRun], key: str, base_key: str) -> str:
    """The last value of ``key`` over the base model's ``base_key``, both summed over the runs that have them."""
    pairs = [(last(run, key), run.rows[0][base_key]) for run in group if base_key in run.rows[0] and run.curve(key)]
    return f"{sum(now for now, _ in pairs) / sum(base for _, base in pairs):.2f}" if pairs else "–"


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


def maps(runs: list[BenchRun], path: Path) -> None:
    """Where E put the pictures of each round of the first run that kept it: goods green, bads red, unrated grey."""
    from matplotlib.figure import Figure

    rows = next([row for row in run.rows if "map" in row] for run in runs if run.settings.get("maps"))
    across = min(4, len(rows))
    down = math.ceil(len(rows) / across)
    figure = Figure(figsize=(2.2 * across, 2.4 * down), layout="constrained")
    colours = {"good": "tab:green", "bad": "tab:red", "": "tab:gray"}
    panels = figure.subplots(down, across, squeeze=False).flat
    for axes in panels[len(rows) :]:
        axes.remove()
    for axes, row in zip(panels, rows, strict=False):
        axes.scatter(*zip(*row["map"], strict=True), c=[colours[label] for label in row["labels"]], s=8)
        axes.set(title=f"round {row['round']}", xticks=[], yticks=[])
    figure.savefig(path, dpi=100)


TABLES: dict[str, Callable[[list[BenchRun]], str]] = {
    "fresh": lambda runs: success_table(runs, "success_fresh"),
    "mixture": lambda runs: success_table(runs, "success_mixture"),
    "marks": marks_table,
    "ratio": lambda runs: ratio_table(runs, "success_mixture"),
    "ratio_fresh": lambda runs: ratio_table(runs, "success_fresh"),
    "side": side_table,
    "use": use_table,
}
PLOTS: dict[str, tuple[str, Callable[[list[BenchRun], Path], None]]] = {
    "curves": ("Success over the rounds", curves),
    "maps": ("The embedding over the rounds", maps),
}


def fill(page: Path, folder: Path) -> None:
    """Fill the blocks of ``page``: ``<!-- FILE: KIND -->`` takes the runs of ``folder/FILE.json``.

    KIND is one of :data:`TABLES` or :data:`PLOTS`, or ``cost`` for a file of :mod:`.cost`. ``FILE+OTHER: KIND 4 METHOD
    TASK TASK`` takes the runs of several files, their first 4 rounds, and some methods and tasks alone.
    """
    text = page.read_text(encoding="utf-8")

    def block(match: re.Match[str]) -> str:
        kind, *words = match["what"].split()
        rounds = next((int(word) for word in words if word.isdigit()), None)
        tasks = [word for word in words if word in TASKS]
        methods = [word for word in words if word in METHODS]
        if unknown := set(words) - {str(rounds), *tasks, *methods}:
            raise HeroError(f"RESULTS.md asks {kind} for {', '.join(sorted(unknown))}: neither a task nor a method.")
        files = [folder / f"{name}.json" for name in match["files"].split("+")]
        if kind == "cost":
            content = cost.table(read_json(files[0]))
        else:
            runs = load(*files)
            runs = [run for run in runs if not tasks or run.task in tasks]
            runs = [run for run in runs if not methods or run.settings["method"] in methods]
            runs = runs if rounds is None else [run.until(rounds) for run in runs]
            content = _content(kind, runs, folder / f"{'_'.join([match['files'], kind, *tasks])}.png")
        return f"<!-- {match['files']}: {match['what']} -->\n{content}\n<!-- end -->"

    pattern = r"<!-- (?P<files>[\w+-]+): (?P<what>[\w ]+) -->\n.*?<!-- end -->"
    page.write_text(re.sub(pattern, block, text, flags=re.DOTALL), encoding="utf-8")


def _content(kind: str, runs: list[BenchRun], picture: Path) -> str:
    if kind in TABLES:
        return TABLES[kind](runs)
    if kind not in PLOTS:
        raise HeroError(f"RESULTS.md asks for {kind!r}; it can be {', '.join([*TABLES, *PLOTS])}.")
    title, plot = PLOTS[kind]
    plot(runs, picture)
    return f"![{title}]({picture.parent.name}/{picture.name})"
