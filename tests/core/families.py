# SPDX-License-Identifier: Apache-2.0
"""The UNets of SD 1.5 and SDXL by their configurations alone, as diffusers and as ComfyUI describe them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """``diffusers``: the arguments of its UNet; ``ldm``: the layout that :func:`hero_core.lora.kohya_key` asks for,
    in ComfyUI's words; ``depths``: the transformer blocks in each attention of the LDM UNet."""

    diffusers: dict[str, Any]
    ldm: dict[str, Any]
    depths: dict[str, int]

    def attention_paths(self) -> list[str]:
        """Every projection of every attention, by LDM module path."""
        names = [f"{attn}.{one}" for attn in ("attn1", "attn2") for one in ("to_q", "to_k", "to_v", "to_out.0")]
        return [f"{place}.transformer_blocks.{i}.{name}" for place, n in self.depths.items()
                for i in range(n) for name in names]  # fmt: skip


FAMILIES = {
    "SD 1.5": Family(
        {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768},
        {"num_res_blocks": [2, 2, 2, 2], "channel_mult": (1, 2, 4, 4), "transformer_depth_middle": 1,
         "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_output": [*[1] * 9, 0, 0, 0]},
        {**{f"input_blocks.{i}.1": 1 for i in (1, 2, 4, 5, 7, 8)}, "middle_block.1": 1,
         **{f"output_blocks.{i}.1": 1 for i in range(3, 12)}},
    ),
    "SDXL": Family(
        {"block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048, "use_linear_projection": True,
         "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
         "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
         "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20),
         "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
         "projection_class_embeddings_input_dim": 2816},
        {"num_res_blocks": [2, 2, 2], "channel_mult": (1, 2, 4), "transformer_depth_middle": 10,
         "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10]},
        {"input_blocks.4.1": 2, "input_blocks.5.1": 2, "input_blocks.7.1": 10, "input_blocks.8.1": 10,
         "middle_block.1": 10, **{f"output_blocks.{i}.1": 10 for i in (0, 1, 2)},
         **{f"output_blocks.{i}.1": 2 for i in (3, 4, 5)}},
    ),
}  # fmt: skip
