# SPDX-License-Identifier: Apache-2.0
"""The model families of ComfyUI: what makes each of them, in miniature and at real size. Imported where ComfyUI is.

Every model is built by the host's own class from a configuration; the weights of a miniature are drawn.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.ldm.chroma.model import ChromaParams
from comfy.ldm.flux.model import FluxParams
from comfy.ldm.hunyuan_video.model import HunyuanVideoParams
from comfy.ldm.lumina.model import NextDiT
from torch import Tensor, nn

CPU = torch.device("cpu")


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Text:
    """A conditioning: tokens, their width, and what else its family's text encoders give, by seed."""

    width: int = 64
    tokens: int = 16
    more: dict[str, Callable[[int], Any]] = field(default_factory=dict)

    def __call__(self, seed: int) -> list:
        options = {name: make(seed) for name, make in self.more.items()}
        return [[drawn(1, self.tokens, self.width, seed=seed), options]]


def pooled(width: int) -> dict[str, Callable[[int], Any]]:
    return {"pooled_output": lambda seed: drawn(1, width, seed=seed + 50)}


@dataclass(frozen=True)
class Family:
    """``of``: the class of ``comfy.supported_models``; ``real``: what differs from the miniature at real size."""

    of: str
    config: dict[str, Any]
    latent: tuple[int, ...]
    text: Text = field(default_factory=Text)
    cfg: float = 4.0
    real: dict[str, Any] = field(default_factory=dict)
    targets: int = 0
    """How many layers of attention the real model has."""
    hints: dict[str, Tensor] = field(default_factory=dict)
    """What the host looks for in a checkpoint to tell its kind of prediction."""
    scheduler: str = "simple"

    @property
    def known(self) -> bool:
        """Whether this ComfyUI has the family."""
        return hasattr(comfy.supported_models, self.of)

    def base(
        self, device: torch.device = CPU, real: bool = False, dtype: torch.dtype = torch.float32,
        compute: torch.dtype | None = None, quant_config: dict[str, Any] | None = None,
    ) -> Any:
        """The host's model, its weights not set; ``compute`` where it is another precision than that of the weights."""
        made = getattr(comfy.supported_models, self.of)({**self.config, **(self.real if real else {})})
        if quant_config:
            made.quant_config = quant_config
        made.set_inference_dtype(dtype, compute)
        return made.get_model(dict(self.hints), "", device=device)

    def model(self, seed: int = 0, dtype: torch.dtype = torch.float32, compute: torch.dtype | None = None) -> Any:
        """A MODEL: the miniature."""
        base = self.base(dtype=dtype, compute=compute)
        draw_weights(base.diffusion_model, seed)
        return comfy.model_patcher.ModelPatcher(base, CPU, CPU)


def known(parameters: Any, config: dict[str, Any]) -> dict[str, Any]:
    """What of a configuration this ComfyUI's class takes."""
    names = {*inspect.signature(parameters).parameters, "image_model"}
    return {name: value for name, value in config.items() if name in names}


def draw_weights(root: nn.Module, seed: int, device: torch.device = CPU) -> None:
    """What a checkpoint holds, so that what flows through a network stays near unit scale; norms near 1.

    ``device``: where they are drawn; they stay where the network is.
    """
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in root.state_dict(keep_vars=True).items():
        noise = torch.randn(parameter.shape, generator=generator, device=device)
        parameter.data = near_unit(name, noise).to(parameter.dtype).to(parameter.device)


def near_unit(name: str, noise: Tensor) -> Tensor:
    """Unit noise as the weight of that name in a checkpoint."""
    if noise.ndim > 1:
        return noise / max(1, noise[0].numel()) ** 0.5
    if "norm" in name and name.endswith(("weight", "scale")):
        return 1 + 0.1 * noise
    return 0.02 * noise


UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "use_spatial_transformer": True,
    "use_temporal_attention": False, "legacy": False, "adm_in_channels": None,
}  # fmt: skip
TWO_LEVELS = {
    "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1], "context_dim": 64,
}  # fmt: skip
SD_REAL = {
    "model_channels": 320, "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_output": [1] * 9 + [0] * 3, "context_dim": 768,
}  # fmt: skip
SDXL = {
    **UNET, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_middle": 2, "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2], "context_dim": 64,
    "use_linear_in_transformer": True, "adm_in_channels": 2816, "num_classes": "sequential",
}  # fmt: skip
SDXL_REAL = {
    "model_channels": 320, "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048,
}  # fmt: skip
SDXL_TEXT = Text(tokens=77, more={**pooled(1280), "width": lambda _: 1024, "height": lambda _: 1024})


def embedder(width: int, hidden: int) -> dict[str, Any]:
    return {"target": "torch.nn.Linear", "params": {"in_features": width, "out_features": hidden}}


SD3 = {
    "in_channels": 16, "patch_size": 2, "out_channels": 16, "depth": 2, "input_size": None, "adm_in_channels": 64,
    "context_embedder_config": embedder(64, 128), "num_patches": 1024, "pos_embed_max_size": 32,
    "pos_embed_scaling_factor": None, "x_block_self_attn_layers": [],
}  # fmt: skip
SD35 = {**SD3, "qk_norm": "rms", "x_block_self_attn_layers": [0]}
SD3_REAL = {
    "depth": 24, "adm_in_channels": 2048, "context_embedder_config": embedder(4096, 1536), "num_patches": 36864,
    "pos_embed_max_size": 192,
}  # fmt: skip
SD3_TEXT = Text(more=pooled(64))


FLUX = {
    "image_model": "flux", "axes_dim": [16, 56, 56], "num_heads": 2, "mlp_ratio": 4.0, "theta": 10000,
    "out_channels": 16, "qkv_bias": True, "txt_ids_dims": [], "patch_size": 2, "in_channels": 16, "hidden_size": 256,
    "context_in_dim": 64, "vec_in_dim": 32, "depth": 2, "depth_single_blocks": 2, "guidance_embed": True,
    "yak_mlp": False, "txt_norm": False,
}  # fmt: skip
FLUX = known(FluxParams, FLUX)
FLUX_REAL = {
    "num_heads": 24, "hidden_size": 3072, "context_in_dim": 4096, "vec_in_dim": 768, "depth": 19,
    "depth_single_blocks": 38,
}  # fmt: skip
FLUX2 = {
    **FLUX, "image_model": "flux2", "axes_dim": [32] * 4, "mlp_ratio": 3.0, "theta": 2000, "out_channels": 128,
    "global_modulation": True, "mlp_silu_act": True, "qkv_bias": False, "ops_bias": False, "patch_size": 1,
    "default_ref_method": "index", "ref_index_scale": 10.0, "txt_ids_dims": [3], "in_channels": 128, "vec_in_dim": None,
}  # fmt: skip
FLUX2_REAL = {"num_heads": 48, "hidden_size": 6144, "context_in_dim": 15360, "depth": 8, "depth_single_blocks": 48}
CHROMA = {
    **FLUX, "image_model": "chroma", "out_channels": 64, "in_channels": 64, "vec_in_dim": None, "in_dim": 64,
    "out_dim": 256, "hidden_dim": 128, "n_layers": 1,
}  # fmt: skip
CHROMA = known(ChromaParams, CHROMA)
CHROMA_REAL = known(ChromaParams, {**FLUX_REAL, "out_dim": 3072, "hidden_dim": 5120, "n_layers": 5})

LUMINA = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 192, "cap_feat_dim": 64, "n_layers": 2,
    "n_refiner_layers": 1, "qk_norm": True, "n_heads": 2, "n_kv_heads": 1, "axes_dims": [32, 32, 32],
    "axes_lens": [300, 512, 512], "rope_theta": 10000.0, "ffn_dim_multiplier": 4.0,
}  # fmt: skip
LUMINA = known(NextDiT, LUMINA)
LUMINA_REAL = {
    "dim": 2304, "cap_feat_dim": 2304, "n_layers": 26, "n_refiner_layers": 2, "n_heads": 24, "n_kv_heads": 8,
}  # fmt: skip
Z_IMAGE = {
    **LUMINA, "dim": 256, "n_kv_heads": 2, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0, "ffn_dim_multiplier": 8 / 3, "z_image_modulation": True, "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}  # fmt: skip
Z_IMAGE_REAL = {
    "dim": 3840, "cap_feat_dim": 2560, "n_layers": 30, "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30,
}  # fmt: skip

HIDREAM = {
    "image_model": "hidream", "attention_head_dim": 64, "axes_dims_rope": [32, 16, 16], "caption_channels": [64, 64],
    "max_resolution": [32, 32], "in_channels": 16, "llama_layers": [0, 1, 1, 1], "num_attention_heads": 2,
    "num_routed_experts": 4, "num_activated_experts": 4, "num_layers": 2, "num_single_layers": 2, "out_channels": 16,
    "patch_size": 2, "text_emb_dim": 64,
}  # fmt: skip
HIDREAM_REAL = {
    "num_activated_experts": 2,  # a choice among experts has no slope to measure
    "attention_head_dim": 128, "axes_dims_rope": [64, 32, 32], "caption_channels": [4096, 4096],
    "max_resolution": [128, 128], "llama_layers": list(range(32)) + [31] * 16, "num_attention_heads": 20,
    "num_layers": 16, "num_single_layers": 32, "text_emb_dim": 2048,
}  # fmt: skip
HIDREAM_TEXT = Text(more={**pooled(64), "conditioning_llama3": lambda seed: drawn(1, 2, 16, 64, seed=seed + 9)})

WAN = {
    "image_model": "wan2.1", "model_type": "t2v", "dim": 256, "in_dim": 16, "out_dim": 16, "num_heads": 2,
    "ffn_dim": 256, "num_layers": 2, "patch_size": (1, 2, 2), "freq_dim": 256, "window_size": (-1, -1),
    "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6, "text_dim": 64,
}  # fmt: skip
WAN_REAL = {"dim": 5120, "num_heads": 40, "ffn_dim": 13824, "num_layers": 40, "text_dim": 4096}
WAN22 = {**WAN, "in_dim": 48, "out_dim": 48}
WAN22_REAL = {"dim": 3072, "num_heads": 24, "ffn_dim": 14336, "num_layers": 30, "text_dim": 4096}

AURA = {"max_seq": 256, "cond_seq_dim": 64, "dim": 128, "n_heads": 2, "global_conddim": 128, "n_layers": 3,
        "n_double_layers": 1}  # fmt: skip
AURA_REAL = {"max_seq": 9216, "cond_seq_dim": 2048, "dim": 3072, "n_heads": 12, "global_conddim": 3072, "n_layers": 36,
             "n_double_layers": 4}  # fmt: skip
PIXART = {
    "image_model": "pixart_sigma", "num_heads": 2, "patch_size": 2, "hidden_size": 64, "in_channels": 4, "depth": 2,
    "caption_channels": 64, "input_size": 128, "pe_interpolation": 2, "micro_condition": False, "model_max_length": 300,
}  # fmt: skip
PIXART_REAL = {"num_heads": 16, "hidden_size": 1152, "depth": 28, "caption_channels": 4096}
HUNYUAN = {
    "image_model": "hunyuan_video", "in_channels": 64, "patch_size": [1, 1], "out_channels": 64, "vec_in_dim": None,
    "axes_dim": [32, 32], "meanflow": False, "context_in_dim": 64, "hidden_size": 128, "mlp_ratio": 4.0, "num_heads": 2,
    "depth": 2, "depth_single_blocks": 2, "theta": 256, "qkv_bias": True, "byt5": False, "guidance_embed": False,
    "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
HUNYUAN = known(HunyuanVideoParams, HUNYUAN)
HUNYUAN_REAL = {
    "axes_dim": [64, 64], "context_in_dim": 3584, "hidden_size": 3584, "num_heads": 28, "depth": 20,
    "depth_single_blocks": 40, "byt5": True,
}  # fmt: skip
COSMOS = {
    "image_model": "cosmos_predict2", "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16,
    "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 256, "concat_padding_mask": True,
    "crossattn_emb_channels": 1024, "pos_emb_cls": "rope3d", "pos_emb_learnable": True, "pos_emb_interpolation": "crop",
    "min_fps": 1, "max_fps": 30, "use_adaln_lora": True, "adaln_lora_dim": 64, "num_blocks": 2, "num_heads": 2,
    "extra_per_block_abs_pos_emb": False, "rope_h_extrapolation_ratio": 4.0, "rope_w_extrapolation_ratio": 4.0,
    "rope_t_extrapolation_ratio": 1.0, "extra_h_extrapolation_ratio": 1.0, "extra_w_extrapolation_ratio": 1.0,
    "extra_t_extrapolation_ratio": 1.0, "rope_enable_fps_modulation": False,
}  # fmt: skip
COSMOS_REAL = {"model_channels": 2048, "num_blocks": 28, "num_heads": 16, "adaln_lora_dim": 256}
T5_IDS = {"t5xxl_ids": lambda seed: torch.arange(20) + seed, "t5xxl_weights": lambda _: torch.ones(20)}
KANDINSKY = {
    "image_model": "kandinsky5", "model_dim": 128, "ff_dim": 256, "visual_embed_dim": 64, "num_text_blocks": 1,
    "num_visual_blocks": 2, "axes_dims": (16, 24, 24), "in_text_dim": 64, "in_text_dim2": 32, "time_dim": 64,
}  # fmt: skip
KANDINSKY_REAL = {
    "model_dim": 2560, "ff_dim": 10240, "num_text_blocks": 2, "num_visual_blocks": 50, "axes_dims": (32, 48, 48),
    "in_text_dim": 3584, "in_text_dim2": 768, "time_dim": 512,
}  # fmt: skip
KREA2 = {
    "image_model": "krea2", "features": 256, "channels": 16, "patch": 2, "layers": 2, "heads": 2, "kvheads": 1,
    "txtlayers": 2, "txtdim": 256, "txtheads": 2, "txtkvheads": 2,
}  # fmt: skip
KREA2_REAL = {"features": 6144, "layers": 28, "heads": 48, "kvheads": 12, "txtlayers": 12, "txtdim": 2560,
              "txtheads": 20, "txtkvheads": 20}  # fmt: skip

V_OF_SD2 = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.tensor([-1.0, 1.0])}
# The host multiplies guidance by 1000 in the model's own precision: of 3.5 bfloat16 makes 3504, another question.
GUIDED, FLUX_TEXT = {"guidance": lambda _: 4.0}, pooled(32)
MASK = {"attention_mask": lambda _: torch.ones(1, 16, dtype=torch.long)}

FAMILIES: dict[str, Family] = {
    "SD 1.5": Family("SD15", {**UNET, **TWO_LEVELS, "use_linear_in_transformer": False}, (4, 16, 16),
                     Text(tokens=77), real=SD_REAL, targets=128),
    "SD 2 v": Family("SD20", {**UNET, **TWO_LEVELS, "model_channels": 64, "use_linear_in_transformer": True},
                     (4, 16, 16), Text(tokens=77), real={**SD_REAL, "context_dim": 1024}, targets=128, hints=V_OF_SD2),
    "SDXL": Family("SDXL", SDXL, (4, 16, 16), SDXL_TEXT, real=SDXL_REAL, targets=560),
    "SDXL v": Family("SDXL", SDXL, (4, 16, 16), SDXL_TEXT, real=SDXL_REAL, targets=560,
                     hints={"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}),
    "SD 3": Family("SD3", SD3, (16, 16, 16), SD3_TEXT, real=SD3_REAL, targets=95),
    "SD 3.5": Family("SD3", SD35, (16, 16, 16), SD3_TEXT, targets=121,
                     real={**SD3_REAL, "x_block_self_attn_layers": list(range(13))}),
    "Flux.1 dev": Family("Flux", FLUX, (16, 16, 16), Text(more={**FLUX_TEXT, **GUIDED}), 1.0, FLUX_REAL, 152),
    "Flux.1 schnell": Family("FluxSchnell", {**FLUX, "guidance_embed": False}, (16, 16, 16), Text(more=FLUX_TEXT), 1.0,
                             FLUX_REAL, 152),
    "Flux.2": Family("Flux2", FLUX2, (128, 8, 8), Text(more=GUIDED), 1.0, FLUX2_REAL, 128),
    "Chroma": Family("Chroma", CHROMA, (16, 16, 16), Text(more=FLUX_TEXT), real=CHROMA_REAL, targets=152),
    "Qwen-Image": Family("QwenImage", {"image_model": "qwen_image", "in_channels": 64, "num_layers": 2,
                         "num_attention_heads": 2, "joint_attention_dim": 64}, (16, 1, 16, 16), targets=480,
                         real={"num_layers": 60, "num_attention_heads": 24, "joint_attention_dim": 3584}),
    "Z-Image": Family("ZImage", Z_IMAGE, (16, 16, 16), cfg=1.0, real=Z_IMAGE_REAL, targets=68),
    "Lumina 2": Family("Lumina2", LUMINA, (16, 16, 16), Text(more=MASK), real=LUMINA_REAL, targets=60),
    "HiDream": Family("HiDream", HIDREAM, (16, 16, 16), HIDREAM_TEXT, real=HIDREAM_REAL, targets=256),
    "Wan 2.1": Family("WAN21_T2V", WAN, (16, 1, 16, 16), real=WAN_REAL, targets=320),
    "Wan 2.2": Family("WAN22_T2V", WAN22, (48, 1, 16, 16), real=WAN22_REAL, targets=240),
    "AuraFlow": Family("AuraFlow", AURA, (4, 16, 16), real=AURA_REAL, targets=160),
    "PixArt": Family("PixArtSigma", PIXART, (4, 48, 48), real=PIXART_REAL, targets=140),
    "Hunyuan-Image": Family("HunyuanImage21", HUNYUAN, (64, 8, 8), real=HUNYUAN_REAL, targets=160),
    "Cosmos-Predict2": Family("CosmosT2IPredict2", COSMOS, (16, 1, 16, 16), Text(1024), real=COSMOS_REAL, targets=224,
                              scheduler="karras"),
    "Anima": Family("Anima", {**COSMOS, "image_model": "anima"}, (16, 1, 16, 16), Text(1024, more=T5_IDS),
                    real=COSMOS_REAL, targets=224),
    "Kandinsky 5": Family("Kandinsky5Image", KANDINSKY, (16, 16, 16), Text(more=pooled(32)), real=KANDINSKY_REAL,
                          targets=408),
    "Krea 2": Family("Krea2", KREA2, (16, 16, 16), Text(512), real=KREA2_REAL, targets=112),
}  # fmt: skip
"""By the name that people know each by."""
