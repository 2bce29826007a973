# SPDX-License-Identifier: Apache-2.0
"""HERO Tiny Model: a whole checkpoint that ships in the pack."""

from __future__ import annotations

from comfy_api.latest import io

from .sockets import CATEGORY, found_by


class HERO_TinyModel(io.ComfyNode):
    """Build MODEL, CLIP and VAE from the weights in the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HERO_TinyModel",
            display_name="HERO Tiny Model",
            category=CATEGORY,
            **found_by("toy model", "test model"),
            description=(
                "A real text-to-image model at toy size (128 x 128 pictures of simple scenes) that ships with this "
                "pack: try the whole loop with nothing to download, on a CPU. Every stock node works with it."
            ),
            inputs=[
                io.Combo.Input(
                    "kind",
                    options=["unet", "flow"],
                    default="unet",
                    optional=True,
                    tooltip=(
                        "unet: of Stable Diffusion's kind. flow: a flow-matching transformer of the kind of Lumina 2 "
                        "and Z-Image. Both draw the same scenes with the same VAE."
                    ),
                )
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The denoiser, for any sampler."),
                io.Clip.Output(display_name="CLIP", tooltip="The text encoder, for CLIP Text Encode."),
                io.Vae.Output(display_name="VAE", tooltip="The picture decoder, for VAE Decode."),
            ],
        )

    @classmethod
    def execute(cls, kind: str = "unet") -> io.NodeOutput:
        from ..hero_core.tiny.model import FLOW_WEIGHTS, load_weights
        from . import comfy_tiny

        weights = load_weights()
        if kind == "flow":
            own = load_weights(FLOW_WEIGHTS)
            made = comfy_tiny.flow_model(own["dit"]), comfy_tiny.clip(own["text"], kind)
        else:
            made = comfy_tiny.model(weights["unet"]), comfy_tiny.clip(weights["text"])
        return io.NodeOutput(*made, comfy_tiny.vae(weights["vae"]))
