# SPDX-License-Identifier: Apache-2.0
"""Measure the untrained model: success per task from fresh noise, free attributes, and speed.

python -m hero_core.tiny.measure [--model flow] [--pictures 256] [--steps 20] [--cfg 5] [--grids FOLDER]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..transition import Transitions
from .judges import free_attributes
from .model import KINDS, TinyModel, load_tiny
from .tasks import TASKS


@torch.inference_mode()
def sample(
    model: TinyModel, prompt: str, n: int, generator: torch.Generator, steps: int = 20, cfg: float = 5.0, rows: int = 16
) -> Tensor:
    """``n`` latents by steps of eta 1 from fresh noise with guidance against the empty prompt."""
    levels = model.sigmas(steps)
    steps_taken = Transitions.of(levels, 1.0, model.flow)
    context = torch.cat([model.encode_prompt(prompt), model.encode_prompt("")])
    done = []
    for start in range(0, n, rows):
        m = min(rows, n - start)
        pair = context.repeat_interleave(m, dim=0)
        x = torch.randn(m, 4, 16, 16, generator=generator) * levels[0]
        for step, sigma in enumerate(levels[:-1]):
            wanted, free = model.denoise(x.repeat(2, 1, 1, 1), sigma, pair).chunk(2)
            mean = steps_taken.mean(x, free + cfg * (wanted - free), step)
            x = mean + steps_taken.s[step] * torch.randn(x.shape, generator=generator)
        done.append(x)
    return torch.cat(done)


def entropy(bins: np.ndarray) -> float:
    """Entropy of bin numbers in bits."""
    share = np.bincount(bins) / len(bins)
    return float(-(share[share > 0] * np.log2(share[share > 0])).sum())


def grid(pictures: Tensor, columns: int = 8) -> Image.Image:
    """Pictures ``(n, 3, H, W)`` side by side, ``columns`` a row; an unfinished row is filled with white."""
    missing = -len(pictures) % columns
    full = torch.cat([pictures, torch.ones(missing, *pictures.shape[1:])])
    rows = full.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    return Image.fromarray((rows * 255).round().byte().numpy())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=KINDS, default="unet")
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--grids", type=Path, help="folder for a grid of the goods and one of the bads per task")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load_tiny(kind=args.model)
    print("| task | prompt | success | free attributes: entropy among the goods, bits |\n| --- | --- | --- | --- |")
    seconds = 0.0
    for name in tqdm(args.tasks, disable=None):
        task, generator = TASKS[name], torch.Generator().manual_seed(args.seed)
        start = time.perf_counter()
        z = sample(model, task.prompt, args.pictures, generator, args.steps, args.cfg)
        seconds += time.perf_counter() - start
        pictures = model.decode(z)
        good = torch.from_numpy(task.judge(pictures).good)
        free = free_attributes(name, pictures[good]) if good.any() else {}
        bits = ", ".join(f"{key} {entropy(value):.2f}" for key, value in free.items())
        print(f"| {name} | {task.prompt} | {good.float().mean():.3f} | {bits} |", flush=True)
        if args.grids:
            args.grids.mkdir(parents=True, exist_ok=True)
            for word, chosen in (("good", good), ("bad", ~good)):
                if chosen.any():
                    grid(pictures[chosen][:32]).save(args.grids / f"{name}_{word}.png")
    n, drawn = args.pictures, args.pictures * len(args.tasks)
    print(f"\n{n} pictures a task of {args.model}, {args.steps} steps, guidance {args.cfg}, seed {args.seed}")
    print(f"sampling 64 pictures took {seconds / drawn * 64:.1f} s")


if __name__ == "__main__":
    main()
