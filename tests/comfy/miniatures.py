# SPDX-License-Identifier: Apache-2.0
"""A pack for a test's ComfyUI: files of miniature models under real names, and what its loaders need to read them.

It is installed as a folder with `families.py` in it. When the host loads it, it writes the files that are not there.
Most sizes of a diffusion model stand in its file; for those that the host takes for granted this adds classes to its
list. Its text encoders have one size each: in their place stands one that draws an embedding for every word.
"""

from __future__ import annotations

import importlib.util
import json
import zlib
from pathlib import Path
from typing import Any

import comfy.ldm.wan.vae
import comfy.sd
import comfy.supported_models
import comfy.taesd.taesd
import folder_paths
import torch
from comfy.supported_models_base import ClipTarget
from safetensors.torch import save_file
from torch import Tensor, nn

from .families import FAMILIES, draw_weights, drawn

NODE_CLASS_MAPPINGS: dict[str, Any] = {}
MARK = "miniature"
"""A tensor of this name makes a file one of a miniature text encoder."""

# -- text ----------------------------------------------------------------------------------------------------------


class Words:
    """Words as numbers, in the shape that the host's CLIP passes around."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        pass

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, list]:
        return {"words": [[(zlib.crc32(word.encode()), 1.0) for word in text.split()]]}

    def state_dict(self) -> dict:
        return {}


class TextModel(nn.Module):
    """Every word has a drawn embedding of the family's width, and every prompt what else its encoders give."""

    def __init__(self, family: str, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        super().__init__()
        self.text = FAMILIES[family].text
        self.unused = nn.Linear(1, 1)
        self.dtypes = {torch.float32}

    def set_clip_options(self, options: dict) -> None:
        """There is no choice of layer."""

    def reset_clip_options(self) -> None:
        """See above."""

    def encode_token_weights(self, tokens: dict[str, list]) -> tuple[Tensor, Tensor | None]:
        row = [word for word, _ in tokens["words"][0]][: self.text.tokens]
        rows = [drawn(1, self.text.width, seed=word) for word in (row + [0] * self.text.tokens)[: self.text.tokens]]
        pooled = self.text.more.get("pooled_output")
        return torch.cat(rows)[None], pooled(sum(row)) if pooled else None

    def load_sd(self, sd: dict) -> tuple[list, list]:
        return [], []


def target_of(family: str) -> ClipTarget:
    return ClipTarget(Words, lambda **options: TextModel(family, **options))


FAMILY_OF = {"FLUX": "Flux.1 dev", "LUMINA2": "Z-Image", "QWEN_IMAGE": "Qwen-Image"}
"""By the type that is chosen on the loader of text encoders."""


def _reading_miniatures(load_clip: Any) -> Any:
    def load(ckpt_paths: list, *args: Any, clip_type: Any = None, **more: Any) -> Any:
        if MARK in comfy.utils.load_torch_file(ckpt_paths[0]):
            return comfy.sd.CLIP(target_of(FAMILY_OF[clip_type.name]))
        return load_clip(ckpt_paths, *args, clip_type=clip_type, **more)

    return load


comfy.sd.load_clip = _reading_miniatures(comfy.sd.load_clip)

# -- what the host reads of a file ---------------------------------------------------------------------------------


def small(name: str, **seen: Any) -> type:
    """The family's class for files that the host sees this of; its sizes are the miniature's."""
    family = FAMILIES[name]
    real = getattr(comfy.supported_models, family.of)
    members = {
        "unet_config": seen,
        "unet_extra_config": {**real.unet_extra_config, **family.config},
        "clip_target": lambda self, state_dict=None: target_of(name),
    }
    return type(f"Small{family.of}", (real,), members)


OLDEST = not hasattr(comfy.utils, "detect_layer_quantization")
"""Whether the host is of before the newer forms of quantised files."""
KNOWN: dict[str, dict[str, Any]] = {
    **({"Flux.1 dev": {"image_model": "flux", "guidance_embed": True}} if OLDEST else {}),
    "SD 1.5": {"model_channels": 32, "context_dim": 64, "adm_in_channels": None},
    "SDXL": {"model_channels": 32, "adm_in_channels": 2816},
    "Z-Image": {"image_model": "lumina2", "dim": 256},
    "Qwen-Image": {"image_model": "qwen_image", "num_layers": 2},
}
HERE = [name for name in ("SD 1.5", "SDXL", "Flux.1 dev", "Z-Image", "Qwen-Image") if FAMILIES[name].known]
comfy.supported_models.models[:0] = [small(name, **seen) for name, seen in KNOWN.items() if name in HERE]
WanVAE = comfy.ldm.wan.vae.WanVAE
NARROW = 8
comfy.ldm.wan.vae.WanVAE = lambda **sizes: WanVAE(**{**sizes, "dim": NARROW})  # hosts of before read no width

# -- files ---------------------------------------------------------------------------------------------------------

Weights = dict[str, Tensor]


def in_block(name: str, weight: Tensor, multiple: int = 1) -> bool:
    """Whether people's quantised files have this weight quantised: a linear layer in a block, of a width that fits."""
    inside = any(part in name for part in ("blocks", "layers.", "middle_block"))
    return inside and weight.ndim == 2 and weight.shape[1] % multiple == 0


def scaled(weights: Weights) -> tuple[Weights, dict[str, Any]]:
    """fp8 with a scale a layer; and what of each layer would stand in a header."""
    found, layers = {}, {}
    for name, weight in weights.items():
        if not in_block(name, weight):
            found[name] = weight.to(torch.bfloat16)
            continue
        layer = name.removesuffix(".weight")
        scale = weight.abs().max() / 448
        found[name], found[f"{layer}.scale_weight"] = (weight / scale).to(torch.float8_e4m3fn), scale
        layers[layer] = {"format": "float8_e4m3fn"}
    return found, layers


def fp8_marked(weights: Weights, prefix: str) -> tuple[Weights, dict[str, str]]:
    """The older form: a marker for the whole file."""
    found, _ = scaled(weights)
    return {**found, f"{prefix}scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn)}, {}


def fp8_in_header(weights: Weights, prefix: str) -> tuple[Weights, dict[str, str]]:
    """The newer form: the formats of all layers in the file's header."""
    found, layers = scaled(weights)
    renamed = {name.replace(".scale_weight", ".weight_scale"): weight for name, weight in found.items()}
    return renamed, {"_quantization_metadata": json.dumps({"layers": layers})}


def int8_rotated(weights: Weights, prefix: str) -> tuple[Weights, dict[str, str]]:
    """int8 with a rotation, each layer's format beside its weight."""
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    layout, words = (
        QUANT_ALGOS["int8_tensorwise"]["comfy_tensor_layout"],
        {"format": "int8_tensorwise", "convrot": True},
    )
    found = {}
    for name, weight in weights.items():
        weight = weight.to(torch.bfloat16)
        if not in_block(name, weight, 256):
            found[name] = weight
            continue
        made = QuantizedTensor.from_float(weight, layout, scale="recalculate", per_channel=True, convrot=True)
        found.update(made.state_dict(name))
        mark = torch.tensor(list(json.dumps(words).encode()), dtype=torch.uint8)
        found[name.removesuffix("weight") + "comfy_quant"] = mark
    return found, {}


def all_in(dtype: torch.dtype) -> Any:
    return lambda weights, prefix: ({name: weight.to(dtype) for name, weight in weights.items()}, {})


def vae(latent_channels: int) -> Weights:
    """The host's small decoder of pictures, by the names that its loader looks for."""
    made = comfy.taesd.taesd.TAESD(latent_channels=latent_channels)
    scales = {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}
    draw_weights(made, seed=3)
    return {**made.state_dict(), **scales}


def frame_vae() -> Weights:
    """The host's autoencoder of frames, narrow."""
    sizes = {
        "dim_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_scales": [],
        "temperal_downsample": [False, True, True],
    }
    made = WanVAE(dim=NARROW, z_dim=16, dropout=0.0, **sizes)
    draw_weights(made, seed=3)
    return made.state_dict()


FORMS = {
    "checkpoints/v1-5-pruned-emaonly-fp16.safetensors": ("SD 1.5", all_in(torch.float16)),
    "checkpoints/sd_xl_base_1.0.safetensors": ("SDXL", all_in(torch.float16)),
    "checkpoints/sd_xl_base_1.0_fp8_scaled.safetensors": ("SDXL", fp8_marked),
    "diffusion_models/flux1-dev.safetensors": ("Flux.1 dev", all_in(torch.bfloat16)),
    "diffusion_models/flux1-dev_fp8_scaled.safetensors": ("Flux.1 dev", fp8_marked),
    "diffusion_models/z_image_turbo_bf16.safetensors": ("Z-Image", all_in(torch.bfloat16)),
    "diffusion_models/z_image_turbo_int8_convrot.safetensors": ("Z-Image", int8_rotated),
    "diffusion_models/qwen_image_bf16.safetensors": ("Qwen-Image", all_in(torch.bfloat16)),
    "diffusion_models/qwen_image_fp8_e4m3fn.safetensors": ("Qwen-Image", all_in(torch.float8_e4m3fn)),
    "diffusion_models/qwen_image_2512_fp8_scaled.safetensors": ("Qwen-Image", fp8_in_header),
}
"""The diffusion models, by file: of which family, and in which form."""
TEXT = ("qwen_3_4b", "qwen_2.5_vl_7b_fp8_scaled", "clip_l", "t5xxl_fp16")
VAES = {"ae": lambda: vae(16), "qwen_image_vae": frame_vae}


def diffusion_model(family: str, form: Any, prefix: str) -> tuple[Weights, dict[str, str]]:
    root = FAMILIES[family].model().model.diffusion_model
    return form({prefix + name: weight for name, weight in root.state_dict().items()}, prefix)


def checkpoint(family: str, form: Any) -> tuple[Weights, dict[str, str]]:
    """All three parts in one file; of the text encoders there is one number, from which the host sees that they are."""
    weights, header = diffusion_model(family, form, "model.diffusion_model.")
    weights |= {f"first_stage_model.{name}": weight for name, weight in vae(4).items()}
    encoder = "cond_stage_model" if family == "SD 1.5" else "conditioner.embedders.0"
    weights[f"{encoder}.transformer.text_model.embeddings.position_ids"] = torch.zeros(1)
    return weights, header


def write(file: Path, weights: Weights, header: dict[str, str] | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.detach().clone().contiguous() for name, weight in weights.items()}, file, header)


def write_gguf(file: Path) -> None:
    """A diffusion model in the format of another program: the linear layers of its blocks in 8 bits, the rest as is."""
    import gguf

    writer = gguf.GGUFWriter(file, "flux")
    kinds = gguf.GGMLQuantizationType
    for name, weight in FAMILIES["Flux.1 dev"].model().model.diffusion_model.state_dict().items():
        kind = kinds.Q8_0 if in_block(name, weight, 32) else kinds.F32
        writer.add_tensor(name, gguf.quantize(weight.float().numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@torch.no_grad()
def write_files(models: Path) -> None:
    """What is not there yet of the files of the families that this host has."""
    for path, (family, form) in FORMS.items():
        newer = form in (int8_rotated, fp8_in_header)
        if family in HERE and not (newer and OLDEST) and not (models / path).exists():
            whole = path.startswith("checkpoints/")
            write(models / path, *(checkpoint(family, form) if whole else diffusion_model(family, form, "")))
    if importlib.util.find_spec("gguf"):
        write_gguf(models / "diffusion_models/flux1-dev-Q8_0.gguf")
    for name in TEXT:
        write(models / "text_encoders" / f"{name}.safetensors", {MARK: torch.zeros(1)})
    for name, made in VAES.items():
        write(models / "vae" / f"{name}.safetensors", made())


write_files(Path(folder_paths.models_dir))
