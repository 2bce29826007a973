# SPDX-License-Identifier: Apache-2.0
"""``python -m hero_core bench``: runs over tasks, methods, raters and seeds, side by side, into one JSON file."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import fields, replace
from itertools import product
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from ..embedding import EmbeddingSettings
from ..lora import LoRAConfig
from ..mixture import MixtureSettings
from ..rollout import DRAWN, SamplingSettings
from ..store.files import read_json, write_json
from ..tiny.model import KINDS
from .methods import METHODS
from .raters import RATERS
from .records import current
from .run import Run, RunSettings, complete

PARTS: dict[str, Any] = {
    "lora": LoRAConfig(),
    "sampling": SamplingSettings(steps=20, micro_batch=DRAWN),
    "embedding": EmbeddingSettings(),
    "mixture": MixtureSettings(),
}
"""The parts of a run whose settings are options, ``--<part>-<setting>``, with their defaults."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--task", nargs="+", default=["colour"], help="tasks of the tiny model, or a name for your own")
    parser.add_argument("--method", nargs="+", default=["hero"], help=", ".join(METHODS))
    parser.add_argument("--model", default="unet", choices=KINDS, help="the kind of the tiny model: %(choices)s")
    parser.add_argument("--rater", nargs="+", default=["perfect"], help=", ".join(RATERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="one run each")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--pictures", nargs="+", type=int, default=[64], help="pictures a round")
    parser.add_argument("--fresh-pictures", type=int, default=128, help="pictures from fresh noise a measurement")
    parser.add_argument("--fresh-rounds", nargs="+", type=int, default=[0, 1, 2, 4, 8])
    parser.add_argument("--prompt", default="", help="a task of your own, with --judge")
    parser.add_argument("--judge", default="", metavar="FILE.py:NAME", help="(n, 3, H, W) in [0, 1] -> good, quality")
    parser.add_argument("--maps", action="store_true", help="keep where E puts each picture of each round")
    parser.add_argument("--use", type=int, default=0, help="pictures in each of the ways people use a LoRA, at the end")
    parser.add_argument("--json", type=Path, required=True, help="the results; a run that is in there is not run again")
    parser.add_argument("--jobs", type=int, default=max(1, os.cpu_count() or 1), help="runs side by side, a core each")
    for part, defaults in PARTS.items():
        for one in fields(defaults):
            value = getattr(defaults, one.name)
            parser.add_argument(f"--{part}-{_dashed(one.name)}", default=value, **_reader(type(value)))
    for name, kind in _update_settings().items():
        help = "of the methods whose update has it"
        parser.add_argument(f"--update-{_dashed(name)}", default=None, help=help, **_reader(kind))


def _reader(kind: type) -> dict[str, Any]:
    """How an option reads a value; a truth value is ``--name`` or ``--no-name``."""
    return {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _update_settings() -> dict[str, type]:
    """Every setting of every method's update rule, with its type."""
    updates = [method.update for method in METHODS.values() if method.update]
    return {one.name: type(getattr(update, one.name)) for update in updates for one in fields(update)}


def all_settings(options: argparse.Namespace) -> list[RunSettings]:
    """The runs that the options ask for; an error names what does not exist."""
    parts = {
        part: replace(defaults, **{f.name: getattr(options, f"{part}_{f.name}") for f in fields(defaults)})
        for part, defaults in PARTS.items()
    }
    shared = {
        "rounds": options.rounds, "fresh_pictures": options.fresh_pictures, "prompt": options.prompt,
        "fresh_rounds": tuple(options.fresh_rounds), "judge": options.judge, "maps": options.maps, "use": options.use,
        "model": options.model,
    }  # fmt: skip
    given = {name: value for name in _update_settings() if (value := getattr(options, f"update_{name}")) is not None}
    grid = product(options.seeds, options.task, options.method, options.rater, options.pictures)
    return [
        RunSettings(task, method, rater, seed, pictures=pictures, update=_update(method, given), **shared, **parts)
        for seed, task, method, rater, pictures in grid
    ]


def _update(method: str, given: dict[str, Any]) -> Any:
    """The method's update with the given settings; settings that its rule does not have are not its own."""
    own = METHODS[method].update if method in METHODS else None
    if own is None:
        return None
    known = {one.name for one in fields(own)}
    return replace(own, **{name: value for name, value in given.items() if name in known})


def key(settings: dict[str, Any]) -> str:
    """A short name for a run, equal for equal settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
    return f"{settings['task']}-{settings['method']}-s{settings['seed']}-{digest}"


def run(options: argparse.Namespace, console: Console) -> None:
    """Run what is missing and write all results to ``options.json``."""
    wanted = {key(one.to_json()): one for one in all_settings(options)}
    work = options.json.with_suffix(".work").resolve()
    done = recorded(options.json)
    missing = {name: one for name, one in wanted.items() if name not in done}
    console.print(f"{len(wanted)} runs, {len(wanted) - len(missing)} of them done; results go to {options.json}")
    with _pool(options.jobs) as pool:
        futures = {name: pool.submit(work_on, one, work / name) for name, one in missing.items()}
        try:
            for name in _finished(futures, missing, work, console):
                done[name] = {**futures[name].result(), "finished": time.strftime("%Y-%m-%d")}
                write_json(options.json, {"runs": list(done.values())})
                shutil.rmtree(work / name)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list((pool._processes or {}).values()):
                process.terminate()  # nothing is lost: a stopped run goes on from its last saved round
            raise
    if {entry.name for entry in work.glob("*")} <= {"base"}:
        shutil.rmtree(work, ignore_errors=True)


def recorded(path: Path) -> dict[str, dict[str, Any]]:
    """The runs of a results file by :func:`key`, also those from before a setting had its name of today."""
    runs = read_json(path)["runs"] if path.is_file() else []
    return {key(current(run["settings"])): run for run in runs}


def _pool(jobs: int) -> ProcessPoolExecutor:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    return ProcessPoolExecutor(jobs, get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,))


def work_on(settings: RunSettings, folder: Path) -> dict[str, Any]:
    """One run in a process of its own; its record is in ``folder/result.json`` all the time."""
    record = folder / "result.json"
    run = Run(settings, folder, lambda part, round: _end_with_the_command)
    complete(run, record, lambda row: None, base=folder.parent / "base")
    return dict(read_json(record))


def _end_with_the_command(done: int, total: int, preview: Tensor | None = None) -> None:
    """Stop where the command was killed: nobody would take the result, and others need the cores."""
    parent = parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)


def _finished(
    futures: dict[str, Future[Any]], settings: dict[str, RunSettings], work: Path, console: Console
) -> Iterator[str]:
    """Names of runs as they end, with one bar over all rounds; what a run raised is raised."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    open_runs = dict(futures)
    with Progress(*columns, TimeRemainingColumn(), console=console) as bars:
        bar = bars.add_task("rounds", total=sum(one.rounds for one in settings.values()))
        while open_runs:
            ended = [name for name, future in open_runs.items() if future.done()]
            for name in ended:
                rows = open_runs.pop(name).result()["rows"]
                console.print(f"{name}: {_line(rows)}", highlight=False)
                yield name
            counts = [_rounds(work / name / "result.json") for name in open_runs]
            bars.update(bar, completed=sum(settings[n].rounds for n in futures if n not in open_runs) + sum(counts))
            time.sleep(0 if ended else 1)


def _rounds(record: Path) -> int:
    return max(0, len(read_json(record)["rows"]) - 1) if record.is_file() else 0


def _line(rows: list[dict[str, Any]]) -> str:
    fresh = [row["success_fresh"] for row in rows if "success_fresh" in row]
    mixture = [row["success_mixture"] for row in rows if "success_mixture" in row]
    return f"rounds {_shares(mixture)}; fresh {_shares(fresh)}"


def _shares(values: list[float]) -> str:
    return " ".join(f"{value:.0%}" for value in values)
