# SPDX-License-Identifier: Apache-2.0
"""The tiny model as one object: prompt -> context, latents -> pictures, and the denoiser in sigma space.

Notation (Karras et al. 2022, as ComfyUI uses it for eps-models): ``x = x0 + sigma * eps``;
``sigma_t = sqrt((1 - abar_t) / abar_t)`` for the cumulative alphas ``abar`` of the 1000 training timesteps.
Latents are ``(n, 4, H, W)`` float32 in the model's own scale: ``z = LATENT_SCALE * vae.encode(picture)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .autoencoder import Autoencoder
from .latent import LATENT_SCALE
from .text import TextEncoder, Tokenizer
from .unet import UNet

WEIGHTS = Path(__file__).with_name("tiny.safetensors")
"""The weights of all three networks, float16, under the prefixes ``unet.``, ``vae.`` and ``text.``."""

STEPS_OF_TRAINING = 1000
SCHEDULERS = ("normal", "simple", "karras")
_DECODE_ROWS = 1
"""Rows of one call: at full size a picture's activations fit the cache and those of several do not."""


def noise_schedule() -> Tensor:
    """Cumulative alphas of SD 1.x: betas from .00085 to .012, linear in their square roots; ``(1000,)`` float64."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, STEPS_OF_TRAINING, dtype=torch.float64) ** 2
    return (1.0 - betas).cumprod(dim=0)


def load_weights(path: Path = WEIGHTS) -> dict[str, dict[str, Tensor]]:
    """Float32 state dicts ``{"unet": ..., "vae": ..., "text": ...}`` of the one weights file.

    Raises FileNotFoundError, naming the remedy, where the file is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the tiny model's weights {path} are missing; reinstall the pack, or run train.py")
    parts: dict[str, dict[str, Tensor]] = {"unet": {}, "vae": {}, "text": {}}
    for key, value in load_file(path).items():
        prefix, name = key.split(".", 1)
        parts[prefix][name] = value.float()
    return parts


@dataclass
class TinyModel:
    """Frozen networks and the arithmetic around them. Get one from `load_tiny`."""

    unet: UNet
    vae: Autoencoder
    text: TextEncoder
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    tokenizer: Tokenizer = field(default_factory=Tokenizer)

    def __post_init__(self) -> None:
        abar = noise_schedule()
        sigmas = ((1 - abar) / abar).sqrt()
        self.alphas_cumprod = abar.float().to(self.device)
        self.train_sigmas = sigmas.float().to(self.device)
        self.log_sigmas = sigmas.log().float().to(self.device)

    @property
    def sigma_min(self) -> float:
        """Sigma of timestep 0."""
        return float(self.train_sigmas[0])

    @property
    def sigma_max(self) -> float:
        """Sigma of timestep 999."""
        return float(self.train_sigmas[-1])

    def timestep(self, sigma: Tensor) -> Tensor:
        """The training timestep whose log sigma is nearest; ``(n,)`` sigmas -> ``(n,)`` int64. Never interpolated."""
        return (sigma.log() - self.log_sigmas[:, None]).abs().argmin(dim=0)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Sigma of a fractional timestep, linear in log sigma between its neighbours."""
        t = timestep.float().clamp(0, STEPS_OF_TRAINING - 1)
        low, high, share = t.floor().long(), t.ceil().long(), t.frac()
        return ((1 - share) * self.log_sigmas[low] + share * self.log_sigmas[high]).exp()

    def sigmas(self, steps: int, scheduler: str = "normal") -> Tensor:
        """Noise levels of a sampling run: ``(steps + 1,)`` float32, falling, the last one 0.

        ``normal``, ``simple`` and ``karras`` give the numbers of ComfyUI's schedulers of these names for SD 1.x.
        """
        if steps < 1:
            raise ValueError(f"steps is {steps}; ask for at least 1")
        if scheduler not in SCHEDULERS:
            raise ValueError(f"unknown scheduler {scheduler!r}; choose one of {', '.join(SCHEDULERS)}")
        if scheduler == "normal":
            levels = self.sigma(torch.linspace(STEPS_OF_TRAINING - 1, 0, steps, device=self.device))
        elif scheduler == "simple":
            stride = STEPS_OF_TRAINING / steps
            levels = self.train_sigmas[[-(1 + int(i * stride)) for i in range(steps)]]
        else:
            ramp = torch.linspace(0, 1, steps, device=self.device)
            low, high = self.sigma_min ** (1 / 7), self.sigma_max ** (1 / 7)
            levels = (high + ramp * (low - high)) ** 7
        return torch.cat([levels, levels.new_zeros(1)])

    def denoise(self, x: Tensor, sigma: Tensor | float, context: Tensor) -> Tensor:
        """The model's estimate of x0 given ``x = x0 + sigma * eps``.

        x: ``(n, 4, H, W)``; sigma: a number or ``(n,)``; context: ``(n or 1, 16, 64)``. Without guidance.
        """
        levels = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).expand(len(x))
        column = levels[:, None, None, None]
        eps = self.unet(x / (column**2 + 1).sqrt(), self.timestep(levels).float(), context.expand(len(x), -1, -1))
        return x - column * eps

    @torch.no_grad()
    def encode_prompt(self, prompt: str) -> Tensor:
        """Context of one prompt, ``(1, 16, 64)``; the empty prompt is the unconditional one."""
        return self.text(self.tokenizer.batch([prompt]).to(self.device))

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures ``(n, 3, H, W)`` in [0, 1] -> latents ``(n, 4, H/8, W/8)`` in the model's own scale."""
        rows = [self.vae.encode(part * 2 - 1) for part in pictures.split(_DECODE_ROWS)]
        return torch.cat(rows) * LATENT_SCALE

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Latents in the model's own scale -> pictures ``(n, 3, 8H, 8W)`` in [0, 1]."""
        rows = [self.vae.decode(part / LATENT_SCALE) for part in z.split(_DECODE_ROWS)]
        return torch.cat(rows).add(1).div(2).clamp(0, 1)


def load_tiny(device: str | torch.device = "cpu") -> TinyModel:
    """A fresh tiny model in float32 with frozen weights; nothing is read before this call."""
    device = torch.device(device)
    unet, vae, text = UNet(), Autoencoder(), TextEncoder()
    weights = load_weights()
    networks: tuple[tuple[nn.Module, str], ...] = ((unet, "unet"), (vae, "vae"), (text, "text"))
    for network, name in networks:
        network.load_state_dict(weights[name])
        network.requires_grad_(False).train(False).to(device)
    return TinyModel(unet, vae, text, device)
