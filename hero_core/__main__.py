# SPDX-License-Identifier: Apache-2.0
"""``python -m hero_core``: the demo on the tiny model (``demo``), the same with a person as the rater (``rate``),
measured over methods, tasks and seeds (``bench``), or timed by update rule (``cost``), or on a card (``gpu``)."""

from __future__ import annotations

import argparse
import logging
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from .bench.command import add_options
from .bench.methods import METHODS
from .bench.run import RunSettings
from .errors import DiskRefused, HeroError
from .rollout import DRAWN, SamplingSettings
from .tiny.model import KINDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; every refusal is a sentence on stderr and exit status 1."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["gpu"]:
        return _gpu(words[1:])
    options = _parser().parse_args(words)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    console = Console()
    try:
        options.command(options, console)
    except (HeroError, DiskRefused) as error:
        Console(stderr=True).print(str(error), style="red", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped. Run the same command again to go on from here.")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hero_core", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    demo = commands.add_parser("demo", help="the whole loop on the tiny model with a simulated rater")
    demo.set_defaults(command=_demo)
    rate = commands.add_parser("rate", help="the same loop with you as the rater, at a page in the browser")
    rate.set_defaults(command=_rate)
    rate.add_argument("--port", type=int, default=8189)
    bench = commands.add_parser("bench", help="measure methods against simulated raters on the tiny model")
    bench.set_defaults(command=_bench)
    add_options(bench)
    cost = commands.add_parser("cost", help="seconds and memory of each update rule on one round, side by side")
    cost.set_defaults(command=_cost)
    cost.add_argument("--pictures", type=int, default=64)
    cost.add_argument("--repeats", type=int, default=3)
    cost.add_argument("--json", type=Path, required=True)
    commands.add_parser("gpu", help="as `python start.py gpu`: real models on this card")
    results = commands.add_parser("results", help="fill the figures, tables and plots of the pages about results")
    results.set_defaults(command=_results)
    results.add_argument("pages", type=Path, nargs="*", help="pages to fill, by default all of this clone")
    methods = [name for name, one in METHODS.items() if not one.trap]
    for command, folder, rounds in ((demo, "hero-demo", 6), (rate, "hero-rate", 8)):
        command.add_argument("--out", type=Path, default=Path(folder), help="folder for everything that is written")
        command.add_argument("--task", default="colour", help="colour, place, reflection, frame, count or not_this")
        command.add_argument("--method", default="hero", choices=methods, metavar="METHOD", help=", ".join(methods))
        command.add_argument("--model", default="unet", choices=KINDS, help="the kind of the tiny model: %(choices)s")
        command.add_argument("--rounds", type=int, default=rounds)
        command.add_argument("--pictures", type=int, default=64, help="pictures a round")
        command.add_argument("--steps", type=int, default=20, help="sampling steps")
        command.add_argument("--seed", type=int, default=0)
    return parser


def _settings(options: argparse.Namespace) -> RunSettings:
    return RunSettings(
        task=options.task, method=options.method, rounds=options.rounds, pictures=options.pictures, seed=options.seed,
        model=options.model, sampling=SamplingSettings(steps=options.steps, micro_batch=DRAWN), fresh_pictures=48,
        fresh_rounds=tuple(range(options.rounds + 1)),
    )  # fmt: skip


def _demo(options: argparse.Namespace, console: Console) -> None:
    from .demo import free_folder, run_demo
    from .terminal import Table, Watcher

    settings = _settings(options)
    out = free_folder(options.out, settings).resolve()
    with Watcher(console) as watcher:
        table = Table(console)
        lora = run_demo(settings, out, watcher, table.add)
    console.print(f"\n[bold]Pictures[/]  {out / 'before.png'}\n          {out / 'after_mixture.png'}")
    console.print(f"          {out / 'after_fresh.png'}\n[bold]Curve[/]     {out / 'curve.png'}")
    console.print(f"[bold]LoRA[/]      {lora or 'none: no round had anything to learn from'}")
    console.print("[bold]Next[/]      python start.py rate          be the rater yourself")
    console.print("          python start.py comfyui       the same loop as nodes in ComfyUI")
    if settings.method == "hero":
        console.print("          python start.py --method nft  a LoRA that draws such pictures from fresh noise, too")


def _bench(options: argparse.Namespace, console: Console) -> None:
    from .bench.command import run

    run(options, console)


def _cost(options: argparse.Namespace, console: Console) -> None:
    from .bench.cost import command

    command(options.json, options.pictures, options.repeats, console)


def _gpu(words: Sequence[str]) -> int:
    # The models are a host's, of which nothing here knows: the clone's own start.py finds one.
    return int(runpy.run_path(str(Path(__file__).parents[1] / "start.py"))["main"](["gpu", *words]))


def _results(options: argparse.Namespace, console: Console) -> None:
    from .bench.pages import RESULTS, fill, pages

    for page in options.pages or pages():
        beside = page.parent / "results"
        changed = fill(page, beside if beside.is_dir() else RESULTS)
        console.print(f"{page}: {'filled anew' if changed else 'as it was'}")


def _rate(options: argparse.Namespace, console: Console) -> None:
    from .bench.run import Run
    from .demo import human
    from .rating.app import serving
    from .terminal import Watcher

    with Watcher(console) as watcher:
        run = Run(_settings(options), options.out.resolve(), watcher, "demo")
        with serving(run.store, port=options.port) as address:
            console.print(f"Rate the pictures at [bold]{address}[/]   (Ctrl+C stops; nothing is lost)")
            while run.session.saved_round < options.rounds:
                row = run.round(human(watcher))
                shown = f"saved as {run.store.lora_dir / row['lora']}" if row["lora"] else row["skip"]
                console.print(f"Round {row['round']}: {row['good']:.0f} good, {row['bad']:.0f} bad; {shown}")
    console.print("All rounds are done.")


if __name__ == "__main__":
    sys.exit(main())
