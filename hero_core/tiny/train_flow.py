# SPDX-License-Identifier: Apache-2.0
"""The stages of `train.py` that make `tiny_flow.safetensors`, with the autoencoder that ships.

    python -m hero_core.tiny.train flow --work DIR --scenes 13500 --batch 32 --steps 6000 --teacher --bf16 --compile
    python -m hero_core.tiny.train pack-flow --work DIR

The text encoder starts as that of the UNet. Matrices inside the blocks are trained by Muon (Jordan et al. 2024), all
else by AdamW. ``--bf16`` takes products in bfloat16, ``--compile`` needs a C++ compiler and halves the time.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from .dit import DiT
from .model import FLOW_WEIGHTS, flow_sigma, load_tiny, load_weights
from .text import TextEncoder, Tokenizer

KNOWN = 0.6
"""The noise level up to which the UNet is the better judge of what a picture is."""


class HalfLinear(nn.Linear):
    """A linear layer whose product is taken in bfloat16, and everything around it in float32."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.bfloat16()
        return F.linear(x.bfloat16(), self.weight.bfloat16(), bias).float()


@torch.no_grad()
def start(dit: DiT) -> None:
    """Start with half-open gates, a silent last layer, and a time that the first layer reads off as hinges."""
    width = dit.config["dim"]
    for name, layer in dit.named_modules():
        if name.endswith("adaLN_modulation.1"):
            layer.weight.zero_()
            layer.bias.zero_()
            if len(layer.bias) == 4 * width:
                layer.bias[width : 2 * width], layer.bias[3 * width :] = 0.3, 0.3
    dit.final_layer.linear.weight.mul_(0.1)
    dit.final_layer.linear.bias.zero_()
    # Feature 138 is sin(0.487 t), which rises nearly straight from 0 to 0.468.
    first = dit.t_embedder.mlp[0]
    centre = torch.linspace(-0.1, 1.1, width)
    slope = 12.0 * torch.tensor([1.0, -1.0]).repeat(width // 2)
    first.weight.mul_(0.1)
    first.weight[:, 138] = slope / 0.468
    first.bias.copy_(-slope * centre)


def velocity_loss(
    dit: Callable[..., Tensor], context: Tensor, z: Tensor, teacher: Teacher | None, ids: Tensor, shift: float
) -> Tensor:
    """Squared error of the velocity at stratified times, leaning to the noisy end by ``shift``."""
    n = len(z)
    u = ((torch.arange(n) + torch.rand(n)) / n)[torch.randperm(n)]
    sigma = flow_sigma(u, shift).clamp(min=1e-3)
    column = sigma[:, None, None, None]
    x = (1 - column) * z + column * torch.randn_like(z)
    target = z if teacher is None else teacher(x, z, column, ids)
    return (dit(x, sigma, context) - (x - target) / column).square().mean()


class Teacher:
    """The UNet that ships, asked what the picture is: its answer varies less than the picture that was drawn.

    The two models' noise levels name the same latents: ``sigma`` of the one is ``sigma / (1 - sigma)`` of the other.
    Above :data:`KNOWN` the DiT soon knows better, and the pictures themselves are the targets.
    """

    def __init__(self) -> None:
        self.model = load_tiny()

    @torch.no_grad()
    def __call__(self, x: Tensor, z: Tensor, column: Tensor, ids: Tensor) -> Tensor:
        """What to take for the pictures in latents ``x`` at levels ``column``: the UNet's estimates, or ``z``."""
        asked = column.flatten() <= KNOWN
        if not asked.any():
            return z
        scale = 1 - column[asked]
        level = (column[asked] / scale).flatten()
        with torch.autocast("cpu", torch.bfloat16):
            estimate = self.model.denoise(x[asked] / scale, level, self.model.text(ids[asked]))
        return z.index_put((asked.nonzero()[:, 0],), estimate.float())


def optimisers(models: nn.ModuleDict, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    inside = [p for n, p in models["dit"].named_parameters() if p.ndim == 2 and (".attention." in n or ".feed_" in n)]
    known = {id(p) for p in inside}
    rest = [p for p in models.parameters() if id(p) not in known]
    return [
        torch.optim.Muon(inside, lr=lr, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=0.01),
    ]


def rate(done: float) -> float:
    """Share of the peak rate at a share ``done`` of the training: warm-up, flat, and a linear end."""
    return min(1.0, 0.02 + done / 0.02, 0.02 + (1 - done) / 0.5)


def networks(args: argparse.Namespace) -> nn.ModuleDict:
    """DiT and text encoder at the start, or as the checkpoints in ``--work`` have them."""
    dit, text = DiT(), TextEncoder()
    start(dit)
    text.load_state_dict(load_weights()["text"])
    models = nn.ModuleDict({"dit": dit, "text": text})
    if args.resume:
        for name, model in models.items():
            model.load_state_dict(load_file(args.work / f"flow_{name}.safetensors"))
    return models


def in_half(dit: nn.Module) -> None:
    """Take all products but that of the time's first layer in bfloat16."""
    for name, layer in dit.named_modules():
        if type(layer) is nn.Linear and name != "t_embedder.mlp.0":
            layer.__class__ = HalfLinear


def batches(data: dict[str, Tensor], size: int, drop: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Latents and token ids without end, every scene once before any comes again; some captions are left empty."""
    empty = Tokenizer().batch([""])
    while True:
        for rows in torch.randperm(len(data["z"])).split(size):
            if len(rows) == size:
                yield data["z"][rows], torch.where(torch.rand(size, 1) < drop, empty, data["ids"][rows])


def train_flow(args: argparse.Namespace) -> None:
    """Train the DiT and its text encoder on the cached latents; writes their averages every 200 steps."""
    torch.manual_seed(args.seed)
    models = networks(args)
    average = copy.deepcopy(models).requires_grad_(False)
    if args.bf16:
        in_half(models["dit"])
    teacher = Teacher() if args.teacher else None
    dit = torch.compile(models["dit"]) if args.compile else models["dit"]
    both, losses, begun = optimisers(models, args.lr), [], time.monotonic()
    pictures = batches(load_file(args.work / "latents.safetensors"), args.batch, args.drop)
    for step in tqdm(range(args.steps), mininterval=10):
        done = min(1.0, max((step + 1) / args.steps, (time.monotonic() - begun) / 60 / args.minutes))
        for group in (group for optimiser in both for group in optimiser.param_groups):
            group["lr"] = args.lr * rate(done)
        z, ids = next(pictures)
        loss = velocity_loss(dit, models["text"](ids), z, teacher, ids, args.shift)
        models.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(models.parameters(), 1.0)
        for optimiser in both:
            optimiser.step()
        ema_update(average, models, min(args.ema, (step + 1) / (step + 10)))
        losses.append(float(loss.detach()))
        if (step + 1) % 200 == 0 or done == 1:
            keep(average, args.work, f"{step + 1} {np.mean(losses[-200:]):.4f}")
        if done == 1:
            break


def ema_update(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move ``average`` towards ``model`` in place."""
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - decay)


def keep(average: nn.ModuleDict, work: Path, line: str) -> None:
    """Write the averaged weights, and a line of the log."""
    with (work / "flow.log").open("a") as log:
        log.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    for name, model in average.items():
        save_file(model.state_dict(), work / f"flow_{name}.safetensors")


def pack_flow(args: argparse.Namespace) -> None:
    """Write DiT and text encoder as float16 into the second file of the package."""
    weights = {}
    for prefix in ("dit", "text"):
        part = load_file(args.work / f"flow_{prefix}.safetensors")
        weights.update({f"{prefix}.{key}": value.half().contiguous() for key, value in part.items()})
    out = args.out or FLOW_WEIGHTS
    save_file(weights, out, metadata={"format": "hero-tiny-flow-1"})
    print(f"wrote {out}: {out.stat().st_size / 1e6:.2f} MB, {len(weights)} tensors")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that these stages alone have."""
    parser.add_argument("--minutes", type=float, default=1e9, help="the flow stage ends after them or after the steps")
    parser.add_argument("--shift", type=float, default=3.0, help="how far the flow stage's times lean to the noisy end")
    parser.add_argument("--teacher", action="store_true", help="the flow stage learns what the UNet makes of a latent")
    parser.add_argument("--compile", action="store_true", help="the flow stage fuses the network by torch.compile")
