"""Plots of results, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


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
