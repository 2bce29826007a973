# SPDX-License-Identifier: Apache-2.0
"""Every figure, table and plot of the pages about results: ``python -m hero_core results``.

Words are written by hand. What comes from a run stands between two comments that no reader sees, and is filled in here:

``<!-- FILE: KIND -->`` … ``<!-- end -->`` holds a table or plot of the runs in ``FILE.json``. KIND is one of
:data:`.tables.TABLES` or :data:`PLOTS`, or ``cost`` for a file of :mod:`.cost`. ``FILE+OTHER: KIND 4 METHOD TASK TASK``
takes the runs of several files, their first 4 rounds, and some methods and tasks alone.
``<!-- which -->`` … ``<!-- end -->`` holds the table of :func:`.figures.which_table`.
``<!--=WHAT-->82 ± 13 %<!--/-->`` holds one figure, as :meth:`.figures.Figures.figure` reads WHAT.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from ..errors import HeroError
from ..store.files import read_json
from ..tiny.tasks import TASKS
from . import cost
from .figures import Figures, which_table
from .methods import METHODS
from .plots import curves, maps
from .records import BenchRun, load
from .tables import TABLES

RESULTS = Path(__file__).parent / "results"

BLOCK = re.compile(r"<!-- (?P<files>[\w+-]+): (?P<what>[\w ]+) -->\n.*?<!-- end -->", re.DOTALL)
WHICH = re.compile(r"<!-- which -->\n.*?<!-- end -->", re.DOTALL)
FIGURE = re.compile(r"<!--=(?P<what>[^>]+?)-->[^<]{0,40}<!--/-->")

PLOTS: dict[str, tuple[str, Callable[[list[BenchRun], Path], None]]] = {
    "curves": ("Success over the rounds", curves),
    "maps": ("The embedding over the rounds", maps),
}


def pages() -> list[Path]:
    """The pages of a clone that hold results."""
    root = RESULTS.parents[2]
    found = [root / "README.md", root / "CONTRIBUTING.md", RESULTS.parent / "RESULTS.md", *sorted(RESULTS.glob("*.md"))]
    return [page for page in found if page.is_file()]


def fill(page: Path, folder: Path = RESULTS) -> bool:
    """Fill ``page`` from the runs in ``folder`` and draw its plots; says whether its text changed."""
    before = page.read_text(encoding="utf-8")
    after = filled(before, page, folder)
    page.write_text(after, encoding="utf-8")
    return after != before


def filled(text: str, page: Path, folder: Path = RESULTS, draw: bool = True) -> str:
    """``text`` of ``page`` with its blocks and figures as the runs in ``folder`` have them."""

    def block(match: re.Match[str]) -> str:
        content = _block(match["files"].split("+"), match["what"], page, folder, draw)
        return f"<!-- {match['files']}: {match['what']} -->\n{content}\n<!-- end -->"

    text = BLOCK.sub(block, text)
    if not WHICH.search(text) and not FIGURE.search(text):
        return text
    figures = Figures.of(folder)
    text = WHICH.sub(lambda match: f"<!-- which -->\n{which_table(figures)}\n<!-- end -->", text)
    return FIGURE.sub(lambda match: f"<!--={match['what']}-->{figures.figure(match['what'])}<!--/-->", text)


def _block(files: list[str], what: str, page: Path, folder: Path, draw: bool) -> str:
    kind, *words = what.split()
    rounds = next((int(word) for word in words if word.isdigit()), None)
    tasks = [word for word in words if word in TASKS]
    methods = [word for word in words if word in METHODS]
    if unknown := set(words) - {str(rounds), *tasks, *methods}:
        raise HeroError(f"{page.name} asks {kind} for {', '.join(sorted(unknown))}: neither a task nor a method.")
    paths = [folder / f"{name}.json" for name in files]
    if kind == "cost":
        return cost.table(read_json(paths[0]))
    runs = [run for run in load(*paths) if not tasks or run.task in tasks]
    runs = [run for run in runs if not methods or run.settings["method"] in methods]
    runs = runs if rounds is None else [run.until(rounds) for run in runs]
    if kind in TABLES:
        return TABLES[kind](runs)
    if kind not in PLOTS:
        raise HeroError(f"{page.name} asks for {kind!r}; it can be {', '.join([*TABLES, *PLOTS])}.")
    title, plot = PLOTS[kind]
    picture = folder / f"{'_'.join(['+'.join(files), kind, *tasks])}.png"
    if draw:
        plot(runs, picture)
    return f"![{title}]({Path(os.path.relpath(picture, page.parent)).as_posix()})"
