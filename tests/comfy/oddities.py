# SPDX-License-Identifier: Apache-2.0
"""Test nodes for what nobody should wire, installed beside the pack: odd checkpoints, latents, images and numbers."""

from __future__ import annotations

import torch

MODELS = ("fp8", "no attention", "NaN", "finetuned")
LATENTS = {
    "no pictures": (0, 4, 16, 16), "video": (1, 4, 3, 16, 16), "too small": (2, 4, 4, 4), "wide": (2, 4, 16, 24),
    "NaN": (2, 4, 16, 16),
}  # fmt: skip
IMAGES = {
    "none": (0, 128, 128, 3), "one too few": (1, 128, 128, 3), "grey": (2, 128, 128, 1), "flat": (2, 0, 128, 3),
    "RGBA": (2, 128, 128, 4), "no batch": (128, 128, 3),
}  # fmt: skip
NUMBERS = ("nan", "inf", "-inf", "-1")


class _Odd:
    CATEGORY, FUNCTION = "tests", "make"


class OddModel(_Odd):
    """The tiny model with other weights."""

    RETURN_TYPES = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"odd": (MODELS,)}}

    def make(self, odd):
        import nodes

        model = nodes.NODE_CLASS_MAPPINGS["HERO_TinyModel"].execute().args[0]
        with torch.inference_mode(False), torch.no_grad():
            for name, module in list(model.model.diffusion_model.named_modules()):
                if odd == "no attention":
                    for part in [part for part, _ in module.named_children() if part.startswith("attn")]:
                        setattr(module, f"mixer{part[4:]}", module._modules.pop(part))
                elif name.endswith("to_q"):
                    module.weight = torch.nn.Parameter(_other(module.weight, odd), False)
        return (model,)


def _other(weight, odd):
    if odd == "fp8":
        return weight.clone().to(torch.float8_e4m3fn)
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return torch.full_like(noise, torch.nan) if odd == "NaN" else weight.clone() + noise


class OddLatent(_Odd):
    """A LATENT of an odd shape."""

    RETURN_TYPES = ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"odd": (list(LATENTS),)}}

    def make(self, odd):
        return ({"samples": torch.full(LATENTS[odd], torch.nan if odd == "NaN" else 0.0)},)


class OddImage(_Odd):
    """An IMAGE of an odd shape."""

    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"odd": (list(IMAGES),)}}

    def make(self, odd):
        return (torch.full(IMAGES[odd], 0.5),)


class OddNumber(_Odd):
    """A number that no widget takes, by a link, where ComfyUI does not look at its range."""

    RETURN_TYPES = ("FLOAT", "INT")

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"value": (NUMBERS,)}}

    def make(self, value):
        number = float(value)
        return number, -1


class _Any(str):
    """A socket's type that fits every other, as packs have them."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


class OddAny(_Odd):
    """Any widget's value, by a link."""

    RETURN_TYPES = (_Any("*"),)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"json": ("STRING", {})}}

    def make(self, json):
        import json as reader

        return (reader.loads(json),)


NODE_CLASS_MAPPINGS = {f"Odd_{kind.__name__[3:]}": kind for kind in (OddModel, OddLatent, OddImage, OddNumber, OddAny)}
