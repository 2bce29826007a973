# SPDX-License-Identifier: Apache-2.0
"""Plots of results, with matplotlib."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean as mean
from typing import Any

from .records import BenchRun
from .tables import by_label


def curve_of_success(rows: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Success over the rounds, from the mixture and from fresh noise, as a picture at ``path``.

    A mixture point stands at the rounds learned before its pictures were drawn, like the fresh point beside it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for key, shift, label in (
        ("success_mixture", -1, "drawn from the mixture (what is rated)"),
        ("success_fresh", 0, "drawn from fresh noise (the LoRA alone)"),
    ):
        points = [(row["round"] + shift, row[key]) for row in rows if key in row]
        axes.plot(*zip(*points, strict=True), marker="o", label=label)
    axes.set(xlabel="rounds learned", ylabel="share of good pictures", ylim=(0, 1), title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


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
