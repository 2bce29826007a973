# SPDX-License-Identifier: Apache-2.0
"""A policy small enough for exact checks: a linear denoiser and a small attention net."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hero_core.embedding import Embedding
from hero_core.lora import LoRA, LoRAConfig, LoRAState, fresh_lora

SHAPE = (4, 8, 8)


class Attn(nn.Module):
    """Named as in a diffusion UNet, so that the default LoRA targets find it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn1, self.attn2 = Attn(width), Attn(width)
        self.ff = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        for attn in (self.attn1, self.attn2):
            weights = (attn.to_q(tokens) @ attn.to_k(tokens).transpose(1, 2) / 4).softmax(-1)
            tokens = tokens + attn.to_out[0](weights @ attn.to_v(tokens))
        return tokens + self.ff(tokens).tanh()


class ToyPolicy:
    """x0_hat = x / (1 + sigma^2) + guidance times a small attention net; every promise of Policy at toy size."""

    latent_shape = SHAPE

    def __init__(self, flow: bool = False, mixed_sigmas: bool = True, prompt: str = "a toy") -> None:
        self.flow, self.mixed_sigmas = flow, mixed_sigmas
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = Block(4).requires_grad_(False)
        self.fingerprint, self.description = f"toy {prompt}", {"prompt": prompt, "size": "64 x 64"}
        self.about = {"architecture": "toy", "base": "toy_v1", "prediction": "flow" if flow else "epsilon"}
        self.calls: list[tuple[int, int]] = []
        self.fault = 0.0
        self.sided = False
        """Whether the negative prompt predicts something else than the positive one."""

    def sigmas(self, steps: int, scheduler: str) -> Tensor:
        top, low = (1.0, 0.03) if self.flow else (14.6, 0.03)
        if scheduler == "karras":
            return torch.cat([torch.linspace(top ** (1 / 7), low ** (1 / 7), steps) ** 7, torch.zeros(1)])
        return torch.cat([torch.logspace(math.log10(top), math.log10(low), steps), torch.zeros(1)])

    def training_sigma(self, u: Tensor) -> Tensor:
        return 0.03 + u * ((1.0 if self.flow else 14.6) - 0.03)

    def fresh_lora(self, config: LoRAConfig, generator: torch.Generator) -> LoRAState:
        return fresh_lora(self.net, config, generator)

    def lora_keys(self, paths: Sequence[str]) -> dict[str, str]:
        return {path: "lora_unet_" + path.replace(".", "_") for path in paths}

    def run(self, body, *, lora, rows, grad, cfg=5.0):  # type: ignore[no-untyped-def]
        adapters = LoRA.inject(self.net, lora.config)
        try:
            adapters.load(lora.weights)
            with torch.set_grad_enabled(grad):
                return body(ToyActor(self, adapters, rows, cfg))
        finally:
            adapters.eject()


class NarrowEmbedding(Embedding):
    """E and g with 32 features in the place of 2048: a state of 100 kB and not of 80 MB."""

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        nn.Module.__init__(self)
        c = latent_shape[0]
        small = nn.Sequential(nn.Conv2d(c, c, 3), nn.AdaptiveMaxPool2d(2), nn.Flatten())
        self.E = nn.Sequential(small, nn.Linear(4 * c, 32), nn.ReLU())
        self.g = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16))


class ToyActor:
    device, dtype, gradient_scale = torch.device("cpu"), torch.float32, None

    def __init__(self, policy: ToyPolicy, lora: LoRA, rows: int, cfg: float) -> None:
        self.policy, self.lora, self.rows, self.cfg = policy, lora, rows, cfg

    def denoise(self, x: Tensor, sigma: Tensor, side: str = "guided") -> Tensor:
        assert x.shape == (self.rows, *SHAPE)
        assert sigma.shape == (self.rows,)
        self.policy.calls.append((len(x), len(sigma.unique())))
        column = sigma[:, None, None, None]
        scaled = x / (1 + column**2).sqrt() * (-1 if self.policy.sided and side == "negative" else 1)
        net = self.policy.net(scaled.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)
        guidance = self.cfg if side == "guided" else 5.0
        return x / (1 + column**2) + 0.06 * guidance * net + self.policy.fault

    def initial(self, z_T: Tensor, sigma: float) -> Tensor:
        return z_T * sigma

    def final(self, x: Tensor) -> Tensor:
        return x
