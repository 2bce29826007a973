# SPDX-License-Identifier: Apache-2.0
"""Make `tiny.safetensors`: first the autoencoder, then text encoder and UNet on its cached latents.

    python -m hero_core.tiny.train autoencoder --work DIR --batch 4 --steps 800 --lr 1.5e-3
    python -m hero_core.tiny.train whiten --work DIR
    python -m hero_core.tiny.train autoencoder --work DIR --resume --kl 0 --latent-noise 0.08 --batch 4 --steps 900
    python -m hero_core.tiny.train diffusion --work DIR --batch 32 --steps 3000 --lr 1.2e-3 --bf16
    python -m hero_core.tiny.train pack --work DIR

Each stage writes checkpoints into ``--work``; ``pack`` writes the one half-precision file which the package loads. The
model that flows has stages of its own, ``flow`` and ``pack-flow``: see :mod:`.train_flow`.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from .autoencoder import Autoencoder
from .latent import LATENT_SCALE
from .model import WEIGHTS, load_tiny
from .scenes import RENDERERS, SUCCESS_RATES, training_caption
from .text import TextEncoder, Tokenizer
from .train_flow import add_options, pack_flow, train_flow
from .unet import UNet
from .words import PROMPTS


def render(rng: np.random.Generator, n: int) -> tuple[Tensor, list[str]]:
    """``n`` random scenes of all families: pictures ``(n, 3, 128, 128)`` uint8 and their training captions."""
    tasks = rng.choice(list(RENDERERS), size=n)
    scenes = [RENDERERS[task](rng) for task in tasks]
    captions = [training_caption(rng, task, scene) for task, scene in zip(tasks, scenes, strict=True)]
    return torch.from_numpy(np.stack([s.picture for s in scenes])).permute(0, 3, 1, 2).contiguous(), captions


def crop(rng: np.random.Generator, pictures: Tensor, side: int) -> Tensor:
    """One random square of ``side`` pixels out of every picture, corners on multiples of 4."""
    corners = 4 * rng.integers(0, (pictures.shape[-1] - side) // 4 + 1, size=(len(pictures), 2))
    return torch.stack([p[:, y : y + side, x : x + side] for p, (y, x) in zip(pictures, corners, strict=True)])


def to_signed(pictures: Tensor) -> Tensor:
    """uint8 pictures -> float32 in [-1, 1]."""
    return pictures.float().div_(127.5).sub_(1.0)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 50) -> float:
    """Linear warm-up, then a cosine down to 2 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def _pair(weight: Tensor) -> Tensor:
    """Make every odd output channel the negative of the even one before it, in place."""
    weight[1::2] = -weight[::2]
    return weight


@torch.no_grad()
def start_in_pairs(unet: UNet) -> None:
    """Start all that writes into the UNet's residual streams as antisymmetric channel pairs.

    Then the mean of every norm group is 0 at first, and the mean of a picture passes the norms (see below).
    """
    for name, layer in unet.named_modules():
        ends = ("input_blocks.0.0", "skip_connection", ".op", ".conv", "out_layers.3", "proj_out")
        if isinstance(layer, nn.Conv2d) and name.endswith(ends):
            scale = 0.3 if name.endswith(("out_layers.3", "proj_out")) else 1.0
            layer.weight.copy_(_pair(layer.weight * scale))
            layer.bias.copy_(_pair(layer.bias * scale))
    unet.out[2].weight[:, 1::2] = -unet.out[2].weight[:, ::2]


RING_ENCODER, RING_DECODER = 4.0, 7.5
"""Heights of the known patterns along the border which keep the last norms from hiding a picture's mean colour."""


@torch.no_grad()
def start_as_linear_codec(vae: Autoencoder) -> None:
    """Start as a codec of mean colours, so that training has only the detail left to learn.

    A group of the autoencoder's norms holds two channels, and normalising those over the picture loses its mean colour.
    So channels start as antisymmetric pairs (mean 0), where ``silu(y) - silu(-y) = y`` reads a value back exactly, and
    the colour pairs carry a pattern along the border that sets their deviation, whatever the picture. Pairs 0-2 hold
    RGB, pair 3 the number 1, pair 4 the pattern alone, pair 5 the fourth latent; the rest start at random.
    """
    for half in (vae.encoder, vae.decoder):
        half.conv_in.weight.copy_(_pair(half.conv_in.weight * 0.7))
        half.conv_in.weight[:12] = 0.0
        half.conv_in.bias.zero_()
        half.conv_in.bias[6], half.conv_in.bias[7] = 1.0, -1.0
        for name, layer in half.named_modules():
            if name.endswith("sample.conv"):
                _start_resampling(layer, torch.full((2, 2), 0.25) if "down" in name else None)
            elif name.endswith(("conv2", "attn_1.proj_out")):
                layer.weight.copy_(_pair(layer.weight * 0.04))
                layer.bias.zero_()
    for c in range(3):
        vae.encoder.conv_in.weight[2 * c, c, 1, 1], vae.encoder.conv_in.weight[2 * c + 1, c, 1, 1] = 1.0, -1.0
        vae.decoder.conv_in.weight[2 * c, c, 1, 1], vae.decoder.conv_in.weight[2 * c + 1, c, 1, 1] = 1.5, -1.5
    vae.decoder.conv_in.weight[10, 3, 1, 1], vae.decoder.conv_in.weight[11, 3, 1, 1] = 1.0, -1.0
    _add_rings(vae)


@torch.no_grad()
def _start_resampling(layer: nn.Conv2d, box: Tensor | None) -> None:
    keep = torch.zeros_like(layer.weight)
    every = range(len(keep))
    if box is None:
        keep[every, every, 1, 1] = 1.0
    else:
        keep[every, every, :2, :2] = box
        for channel in (6, 7):
            # Only this tap never meets the padding, so the number 1 stays 1.
            keep[channel, channel] = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]])
    noise = _pair(layer.weight * 0.7)
    noise[:12] = 0.0
    layer.weight.copy_(keep + noise)
    layer.bias.zero_()


@torch.no_grad()
def _add_rings(vae: Autoencoder) -> None:
    last_down = [level.downsample.conv for level in vae.encoder.down if hasattr(level, "downsample")][-1]
    last_up = vae.decoder.up[1].upsample.conv
    for channel in (0, 1, 2, 3, 4, 5, 8, 9):
        sign = 1.0 if channel % 2 == 0 else -1.0
        last_down.weight[channel, 6, 2, 2] += sign * RING_ENCODER
        last_down.bias[channel] -= sign * RING_ENCODER
        last_up.weight[channel, 6] += sign * RING_DECODER / 3
        last_up.bias[channel] -= sign * RING_DECODER * 3
    for conv, gain, ring, share in (
        (vae.encoder.conv_out, 1.0, RING_ENCODER / 1.5, 31 / 256),
        (vae.decoder.conv_out, 1.5, RING_DECODER, 515 / 16384),
    ):
        conv.weight.mul_(0.1)
        conv.weight[:3], conv.bias[:] = 0.0, 0.0
        for c in range(3):
            conv.weight[c, 2 * c, 1, 1], conv.weight[c, 2 * c + 1, 1, 1] = gain, -gain
            conv.weight[c, 8, 1, 1], conv.weight[c, 9, 1, 1] = -ring * share**0.5, ring * share**0.5
    vae.encoder.conv_out.weight[3].mul_(5.0)
    vae.encoder.conv_out.bias[4:] = -5.0
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight.copy_(torch.eye(len(conv.weight))[:, :, None, None])
        conv.bias.zero_()


def codec_loss(vae: Autoencoder, x: Tensor, kl_weight: float, latent_noise: float = 0.0) -> tuple[Tensor, float]:
    """Absolute error of pixels, of their differences and of 4x4 means, plus the KL term; and the plain error.

    With ``kl_weight`` 0 the encoder is held fixed. ``latent_noise`` teaches the decoder to forgive a denoiser's errors.
    """
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(kl_weight > 0):
        mean, log_var = vae.moments(x)
    mean, log_var = mean.float(), log_var.float()
    z = mean + torch.randn_like(mean) * ((0.5 * log_var).exp() + latent_noise)
    with torch.autocast("cpu", torch.bfloat16):
        y = vae.decode(z)
    error = y.float() - x
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    coarse = F.avg_pool2d(error, 4).abs().mean()
    kl = 0.5 * (mean.square() + log_var.exp() - 1.0 - log_var).mean()
    plain = error.abs().mean()
    return plain + 0.5 * edges + coarse + kl_weight * kl, float(plain.detach())


def train_autoencoder(args: argparse.Namespace) -> None:
    """Train on scenes rendered on the fly; writes ``vae.safetensors`` every 200 steps and at the end."""
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    vae = Autoencoder()
    start_as_linear_codec(vae)
    torch.set_num_threads(args.threads)
    if args.resume:
        vae.load_state_dict(load_file(args.work / "vae.safetensors"))
    for fixed in (vae.encoder, vae.quant_conv) if args.kl == 0 else ():
        fixed.requires_grad_(False)
    optimiser = torch.optim.AdamW(
        [p for p in vae.parameters() if p.requires_grad], lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0
    )
    bar = tqdm(range(args.steps), mininterval=10)
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        x = to_signed(crop(rng, render(rng, args.batch)[0], args.crop))
        loss, plain = codec_loss(vae, x, args.kl, args.latent_noise)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        bar.set_postfix(l1=f"{plain:.4f}", refresh=False)
        if (step + 1) % 200 == 0 or step + 1 == args.steps:
            save_file(vae.state_dict(), args.work / "vae.safetensors")


@torch.no_grad()
def whiten(args: argparse.Namespace) -> None:
    """Make the latents' channels centred, uncorrelated and of deviation 1, exactly: only the two 1x1 layers change."""
    vae = Autoencoder()
    vae.load_state_dict(load_file(args.work / "vae.safetensors"))
    rng = np.random.default_rng(args.seed + 2)
    cells = torch.cat([vae.encode(to_signed(render(rng, 50)[0])) for _ in range(10)]).permute(0, 2, 3, 1).reshape(-1, 4)
    mean = cells.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(cells.T))
    there, back = (vectors / values.sqrt()).T, vectors * values.sqrt()
    # A new latent is ``there @ (old - mean)``; the log-variances follow the deviations of the channels.
    quant, post = vae.quant_conv, vae.post_quant_conv
    spread = (there**2 @ torch.ones(4)).log()
    quant.weight[:4, :, 0, 0], quant.bias[:4] = there @ quant.weight[:4, :, 0, 0], there @ (quant.bias[:4] - mean)
    quant.weight[4:] = quant.weight[4:].mean(0, keepdim=True)
    quant.bias[4:] = quant.bias[4:].mean() + spread
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight[:, :, 0, 0] = post.weight[:, :, 0, 0] @ back
    save_file(vae.state_dict(), args.work / "vae.safetensors")


@torch.inference_mode()
def cache_latents(args: argparse.Namespace, vae: Autoencoder, scale: float | None = None) -> None:
    """Render ``--scenes`` scenes, keep latents, token ids, RGB factors, and the scale where none is given."""
    SUCCESS_RATES.update({name: float(share) for name, share in (one.split("=") for one in args.rates)})
    rng, tokenizer = np.random.default_rng(args.seed + 1), Tokenizer()
    latents, ids, coarse = [], [], []
    for _ in tqdm(range(args.scenes // 50), desc="latents", mininterval=10):
        pictures, captions = render(rng, 50)
        x = to_signed(pictures)
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(vae.encode(x).float())
        ids.append(tokenizer.batch(captions))
        if len(coarse) < 20:
            coarse.append(F.avg_pool2d(x, 8))
    z = torch.cat(latents)
    scale = scale or round(1.0 / float(z.std()), 4)
    cells = torch.cat(latents[: len(coarse)]).mul(scale).permute(0, 2, 3, 1).reshape(-1, 4)
    target = torch.cat(coarse).permute(0, 2, 3, 1).reshape(-1, 3)
    fit = torch.linalg.lstsq(torch.cat([cells, torch.ones(len(cells), 1)], dim=1), target).solution
    save_file({"z": z * scale, "ids": torch.cat(ids)}, args.work / "latents.safetensors")
    facts = {"LATENT_SCALE": scale, "LATENT_RGB_FACTORS": fit[:4].tolist(), "LATENT_RGB_BIAS": fit[4].tolist()}
    (args.work / "latents.json").write_text(json.dumps(facts, indent=1))


def noise_schedule() -> Tensor:
    """Cumulative alphas of SD 1.x: betas from .00085 to .012, linear in their square roots; ``(1000,)``."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1.0 - betas).cumprod(dim=0).float()


def ema_update(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move ``average`` towards ``model`` in place."""
    with torch.no_grad():
        for a, b in zip(average.parameters(), model.parameters(), strict=True):
            a.lerp_(b, 1.0 - decay)


def diffusion_loss(
    unet: UNet, context: Tensor, z: Tensor, alphas: Tensor, args: argparse.Namespace
) -> tuple[Tensor, float]:
    """Error of the predicted noise at stratified timesteps, weighted min-SNR (Hang et al. 2023), and of its mean.

    The mean over the picture has a weight of its own: the narrow norms of the finest level hide it, so it is learned
    last, and it is what the colour of a whole wall depends on. 1 is the mean's error of a network that ignores it.
    """
    n = len(z)
    t = ((torch.arange(n) + torch.rand(n)) * (1000 / n)).long().clamp(max=999)[torch.randperm(n)]
    a = alphas[t][:, None, None, None]
    noise = torch.randn_like(z)
    x = a.sqrt() * z + (1 - a).sqrt() * noise
    with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
        eps = unet(x, t, context)
    snr = (a / (1 - a)).flatten()
    weight = (args.gamma / snr).clamp(max=1.0)
    error = eps.float() - noise
    mean = error.mean(dim=(2, 3)).square().mean(dim=1) * error[0, 0].numel()
    return (weight * (error.square().mean(dim=(1, 2, 3)) + args.mean_weight * mean)).mean(), float(mean.detach().mean())


def train_diffusion(args: argparse.Namespace) -> None:
    """Train text encoder and UNet on cached latents; writes the averages of their weights."""
    torch.manual_seed(args.seed)
    if not (args.work / "latents.safetensors").exists():
        vae = Autoencoder()
        vae.load_state_dict(load_file(args.work / "vae.safetensors"))
        cache_latents(args, vae.requires_grad_(False))
    data = load_file(args.work / "latents.safetensors")
    models = nn.ModuleDict({"unet": UNet(), "text": TextEncoder()})
    start_in_pairs(models["unet"])
    if args.resume:
        for name, model in models.items():
            model.load_state_dict(load_file(args.work / f"{name}.safetensors"))
    average = copy.deepcopy(models).requires_grad_(False)
    optimiser = torch.optim.AdamW(models.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01)
    alphas, empty = noise_schedule(), Tokenizer().batch([""])
    order, losses, bar = torch.empty(0, dtype=torch.long), [], tqdm(range(args.steps), mininterval=10)
    log = (args.work / "diffusion.log").open("a")
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr, warmup=100)
        if len(order) < args.batch:
            order = torch.randperm(len(data["z"]))
        rows, order = order[: args.batch], order[args.batch :]
        ids = torch.where(torch.rand(len(rows), 1) < args.drop, empty, data["ids"][rows])
        loss, mean = diffusion_loss(models["unet"], models["text"](ids), data["z"][rows], alphas, args)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(models.parameters(), 1.0)
        optimiser.step()
        ema_update(average, models, min(args.ema, (step + 1) / (step + 10)))
        losses.append((float(loss.detach()), mean))
        if (step + 1) % 100 == 0 or step + 1 == args.steps:
            recent = np.mean(losses[-100:], axis=0)
            log.write(f"{time.strftime('%H:%M:%S')} {step + 1} {recent[0]:.4f} {recent[1]:.3f}\n")
            log.flush()
        if (step + 1) % 250 == 0 or step + 1 == args.steps:
            for name, model in average.items():
                save_file(model.state_dict(), args.work / f"{name}.safetensors")


def pack(args: argparse.Namespace) -> None:
    """Write all weights as float16 into the one file of the package, with the facts of the latents as metadata."""
    weights = {}
    for prefix in ("unet", "vae", "text"):
        part = load_file(args.work / f"{prefix}.safetensors")
        weights.update({f"{prefix}.{key}": value.half().contiguous() for key, value in part.items()})
    facts = json.loads((args.work / "latents.json").read_text())
    args.out = args.out or WEIGHTS
    metadata = {"format": "hero-tiny-1", "prompts": json.dumps(PROMPTS), **{k: json.dumps(v) for k, v in facts.items()}}
    save_file(weights, args.out, metadata=metadata)
    print(f"wrote {args.out}: {args.out.stat().st_size / 1e6:.2f} MB, {len(weights)} tensors; latents: {facts}")


def flow(args: argparse.Namespace) -> None:
    """The denoiser that flows, on latents of the autoencoder that ships."""
    if not (args.work / "latents.safetensors").exists():
        cache_latents(args, load_tiny().vae, LATENT_SCALE)
    train_flow(args)


STAGES = {
    "autoencoder": train_autoencoder, "whiten": whiten, "diffusion": train_diffusion, "pack": pack,
    "flow": flow, "pack-flow": pack_flow,
}  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--out", type=Path, help="of the packing stages: by default the file that ships")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=128, help="side of the squares the autoencoder trains on")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--kl", type=float, default=5e-4, help="weight of the KL term; 0 trains the decoder alone")
    parser.add_argument("--latent-noise", type=float, default=0.0, help="deviation of noise on the decoder's input")
    parser.add_argument("--scenes", type=int, default=36000, help="scenes whose latents the diffusion stage trains on")
    parser.add_argument("--rates", nargs="*", default=[], metavar="TASK=SHARE", help="in the place of SUCCESS_RATES")
    parser.add_argument("--drop", type=float, default=0.1, help="share of captions replaced by the empty prompt")
    parser.add_argument("--gamma", type=float, default=5.0, help="min-SNR cap")
    parser.add_argument("--mean-weight", type=float, default=0.05, help="extra weight of the noise's mean")
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--resume", action="store_true", help="start from the checkpoints in --work")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    add_options(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    STAGES[args.stage](args)


if __name__ == "__main__":
    main()
