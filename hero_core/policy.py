# SPDX-License-Identifier: Apache-2.0
"""The policy: a frozen model with a LoRA and its conditioning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor

from .lora import LoRA, LoRAConfig, LoRAState, Names
from .precision import GradientScale

T = TypeVar("T")
Progress = Callable[[int, int, "Tensor | None"], None]
"""``progress(done, total, x0_hat)``; called often, and free to raise in order to cancel."""

Side = Literal["guided", "positive", "negative"]


def no_progress(done: int, total: int, preview: Tensor | None = None) -> None:
    """The progress of callers who do not watch."""


class Actor(Protocol):
    """The policy while its model is loaded and its LoRA attached. All latents are ``(m, C, H, W)`` float32."""

    device: torch.device
    dtype: torch.dtype
    lora: LoRA

    @property
    def gradient_scale(self) -> GradientScale | None:
        """What carries gradients through a float16 model, :meth:`denoise` passing on what it returns; else None."""

    def denoise(self, x: Tensor, sigma: Tensor, side: Side = "guided") -> Tensor:
        """The prediction ``x0_hat`` of ``x`` at noise levels ``sigma`` ``(m,)``; m = the run's ``rows``.

        With guidance, or from the positive or the negative prompt alone.
        """

    def initial(self, z_T: Tensor, sigma: float) -> Tensor:
        """Unit noise scaled to the first noise level."""

    def final(self, x: Tensor) -> Tensor:
        """The last latent in the model's own scale."""


class Policy(Protocol):
    """Model and conditioning, ready to be run with any LoRA state and guidance."""

    fingerprint: str
    description: dict[str, str]
    about: dict[str, str]
    """What a shared file says of the model, see :class:`.metadata.Taught`."""
    latent_shape: tuple[int, ...]
    flow: bool
    mixed_sigmas: bool

    def sigmas(self, steps: int, scheduler: str) -> Tensor:
        """Noise levels ``(steps + 1,)`` float32, ending in 0."""

    def training_sigma(self, u: Tensor) -> Tensor:
        """Noise levels float32 at the shares ``u`` of the training times, 0 the cleanest and 1 the noisiest."""

    def fresh_lora(self, config: LoRAConfig, generator: torch.Generator) -> LoRAState:
        """An untrained LoRA for this model, by :func:`fresh_lora`."""

    def lora_keys(self, paths: Sequence[str]) -> dict[str, Names]:
        """The names under which shared LoRA files keep the modules at ``paths``, all of one LoRA."""

    def run(self, body: Callable[[Actor], T], *, lora: LoRAState, rows: int, grad: bool, cfg: float) -> T:
        """Load the model, attach ``lora``, call ``body(actor)``, detach.

        Every ``denoise`` gets ``rows`` rows, and guides by ``cfg``: what a round was drawn with it is learned with.
        """
