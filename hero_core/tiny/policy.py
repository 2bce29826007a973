# SPDX-License-Identifier: Apache-2.0
"""The tiny model as a policy, for everything that runs without ComfyUI."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..lora import LoRA, LoRAConfig, LoRAState, Names, fresh_lora, kohya_key
from ..policy import Actor, Side, T
from .model import TinyModel
from .unet import UNET_CONFIG


class TinyPolicy:
    """The tiny model and a prompt as :class:`hero_core.policy.Policy`."""

    mixed_sigmas = True
    latent_shape: tuple[int, ...] = (4, 16, 16)

    def __init__(self, model: TinyModel, prompt: str, negative: str = "") -> None:
        self.model, self.flow = model, model.flow
        self.context = model.encode_prompt(prompt)
        self.no_context = model.encode_prompt(negative)
        name = "HERO tiny (flow)" if model.flow else "HERO tiny"
        self.description = {"checkpoint": name, "prompt": prompt, "negative": negative, "size": "128 x 128"}
        kind = ("hero-tiny-flow", "hero_tiny_flow", "flow") if model.flow else ("hero-tiny", "hero_tiny", "epsilon")
        self.about = dict(zip(("architecture", "base", "prediction"), kind, strict=True))
        self.fingerprint = hashlib.sha256(repr(sorted(self.description.items())).encode()).hexdigest()[:32]

    def sigmas(self, steps: int, scheduler: str) -> Tensor:
        """Noise levels ``(steps + 1,)`` as ComfyUI's scheduler of that name gives them."""
        return self.model.sigmas(steps, scheduler)

    def training_sigma(self, u: Tensor) -> Tensor:
        """Noise levels at the shares ``u`` of the training times."""
        return self.model.train_sigmas[(u * (len(self.model.train_sigmas) - 1)).round().long()]

    def fresh_lora(self, config: LoRAConfig, generator: torch.Generator) -> LoRAState:
        """An untrained LoRA."""
        return fresh_lora(self.model.denoiser, config, generator)

    def lora_keys(self, paths: Sequence[str]) -> dict[str, Names]:
        """The kohya names of modules: of the UNet by its blocks, of the DiT by their paths."""
        return {path: self._lora_key(path) for path in paths}

    def _lora_key(self, path: str) -> str:
        return f"lora_unet_{path.replace('.', '_')}" if self.flow else kohya_key(path, UNET_CONFIG)

    def run(self, body: Callable[[Actor], T], *, lora: LoRAState, rows: int, grad: bool, cfg: float) -> T:
        """Attach ``lora`` to the denoiser for as long as ``body`` runs."""
        adapters = LoRA.inject(self.model.denoiser, lora.config)
        try:
            adapters.load(lora.weights)
            adapters.to(self.model.device)
            with torch.set_grad_enabled(grad):
                return body(_TinyActor(self, adapters, cfg))
        finally:
            adapters.eject()


class _TinyActor:
    """See :class:`hero_core.policy.Actor`."""

    dtype, gradient_scale = torch.float32, None

    def __init__(self, policy: TinyPolicy, lora: LoRA, cfg: float) -> None:
        self.policy, self.lora, self.cfg, self.device = policy, lora, cfg, policy.model.device

    def denoise(self, x: Tensor, sigma: Tensor, side: Side = "guided") -> Tensor:
        """Classifier-free guidance; each side in a call of its own, as in ComfyUI's policy."""
        policy = self.policy
        if side == "negative":
            return policy.model.denoise(x, sigma, policy.no_context.expand(len(x), -1, -1))
        wanted = policy.model.denoise(x, sigma, policy.context.expand(len(x), -1, -1))
        if self.cfg == 1 or side == "positive":
            return wanted
        plain = policy.model.denoise(x, sigma, policy.no_context.expand(len(x), -1, -1))
        return plain + self.cfg * (wanted - plain)

    def initial(self, z_T: Tensor, sigma: float) -> Tensor:
        """As ComfyUI scales unit noise for the model."""
        return self.policy.model.initial(z_T, sigma)

    def final(self, x: Tensor) -> Tensor:
        """Nothing to undo."""
        return x
