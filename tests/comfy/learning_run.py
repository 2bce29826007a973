# SPDX-License-Identifier: Apache-2.0
"""A whole session in a real ComfyUI, driven over HTTP by a simulated rater: does it learn, and does the file carry it?

    python -m tests.comfy.learning_run --json run.json

Prints a table: success of each round's own pictures (drawn from the mixture), and of fresh noise through the stock
LoraLoader and KSampler with the LoRA saved so far. At the end, the same seeds through the session's own MODEL output.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from hero_core.tiny.tasks import TASKS, Task
from tests.comfy.graphs import Judge, changed, look, loop, rate, stock
from tests.comfy.host import Server, checkouts, install


def judge_of(task: Task) -> Judge:
    """The task's judge over pictures as HTTP gives them, ``(n, H, W, 3)`` uint8."""

    def judge(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        verdict = task.judge(torch.from_numpy(pictures.astype(np.float32) / 255).movedim(-1, 1))
        return np.asarray(verdict.good), np.asarray(verdict.quality)

    return judge


def interval(share: float, n: int) -> float:
    """Half of a 95 % interval of a share."""
    return 1.96 * math.sqrt(max(share * (1 - share), 1e-9) / n)


class Run:
    """One session and what was measured of it."""

    def __init__(self, server: Server, options: argparse.Namespace) -> None:
        self.server, self.options, self.task = server, options, TASKS[options.task]
        self.judge, self.name = judge_of(self.task), f"{options.task}_{options.seed}"
        self.graph = loop(
            self.name, n=options.pictures, steps=options.steps, micro_batch=options.micro_batch, embedding_steps=500,
            prompt=self.task.prompt, negative=self.task.negative, scored_steps=5,
        )  # fmt: skip
        self.graph = changed(self.graph, "update", batch=8)
        self.graph = changed(self.graph, "session", seed=options.seed)
        self.graph["sampler"]["inputs"]["scored_steps"] = 5

    def fresh(self, n: int, lora: str | None, first_seed: int = 1000) -> tuple[float, list[bool]]:
        """Success of stock sampling from fresh noise; 50 pictures a seed."""
        good: list[bool] = []
        for number in range(0, n, 50):
            graph = stock(
                n=min(50, n - number), steps=self.options.steps, seed=first_seed + number, lora=lora,
                prompt=self.task.prompt,
            )  # fmt: skip
            good += self.judge(self.server.pictures(self.server.run(graph), "preview"))[0].tolist()
        return float(np.mean(good)), good

    def own_model(self, n: int, first_seed: int = 1000) -> tuple[float, list[bool]]:
        """The same through the MODEL output of HERO Sampler."""
        good: list[bool] = []
        for number in range(0, n, 50):
            graph = stock(
                n=min(50, n - number), steps=self.options.steps, seed=first_seed + number, prompt=self.task.prompt
            )
            graph = {**{key: node for key, node in self.graph.items() if key in ("session", "sampler")}, **graph}
            graph["hero"] = changed(self.graph, "sampler", latent=["many", 0])["sampler"]
            graph["many"] = self.graph["latent"]
            graph = changed(graph, "sampler", model=["hero", 2])
            good += self.judge(self.server.pictures(self.server.run(graph), "preview"))[0].tolist()
        return float(np.mean(good)), good

    def round(self, number: int) -> dict[str, Any]:
        """Draw, rate, learn, save; success and seconds."""
        round_id = f"{self.name}.{number:04d}"
        began = time.monotonic()
        self.server.run(self.graph, timeout=900)
        drawn = time.monotonic()
        good = self.judge(look(self.server, round_id))[0]
        rate(self.server, round_id, self.judge)
        rated = time.monotonic()
        entry = self.server.run(self.graph, timeout=900)
        assert entry["outputs"]["save"]["hero_saved"] == [round_id]
        seconds = (drawn - began) + (time.monotonic() - rated)
        history = json.loads((self.server.base / "output/hero" / self.name / "session.json").read_text())["history"]
        kept = ("ratio_error", "kl_to_base", "heldout_auc", "auc", "clip_fraction", "skip")
        return {
            "round": number, "success_mixture": float(good.mean()), "seconds": seconds,
            **{key: history[-1].get(key) for key in kept},
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--task", default="colour", choices=TASKS)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", type=int, default=50, help="fresh-noise pictures after every round")
    parser.add_argument("--final", type=int, default=200, help="fresh-noise pictures at the end, file against socket")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = checkouts()
    if not found:
        parser.error("no ComfyUI was found: set COMFYUI_PATH")
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder))
        server = Server(found[0], Path(folder))
        try:
            result = measure(Run(server.start(), options))
        finally:
            server.stop()
    result["comfyui"], result["options"] = found[0].version, {**vars(options), "json": str(options.json)}
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    show(result)


def measure(run: Run) -> dict[str, Any]:
    """All rounds, then the file against the session's own MODEL."""
    options, console = run.options, Console(stderr=True)
    base, _ = run.fresh(options.final, None)
    console.print(f"base model: {base:.1%} of {options.final} from fresh noise")
    rounds = []
    for number in range(1, options.rounds + 1):
        entry = run.round(number)
        if options.fresh:
            entry["success_fresh"] = run.fresh(options.fresh, f"hero/{run.name}_r{number:04d}.safetensors")[0]
        rounds.append(entry)
        console.print(entry)
    by_file, marks_file = run.fresh(options.final, f"hero/{run.name}_r{options.rounds:04d}.safetensors")
    by_model, marks_model = run.own_model(options.final)
    differing = sum(a != b for a, b in zip(marks_file, marks_model, strict=True))
    return {
        "base_fresh": base, "rounds": rounds, "final_file": by_file, "final_model": by_model,
        "final_pictures": options.final, "differing_verdicts": differing,
    }  # fmt: skip


def show(result: dict[str, Any]) -> None:
    """The table."""
    table = Table("round", "mixture", "fresh (file)", "ratio error", "KL to base", "held-out AUC", "seconds")
    for entry in result["rounds"]:
        fresh = f"{entry['success_fresh']:.0%}" if "success_fresh" in entry else ""
        shown = [entry[key] for key in ("ratio_error", "kl_to_base", "heldout_auc")]
        numbers = ["" if value is None else f"{value:.2g}" for value in shown]
        table.add_row(
            str(entry["round"]), f"{entry['success_mixture']:.0%}", fresh, *numbers, f"{entry['seconds']:.0f}"
        )
    console, n = Console(), result["final_pictures"]
    console.print(table)
    console.print(
        f"fresh noise, {n} pictures of the same seeds: base {result['base_fresh']:.1%}, LoRA file "
        f"{result['final_file']:.1%} +- {interval(result['final_file'], n):.1%}, session's MODEL "
        f"{result['final_model']:.1%}; verdicts that differ: {result['differing_verdicts']}"
    )


if __name__ == "__main__":
    main()
