# SPDX-License-Identifier: Apache-2.0
"""The denoiser of the tiny model: a Stable-Diffusion-1.x UNet at toy size.

Module names follow the published latent-diffusion state-dict layout (``input_blocks`` / ``middle_block`` /
``output_blocks``), so one file serves this class and every program that reads that layout, and LoRA key names of
SD 1.x fit without a table.

Notation: ``n`` rows, ``C`` channels, ``H x W`` latent cells, ``L`` text tokens, ``emb`` the embedded timestep.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32
"""Groups of every GroupNorm, as in Stable Diffusion; hence all widths are multiples of 32."""

UNET_CONFIG: dict = {
    "image_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 1, 1],
    "transformer_depth": [0, 1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 1, 1, 0, 0],
    "num_heads": 4,
    "num_head_channels": -1,
    "context_dim": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "adm_in_channels": None,
    "legacy": False,
}
"""Keyword arguments of the architecture, in the names SD-1.x loaders use for it."""


def timestep_features(timesteps: Tensor, width: int) -> Tensor:
    """Sinusoidal features of timesteps, cosines first: ``(n,)`` -> ``(n, width)`` float32 (Vaswani et al. 2017)."""
    half = width // 2
    frequency = torch.exp(torch.arange(half, dtype=torch.float32, device=timesteps.device) * (-math.log(10000) / half))
    angle = timesteps.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class ResBlock(nn.Module):
    """Two normalised convolutions, the timestep added between them, around a skip connection."""

    def __init__(self, c_in: int, c_out: int, c_emb: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(GROUPS, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(c_emb, c_out))
        # The Dropout of probability 0 keeps the convolution at index 3, where the file layout has it.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, c_out), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(c_out, c_out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Attention(nn.Module):
    """Multi-head attention of ``(n, tokens, width)`` to itself, or to a context of another width."""

    def __init__(self, width: int, heads: int, context_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        source = width if context_width is None else context_width
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(source, width, bias=False)
        self.to_v = nn.Linear(source, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    """A linear layer gated by the GELU of another one (Shazeer 2020)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to four times the width and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Dropout(0.0), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self attention, attention to the text, feed-forward; each normalised first and added to its input."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.attn1 = Attention(width, heads)
        self.ff = FeedForward(width)
        self.attn2 = Attention(width, heads, context_width)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the cells of a feature map, with 1x1 convolutions in and out."""

    def __init__(self, width: int, heads: int, depth: int, context_width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, heads, context_width) for _ in range(depth)])
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))


class Downsample(nn.Module):
    """Halve height and width by a strided convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Double height and width by repetition and a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class InputConv(nn.Conv2d):
    """The first convolution, callable like every other layer of a stage."""

    def forward(self, x: Tensor, emb: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        return super().forward(x)


class Stage(nn.Sequential):
    """Layers in sequence that all receive the timestep embedding and the text as well."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, emb, context)
        return x


class UNet(nn.Module):
    """Noise predictor ``unet(x, timesteps, context) -> eps``.

    x: ``(n, in_channels, H, W)`` with H and W multiples of ``2 ** (levels - 1)``; timesteps: ``(n,)`` in 0..999;
    context: ``(n, L, context_dim)``. Returns ``(n, out_channels, H, W)``.
    """

    def __init__(self, config: dict | None = None) -> None:
        super().__init__()
        self.config = dict(UNET_CONFIG if config is None else config)
        base = self.config["model_channels"]
        if base % GROUPS:
            raise ValueError(f"model_channels is {base}; it must be a multiple of {GROUPS}, the number of norm groups")
        self.c_emb = 4 * base
        self.time_embed = nn.Sequential(nn.Linear(base, self.c_emb), nn.SiLU(), nn.Linear(self.c_emb, self.c_emb))
        skips = self._build_down(base)
        width = base * self.config["channel_mult"][-1]
        middle = [
            ResBlock(width, width, self.c_emb),
            *self._transformer(width, self.config["transformer_depth_middle"]),
        ]
        self.middle_block = Stage(*middle, ResBlock(width, width, self.c_emb))
        self._build_up(width, skips)
        self.out = nn.Sequential(
            nn.GroupNorm(GROUPS, base), nn.SiLU(), nn.Conv2d(base, self.config["out_channels"], 3, padding=1)
        )

    def _transformer(self, width: int, depth: int) -> list[nn.Module]:
        if depth == 0:
            return []
        return [SpatialTransformer(width, self.config["num_heads"], depth, self.config["context_dim"])]

    def _build_down(self, base: int) -> list[int]:
        """Make ``input_blocks``; return the widths which they hand to the way up, in order."""
        cfg = self.config
        depths = list(cfg["transformer_depth"])
        self.input_blocks = nn.ModuleList([Stage(InputConv(cfg["in_channels"], base, 3, padding=1))])
        widths, width = [base], base
        for level, mult in enumerate(cfg["channel_mult"]):
            for _ in range(cfg["num_res_blocks"][level]):
                layers = [ResBlock(width, base * mult, self.c_emb), *self._transformer(base * mult, depths.pop(0))]
                self.input_blocks.append(Stage(*layers))
                width = base * mult
                widths.append(width)
            if level < len(cfg["channel_mult"]) - 1:
                self.input_blocks.append(Stage(Downsample(width)))
                widths.append(width)
        return widths

    def _build_up(self, width: int, skips: list[int]) -> None:
        """Make ``output_blocks``, deepest level first, consuming ``skips`` from the end."""
        cfg = self.config
        depths = list(cfg["transformer_depth_output"])
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(cfg["channel_mult"]))):
            c_out = cfg["model_channels"] * cfg["channel_mult"][level]
            for i in range(cfg["num_res_blocks"][level] + 1):
                layers = [ResBlock(width + skips.pop(), c_out, self.c_emb), *self._transformer(c_out, depths.pop())]
                width = c_out
                if level > 0 and i == cfg["num_res_blocks"][level]:
                    layers.append(Upsample(width))
                self.output_blocks.append(Stage(*layers))

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        emb = self.time_embed(timestep_features(timesteps, self.config["model_channels"]).to(x.dtype))
        skips = []
        for stage in self.input_blocks:
            x = stage(x, emb, context)
            skips.append(x)
        x = self.middle_block(x, emb, context)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), emb, context)
        return self.out(x)
