# SPDX-License-Identifier: Apache-2.0
"""The tiny model as one object: prompt -> context, latents -> pictures, and the denoiser in sigma space.

There are two kinds of denoisers, with one autoencoder. The UNet's notation (Karras et al. 2022, as ComfyUI uses it for
eps-models): ``x = x0 + sigma * eps``; ``sigma_t = sqrt((1 - abar_t) / abar_t)`` for the cumulative alphas ``abar`` of
the 1000 training timesteps. The flow's (Liu et al. 2023): ``x = (1 - sigma) * x0 + sigma * eps``.
Latents are ``(n, 4, H, W)`` float32 in the model's own scale: ``z = LATENT_SCALE * vae.encode(picture)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .autoencoder import Autoencoder
from .dit import DiT
from .latent import LATENT_SCALE
from .text import TextEncoder, Tokenizer
from .unet import UNet

WEIGHTS = Path(__file__).with_name("tiny.safetensors")
"""The weights of all three networks, float16, under the prefixes ``unet.``, ``vae.`` and ``text.``."""

FLOW_WEIGHTS = Path(__file__).with_name("tiny_flow.safetensors")
"""What the model that flows has of its own, float16: ``dit.`` and ``text.``. Its autoencoder is the other's."""

KINDS = ("unet", "flow")
"""The denoisers to choose from: a UNet of Stable Diffusion's kind, and a flow-matching transformer of Lumina 2's."""

STEPS_OF_TRAINING = 1000
SHIFT = 2.0
"""Of the flowing model's times: how far its noise levels lean to the noisy end."""

SCHEDULERS = ("normal", "simple", "karras")
_DECODE_ROWS = 1
"""Rows of one call: at full size a picture's activations fit the cache and those of several do not."""


def noise_schedule() -> Tensor:
    """Cumulative alphas of SD 1.x: betas from .00085 to .012, linear in their square roots; ``(1000,)`` float64."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, STEPS_OF_TRAINING, dtype=torch.float64) ** 2
    return (1.0 - betas).cumprod(dim=0)


def flow_sigma(u: Tensor, shift: float = SHIFT) -> Tensor:
    """Noise levels of the flowing model at the shares ``u`` of the times, both in [0, 1]."""
    return shift * u / (1 + (shift - 1) * u)


def load_weights(path: Path = WEIGHTS) -> dict[str, dict[str, Tensor]]:
    """Float32 state dicts of one weights file by their prefix: ``{"unet": ..., "vae": ..., "text": ...}``.

    Raises FileNotFoundError, naming the remedy, where the file is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the tiny model's weights {path} are missing; reinstall the pack, or run train.py")
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(path).items():
        prefix, name = key.split(".", 1)
        parts.setdefault(prefix, {})[name] = value.float()
    return parts


@dataclass
class TinyModel:
    """Frozen networks and the arithmetic around them, for the UNet. Get one from `load_tiny`."""

    flow: ClassVar[bool] = False

    denoiser: nn.Module
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
        """The lowest noise level of the training."""
        return float(self.train_sigmas[0])

    @property
    def sigma_max(self) -> float:
        """The highest noise level of the training."""
        return float(self.train_sigmas[-1])

    def timestep(self, sigma: Tensor) -> Tensor:
        """The training timestep whose log sigma is nearest; ``(n,)`` sigmas -> ``(n,)`` int64. Never interpolated."""
        return (sigma.log() - self.log_sigmas[:, None]).abs().argmin(dim=0)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Sigma of a fractional timestep, linear in log sigma between its neighbours."""
        t = timestep.float().clamp(0, STEPS_OF_TRAINING - 1)
        low, high, share = t.floor().long(), t.ceil().long(), t.frac()
        return ((1 - share) * self.log_sigmas[low] + share * self.log_sigmas[high]).exp()

    @property
    def ends(self) -> tuple[float, float]:
        """The times from which and to which the scheduler ``normal`` steps evenly."""
        return STEPS_OF_TRAINING - 1.0, 0.0

    def initial(self, z_T: Tensor, sigma: float) -> Tensor:
        """Unit noise at the first level; at the last training level and above the data's variance counts too."""
        at_top = sigma > self.sigma_max or math.isclose(sigma, self.sigma_max, rel_tol=1e-5)
        return z_T * (math.sqrt(1 + sigma**2) if at_top else sigma)

    def sigmas(self, steps: int, scheduler: str = "normal") -> Tensor:
        """Noise levels of a sampling run: ``(steps + 1,)`` float32, falling, the last one 0.

        ``normal``, ``simple`` and ``karras`` give the numbers of ComfyUI's schedulers of these names.
        """
        if steps < 1:
            raise ValueError(f"steps is {steps}; ask for at least 1")
        if scheduler not in SCHEDULERS:
            raise ValueError(f"unknown scheduler {scheduler!r}; choose one of {', '.join(SCHEDULERS)}")
        if scheduler == "normal":
            levels = self.sigma(torch.linspace(*self.ends, steps, device=self.device))
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
        eps = self.denoiser(x / (column**2 + 1).sqrt(), self.timestep(levels).float(), context.expand(len(x), -1, -1))
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


@dataclass
class TinyFlow(TinyModel):
    """The same around the DiT, which is given noise levels for times and predicts ``eps - x0``."""

    flow: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.train_sigmas = self.sigma(torch.arange(1, STEPS_OF_TRAINING + 1) / STEPS_OF_TRAINING).to(self.device)

    @property
    def ends(self) -> tuple[float, float]:
        """The host takes a noise level for its own time when it looks for the ends, though the shift lies between."""
        return self.sigma_max, self.sigma_min

    def timestep(self, sigma: Tensor) -> Tensor:
        """What the DiT is given for a noise level: the level itself."""
        return sigma

    def sigma(self, timestep: Tensor) -> Tensor:
        """The noise level at a share of the times, 0 the cleanest and 1 the noisiest."""
        return flow_sigma(timestep)

    def initial(self, z_T: Tensor, sigma: float) -> Tensor:
        """Unit noise at the first level."""
        return z_T * sigma

    def denoise(self, x: Tensor, sigma: Tensor | float, context: Tensor) -> Tensor:
        """The model's estimate of x0 given ``x = (1 - sigma) x0 + sigma eps``; shapes as above."""
        levels = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).expand(len(x))
        velocity = self.denoiser(x, levels, context.expand(len(x), -1, -1))
        return x - levels[:, None, None, None] * velocity


def load_tiny(device: str | torch.device = "cpu", kind: str = "unet") -> TinyModel:
    """A fresh tiny model of one of the `KINDS` in float32 with frozen weights; nothing is read before this call."""
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; choose one of {', '.join(KINDS)}")
    device, weights = torch.device(device), load_weights()
    denoiser, vae, text = (DiT() if kind == "flow" else UNet()), Autoencoder(), TextEncoder()
    own = load_weights(FLOW_WEIGHTS) if kind == "flow" else weights
    states = (own["dit" if kind == "flow" else "unet"], weights["vae"], own["text"])
    for network, state in zip((denoiser, vae, text), states, strict=True):
        network.load_state_dict(state)
        network.requires_grad_(False).train(False).to(device)
    return (TinyFlow if kind == "flow" else TinyModel)(denoiser, vae, text, device)
