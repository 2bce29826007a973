# SPDX-License-Identifier: Apache-2.0
"""What files that are shared say of the model: its architecture as others call it, and its checkpoint's hash."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import comfy.model_sampling
import folder_paths

KNOWN = {
    "TinyConfig": ("hero-tiny", "hero_tiny"),
    "TinyFlowConfig": ("hero-tiny-flow", "hero_tiny_flow"),
    "SD15": ("stable-diffusion-v1", "sd_v1"),
    "SD20": ("stable-diffusion-v2-512", "sd_v2"),
    "SDXL": ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
    "SD3": ("stable-diffusion-3", "sd3"),
    "Flux": ("flux-1-dev", "flux1"),
    "FluxSchnell": ("flux-1-schnell", "flux1"),
    "Lumina2": ("lumina-2", "lumina2"),
}
"""By the host's class of a family: modelspec's name of its architecture, and kohya's of its version. Others have the
host's own name."""

V_OF_SD2 = ("stable-diffusion-v2-768-v", "sd_v2_v")
PREDICTIONS = {
    "flow": comfy.model_sampling.CONST, "v": comfy.model_sampling.V_PREDICTION, "epsilon": comfy.model_sampling.EPS
}  # fmt: skip
"""The first that fits counts: the host makes one of the other."""


def about(model: Any, checkpoint: str | None) -> dict[str, str]:
    """What is known of MODEL ``model``: ``architecture``, ``base``, ``prediction`` and ``checkpoint_hash``."""
    family = type(model.model.model_config).__name__
    sampling = model.get_model_object("model_sampling")
    prediction = next((name for name, kind in PREDICTIONS.items() if isinstance(sampling, kind)), None)
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_", "-", family).lower()
    architecture, base = KNOWN.get(family, (plain, plain.replace("-", "_")))
    if family == "SD20" and prediction == "v":
        architecture, base = V_OF_SD2
    found = {"architecture": architecture, "base": base, "prediction": prediction}
    found["checkpoint_hash"] = _hash_of(checkpoint) if checkpoint else None
    return {name: value for name, value in found.items() if value}


def _hash_of(checkpoint: str) -> str | None:
    """The short hash by which kohya's readers know a checkpoint, of 64 KiB in it: a whole file would take minutes."""
    for kind in ("checkpoints", "diffusion_models", *folder_paths.folder_names_and_paths):
        path = folder_paths.get_full_path(kind, checkpoint) if kind in folder_paths.folder_names_and_paths else None
        if path:
            return _short_hash(Path(path))
    return None


def _short_hash(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            file.seek(0x100000)
            part = file.read(0x10000)
    except OSError:
        return None
    return hashlib.sha256(part).hexdigest()[:8] if part else None
