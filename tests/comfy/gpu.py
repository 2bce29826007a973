# SPDX-License-Identifier: Apache-2.0
"""Seconds and memory of real models on whatever card there is, with drawn weights: ``python start.py gpu``.

``python gpu.py CHECKOUT PACK [--out FILE.json] [--miniature] [--only NAME …]``. The file is written again
after each model, so that nothing is lost where one ends the program.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any


def options(arguments: list[str]) -> argparse.Namespace:
    what = "Seconds and memory of real models, with drawn weights, on this card: a JSON and a table beside it."
    parser = argparse.ArgumentParser(prog="start.py gpu", description=what)
    parser.add_argument("checkout", help=argparse.SUPPRESS)
    parser.add_argument("pack", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("hero-gpu.json"), help="the JSON, here hero-gpu.json")
    parser.add_argument("--miniature", action="store_true", help="small ones, on the CPU too: a look at the program")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="families, such as SDXL")
    parser.add_argument("--pictures", type=int, default=4, help="pictures of a round")
    parser.add_argument("--steps", type=int, default=10, help="sampling steps")
    return parser.parse_args(arguments)


OPTIONS = options(sys.argv[1:])
sys.argv[1:] = [OPTIONS.checkout, OPTIONS.pack, str(OPTIONS.out)]

import torch  # noqa: E402

os.environ.setdefault("HERO_TEST_DEVICE", "any" if torch.accelerator.is_available() else "cpu")

import inside  # noqa: E402 - it boots the host, so that comes first

# isort: split
import comfy.model_management  # noqa: E402
import psutil  # noqa: E402
import real  # noqa: E402
from families import draw_weights  # noqa: E402
from inside import core_lora, feedback, host, part, policy_module  # noqa: E402

memory, room = part("nodes.comfy_memory"), part("hero_core.memory")
d3po, score_action = part("hero_core.update.d3po"), part("hero_core.update.score_action")
RULES = part("hero_core.update").RULES
GB = 1 << 30
K = 2


class Meter:
    """Seconds, and the most memory beside what was there, of the inside of a run; on a CPU what lived in it."""

    def __init__(self, policy: Any) -> None:
        self.policy, self.run = policy, policy.run
        device = policy.model.load_device
        self.card = None if device.type == "cpu" else torch.get_device_module(device)
        self.seconds, self.peak = 0.0, None
        policy.run = self

    def __call__(self, body: Callable, **how: Any) -> Any:
        return self.run(lambda actor: self._watched(body, actor), **how)

    def _watched(self, body: Callable, actor: Any) -> Any:
        lora, root = list(actor.lora.parameters().values()), actor.model.diffusion_model
        own = sum(one.numel() * 4 for one in lora)
        if self.card is None:
            living = memory._Living([*root.parameters(), *root.buffers(), *lora], float("inf"))
            began = time.perf_counter()
            with living:
                result = body(actor)
            self.peak = living.peak + own
        else:
            self.card.synchronize()
            there = self.card.memory_allocated() if hasattr(self.card, "memory_allocated") else None
            if there is not None:
                self.card.reset_peak_memory_stats()
            began, result = time.perf_counter(), body(actor)
            self.card.synchronize()
            self.peak = None if there is None else self.card.max_memory_allocated() - there + own
        self.seconds = time.perf_counter() - began
        return result


def made(one: real.Real) -> Any:
    """The policy of a model with drawn weights; raises :class:`HeroError` where main memory does not hold them."""
    needed = one.model(miniature=OPTIONS.miniature).model_size()
    if needed * 1.1 > psutil.virtual_memory().available:
        raise inside.HeroError(f"Its weights take {needed / GB:.1f} GB of main memory, and that is not free.")
    device = comfy.model_management.get_torch_device()
    model = one.model("cpu", device, miniature=OPTIONS.miniature)
    draw_weights(model.model.diffusion_model, 0, device)
    texts = [one.text(seed, miniature=OPTIONS.miniature) for seed in (1, 2)]
    return policy_module.ComfyPolicy(model, *texts, one.latent(miniature=OPTIONS.miniature))


def settings_of_rules() -> dict[str, Any]:
    few = {"batch": OPTIONS.pictures, "scored_steps": K}
    return {
        "DDPO": inside.ddpo.DDPOSettings(**few),
        "D3PO": d3po.D3POSettings(**few),
        "Score as action": score_action.ScoreActionSettings(critic_steps=10, min_r2=-1e9, **few),
        "NFT": inside.nft.NFTSettings(steps=K, batch=OPTIONS.pictures),
    }


def measured(policy: Any, meter: Meter, work: Any, config: Any, go: Callable[[int], Any]) -> tuple[dict[str, Any], Any]:
    """``go(rows)`` with as many rows as the pack chooses, its estimate beside what was measured; and what it gave."""
    choice = memory.chosen(policy, work, config, OPTIONS.pictures)
    if choice is not None and not choice.fits:
        return {"skipped": room.sentence(choice, min(policy.latent_shape[1:]) * policy.scale)}, None
    rows = choice.rows if choice else OPTIONS.pictures
    recompute = bool(work.grad and policy.recompute)
    peak = memory.peak_of(policy, work, config, recompute=recompute)
    result = go(rows)
    return {
        "rows": rows, "recompute": recompute, "seconds": meter.seconds,
        "estimate_GB": peak and (peak.fixed + rows * peak.row) / GB,
        "measured_GB": meter.peak and meter.peak / GB,
    }, result  # fmt: skip


def times(one: real.Real) -> dict[str, Any]:
    """Drawing, and then each update, of a model; what goes wrong is written in its place."""
    policy = made(one)
    meter, config, n = Meter(policy), core_lora.LoRAConfig(), OPTIONS.pictures
    lora = inside.trained(policy)
    # All steps are recorded, so that pairs of pictures have some in common; updates take K of each picture.
    steps = {"steps": OPTIONS.steps, "scored_steps": OPTIONS.steps}
    settings = inside.rollout.SamplingSettings(**steps, cfg=one.cfg, scheduler="simple")
    z_T = inside.seeding.randn(policy.latent_shape, inside.seeding.picture_generators(n, "z_T"))

    def draw(rows: int) -> Any:
        drawn = replace(settings, micro_batch=rows)
        return inside.rollout.sample(policy, lora, z_T, torch.full((n,), -1), drawn, seed=3, round=1)

    found: dict[str, Any] = {"weights_GB": policy.model.model_size() / GB}
    found["drawing"], round = measured(policy, meter, memory.Work(one.cfg, False), config, draw)
    if round is None:
        return found
    marks = {number: "good" if number % 2 == 0 else "bad" for number in range(n)}
    reward = inside.reward.Reward(torch.tensor([1.0, 0.0] * n)[:n], feedback.Feedback(n, marks, 0))
    for name, rule in settings_of_rules().items():
        work = memory.Work(one.cfg, True, guided=rule.guided, held=rule.held)

        def learn(rows: int, rule: Any = rule) -> Any:
            return RULES[type(rule)](policy, lora, round, reward, replace(rule, micro_batch=rows), seed=0)

        found[name] = guarded(lambda work=work, learn=learn: measured(policy, meter, work, config, learn)[0])
    return found


def guarded(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return measure()
    except inside.HeroError as error:
        return {"skipped": str(error)}
    except Exception as error:
        logging.exception("not measured")
        return {"error": repr(error)[:500]}


def row(name: str, what: str, one: dict[str, Any]) -> str:
    """A line of the table."""
    if "seconds" not in one:
        return f"| {name} | {what} | {one.get('skipped') or one.get('error')} | | | | |\n"
    gigabytes = ("-" if one[key] is None else f"{one[key]:.3g}" for key in ("estimate_GB", "measured_GB"))
    cells = (name, what, one["rows"], "yes" if one["recompute"] else "no", f"{one['seconds']:.3g}", *gigabytes)
    return "| " + " | ".join(map(str, cells)) + " |\n"


def table(results: dict[str, Any]) -> str:
    """All results as Markdown."""
    heads = ("model", "what", "pictures at a time", "computed again", "seconds", "estimate, GB", "measured, GB")
    lines = "| " + " | ".join(heads) + " |\n" + "| --- " * len(heads) + "|\n"
    for name, found in results["models"].items():
        parts = {what: one for what, one in found.items() if isinstance(one, dict)} or {"": found}
        lines += "".join(row(name, what, one) for what, one in parts.items())
    return lines


def write(results: dict[str, Any]) -> None:
    """The JSON and beside it the table, each whole or as it was."""
    for path, text in ((OPTIONS.out, json.dumps(results, indent=1)), (OPTIONS.out.with_suffix(".md"), table(results))):
        beside = path.with_suffix(path.suffix + ".new")
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)


@torch.inference_mode()
def main() -> int:
    device = comfy.model_management.get_torch_device()
    if device.type == "cpu" and not OPTIONS.miniature:
        print("No GPU was found, and real models take hours on a CPU: --miniature runs small ones.", file=sys.stderr)
        return 1
    results: dict[str, Any] = {
        "card": comfy.model_management.get_torch_device_name(device), "torch": torch.__version__,
        "total_GB": comfy.model_management.get_total_memory(device) / GB, "miniature": OPTIONS.miniature,
        "pictures": OPTIONS.pictures, "steps": OPTIONS.steps, "scored_steps": K, "models": {},
    }  # fmt: skip
    for one in real.ON_A_GPU:
        title = f"{one.name} {one.stored}, miniature" if OPTIONS.miniature else one.title
        if (OPTIONS.only and one.name not in OPTIONS.only) or title in results["models"]:
            continue
        if one.family.known:
            with host.normal_mode():
                found = guarded(lambda one=one: times(one))
        else:
            found = {"skipped": "This ComfyUI does not have the family."}
        results["models"][title] = found
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()
        write(results)
        print(table({"models": {title: found}}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
