# SPDX-License-Identifier: Apache-2.0
"""What the layers of a LoRA are called in a file that other programs read too."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.lora
import comfy.model_base
import torch

from ..hero_core.lora import Names, Part

BY_KOHYAS_NAMES = {
    comfy.model_base.SD3: re.compile("(?!)"),
    comfy.model_base.Flux: re.compile(r"(double|single)_blocks\..*"),
}
"""Which layers of these models diffusers reads by kohya's names; the others it reads by its own alone (0.42)."""

Aliases = Mapping[str, list[tuple[str, Any, Any]]]
"""By weight: name, place and order as the host's loader has them."""


def shared_names(model: Any, paths: Sequence[str], whole: bool = False) -> dict[str, Names]:
    """The names of the modules at ``paths``, all of one LoRA: kohya's where ComfyUI knows one, else the generic ones.

    Where diffusers reads only names of its own, these, with a layer in several parts; not with ``whole``: the host's
    bypass, which keeps a LoRA beside quantised weights, passes over parts.
    """
    aliases = _aliases(model)
    readable = next((pattern for kind, pattern in BY_KOHYAS_NAMES.items() if isinstance(model, kind)), None)
    if readable and not whole and not all(readable.fullmatch(path) for path in paths):
        parts = {path: _parts(aliases, path, model.diffusion_model.get_submodule(path)) for path in paths}
        if all(parts.values()):
            return parts
    return {path: _kohya(aliases, path) for path in paths}


def _aliases(model: Any) -> Aliases:
    found: dict[str, list[tuple[str, Any, Any]]] = {}
    for name, known in comfy.lora.model_lora_keys_unet(model, {}).items():
        weight, place, order = (*((known,) if isinstance(known, str) else known), None, None)[:3]
        found.setdefault(weight, []).append((name, place, order))
    return found


def _kohya(aliases: Aliases, path: str) -> str:
    known = aliases.get(f"diffusion_model.{path}.weight", [])
    names = [name for name, place, order in known if place is order is None and name.startswith("lora_unet_")]
    blocks = [name for name in names if name.startswith(("lora_unet_down_", "lora_unet_up_", "lora_unet_mid_"))]
    return (blocks or names or [f"diffusion_model.{path}"])[0]


def _parts(aliases: Aliases, path: str, layer: Any) -> tuple[Part, ...]:
    """The layers of diffusers that are this one; empty where they are not all of it."""
    found: dict[int, Part] = {}
    for name, place, order in aliases.get(f"diffusion_model.{path}.weight", []):
        if name.startswith("transformer."):
            _, start, length = place or (0, 0, layer.out_features)
            rows = torch.arange(start, start + length)
            part = Part(name, rows if order is None else rows[order(torch.arange(length)).argsort()])
            kept = found.get(start)
            if kept is None or length < len(kept.rows):  # another generation of the family has them in one
                found[start] = part
    parts = [found[start] for start in sorted(found)]
    together = torch.cat([part.rows for part in parts]) if parts else torch.empty(0)
    return tuple(parts) if sorted(together.tolist()) == list(range(layer.out_features)) else ()
