# SPDX-License-Identifier: Apache-2.0
"""What the LoRA alone has learned: pictures from fresh noise, the same noise every time."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .. import seeding
from ..lora import LoRAState
from ..mixture import FROM_FRESH
from ..policy import Policy, Progress, no_progress
from ..rollout import SamplingSettings, sample

PURPOSE = "fresh evaluation"
ROWS = 32
"""Rows of a model call: nothing is scored here, so they need not be those of training, and many are quicker."""


def fresh_latents(
    policy: Policy, lora: LoRAState, n: int, settings: SamplingSettings, *, seed: int, progress: Progress = no_progress
) -> Tensor:
    """``z_0`` ``(n, C, H, W)`` from fresh noise; equal seeds give equal noise, so LoRAs compare in pairs."""
    noise = seeding.randn(policy.latent_shape, seeding.picture_generators(n, seed, PURPOSE))
    source = torch.full((n,), FROM_FRESH, dtype=torch.int64)
    settings = replace(settings, scored_steps=1, micro_batch=ROWS)
    key = seeding.seed_for(seed, PURPOSE)
    return sample(policy, lora, noise, source, settings, seed=key, round=0, progress=progress).z_0
