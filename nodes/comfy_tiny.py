# SPDX-License-Identifier: Apache-2.0
"""The tiny model as ComfyUI's own MODEL, CLIP and VAE objects, so that every stock node takes it for a checkpoint."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import torch
from torch import Tensor, nn

from ..hero_core.tiny.autoencoder import VAE_CONFIG
from ..hero_core.tiny.dit import DIT_CONFIG
from ..hero_core.tiny.latent import LATENT_RGB_BIAS, LATENT_RGB_FACTORS, LATENT_SCALE
from ..hero_core.tiny.model import SHIFT
from ..hero_core.tiny.text import LENGTH, TextEncoder, Tokenizer
from ..hero_core.tiny.unet import UNET_CONFIG

NAME = "HERO tiny model"
UNUSED = "norm_final.weight"
"""A weight that older versions of the host's class have and never use."""


class TinyLatent(comfy.latent_formats.LatentFormat):
    """Scale and preview colours of the tiny latents."""

    def __init__(self) -> None:
        self.scale_factor = LATENT_SCALE
        self.latent_rgb_factors = LATENT_RGB_FACTORS
        self.latent_rgb_factors_bias = LATENT_RGB_BIAS


class TinyConfig(comfy.supported_models_base.BASE):
    """An epsilon-prediction UNet in the layout and with the noise levels of Stable Diffusion 1.x."""

    unet_config = UNET_CONFIG
    unet_extra_config: dict = {}  # noqa: RUF012 - the host's class attribute
    latent_format = TinyLatent


class TinyFlowConfig(comfy.supported_models.Lumina2):
    """A flow-matching transformer of Lumina 2's class and noise levels, over the tiny latents."""

    unet_config = DIT_CONFIG
    sampling_settings = {"multiplier": 1.0, "shift": SHIFT}  # noqa: RUF012 - the host's class attribute
    latent_format = TinyLatent


class TinyTokenizer:
    """Whole words with weights, ``(red:1.3)`` included, in the shape that ComfyUI's CLIP passes around."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        self.tokenizer = Tokenizer()

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, list]:
        words: list[tuple[int, float]] = []
        for part, weight in comfy.sd1_clip.token_weights(comfy.sd1_clip.escape_important(text), 1.0):
            ids = self.tokenizer(comfy.sd1_clip.unescape_important(part))
            words += [(word, weight) for word in ids[1 : ids.index(2)]]
        begin, end, pad = (1, 1.0), (2, 1.0), (0, 1.0)
        row = [begin, *words[: LENGTH - 2], end]
        row += [pad] * (LENGTH - len(row))
        return {"tiny": [[(*pair, place) for place, pair in enumerate(row)] if return_word_ids else row]}

    def untokenize(self, token_weight_pairs: dict[str, list]) -> list:
        return [(pair, self.tokenizer.words[pair[0]]) for pair in token_weight_pairs["tiny"][0]]

    def state_dict(self) -> dict:
        return {}


class TinyTextModel(nn.Module):
    """The text encoder with the methods that ComfyUI's CLIP calls."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        super().__init__()
        self.encoder = TextEncoder()
        self.dtypes = {torch.float32}
        self.manual_cast_dtype = None

    def set_clip_options(self, options: dict) -> None:
        """There is no choice of layer."""

    def reset_clip_options(self) -> None:
        """See above."""

    def encode_token_weights(self, tokens: dict[str, list]) -> tuple[Tensor, Tensor]:
        rows = tokens["tiny"]
        ids = torch.tensor([[pair[0] for pair in row] for row in rows])
        weights = torch.tensor([[pair[1] for pair in row] for row in rows])[..., None]
        context = self.encoder(ids)
        if bool((weights != 1).any()):
            empty = self.encoder(torch.tensor([Tokenizer()("")]))
            context = empty + (context - empty) * weights
        return context, context.mean(1)

    def load_sd(self, sd: dict) -> Any:
        return self.encoder.load_state_dict(sd, strict=False)


class TinyFlowTextModel(TinyTextModel):
    """The same, telling how many words there are, as Lumina 2's class asks of its text encoder."""

    def encode_token_weights(self, tokens: dict[str, list]) -> tuple:
        context, pooled = super().encode_token_weights(tokens)
        return context, pooled, {"attention_mask": torch.ones(context.shape[:2], dtype=torch.long)}


def model(weights: dict[str, Tensor]) -> Any:
    """A MODEL: the host's own UNet class with the tiny weights, always in float32."""
    return _loaded(TinyConfig(UNET_CONFIG), weights)


def flow_model(weights: dict[str, Tensor]) -> Any:
    """A MODEL: the host's own class of Lumina 2 with the tiny weights, always in float32."""
    return _loaded(TinyFlowConfig(dict(DIT_CONFIG)), weights)


def _loaded(config: Any, weights: dict[str, Tensor]) -> Any:
    config.set_inference_dtype(torch.float32, None)
    base = config.get_model(weights, device=torch.device("cpu"))
    names = base.diffusion_model.state_dict()
    unused = {UNUSED: torch.ones_like(names[UNUSED])} if UNUSED in names else {}
    base.load_model_weights({**weights, **unused}, "")
    management = comfy.model_management
    devices = {"load_device": management.get_torch_device(), "offload_device": management.unet_offload_device()}
    return comfy.model_patcher.ModelPatcher(base, **devices)


def clip(weights: dict[str, Tensor], kind: str = "unet") -> Any:
    """A CLIP for a kind of the denoiser. It stays on the CPU, where it takes a millisecond."""
    cpu = torch.device("cpu")
    encoder = TinyFlowTextModel if kind == "flow" else TinyTextModel
    target = comfy.supported_models_base.ClipTarget(TinyTokenizer, encoder)
    options = {"load_device": cpu, "offload_device": cpu, "initial_device": cpu, "dtype": torch.float32}
    made = comfy.sd.CLIP(target, model_options=options)
    made.load_sd(weights)
    return made


def vae(weights: dict[str, Tensor]) -> Any:
    """A VAE: the host's own autoencoder class with the tiny weights, always in float32."""
    return comfy.sd.VAE(sd=dict(weights), config={"params": VAE_CONFIG}, dtype=torch.float32)
