# SPDX-License-Identifier: Apache-2.0
"""The picture codec of the tiny model: a KL autoencoder, 128x128 RGB <-> 4x16x16 latents.

Module names follow the published latent-diffusion layout (``encoder.down.0...``, ``decoder.up.0...``, ``quant_conv``),
so the same weights load into any program that reads Stable Diffusion's first stage. Pictures are in [-1, 1] in here.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

VAE_CONFIG: dict = {
    "embed_dim": 4,
    "ddconfig": {
        "double_z": True,
        "z_channels": 4,
        "resolution": 128,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 64,
        "ch_mult": [1, 1, 1, 1],
        "num_res_blocks": 0,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
}
"""Keyword arguments of the architecture, in the names latent-diffusion loaders use for it."""


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)


class ResnetBlock(nn.Module):
    """Two normalised convolutions around a skip connection."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2, self.conv2 = _norm(c_out), nn.Conv2d(c_out, c_out, 3, padding=1)
        if c_in != c_out:
            self.nin_shortcut = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    """Single-head self attention over the cells of a feature map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v = (nn.Conv2d(width, width, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)
        return x + self.proj_out(h.reshape(x.shape))


class _Middle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = ResnetBlock(width, width), AttnBlock(width), ResnetBlock(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class _Resample(nn.Module):
    """Holds the convolution under the name ``conv`` and changes the size by 2 on the way."""

    def __init__(self, width: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(width, width, 3, padding=1) if up else nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        # The layout's encoder pads right and bottom only.
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class _Level(nn.Module):
    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)


class Encoder(nn.Module):
    """``(n, 3, H, W)`` in [-1, 1] -> ``(n, 2 z_channels, H/8, W/8)`` moments before ``quant_conv``."""

    def __init__(
        self, ch: int, ch_mult: list[int], num_res_blocks: int, in_channels: int, z_channels: int, **_: object
    ):
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down, width = nn.ModuleList(), ch
        for i, mult in enumerate(ch_mult):
            blocks = []
            for _i in range(num_res_blocks):
                blocks.append(ResnetBlock(width, ch * mult))
                width = ch * mult
            level = _Level(blocks)
            if i < len(ch_mult) - 1:
                level.downsample = _Resample(width, up=False)
            self.down.append(level)
        self.mid = _Middle(width)
        self.norm_out, self.conv_out = _norm(width), nn.Conv2d(width, 2 * z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            for block in level.block:
                x = block(x)
            if hasattr(level, "downsample"):
                x = level.downsample(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """``(n, z_channels, h, w)`` after ``post_quant_conv`` -> ``(n, out_ch, 8h, 8w)``, about [-1, 1]."""

    def __init__(self, ch: int, ch_mult: list[int], num_res_blocks: int, out_ch: int, z_channels: int, **_: object):
        super().__init__()
        width = ch * ch_mult[-1]
        self.conv_in = nn.Conv2d(z_channels, width, 3, padding=1)
        self.mid = _Middle(width)
        levels: list[nn.Module] = []
        for i in reversed(range(len(ch_mult))):
            blocks = []
            for _i in range(num_res_blocks + 1):
                blocks.append(ResnetBlock(width, ch * ch_mult[i]))
                width = ch * ch_mult[i]
            level = _Level(blocks)
            if i > 0:
                level.upsample = _Resample(width, up=True)
            levels.append(level)
        # Index 0 is the finest level in the layout, whereas decoding starts with the coarsest.
        self.up = nn.ModuleList(levels[::-1])
        self.norm_out, self.conv_out = _norm(width), nn.Conv2d(width, out_ch, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            for block in level.block:
                x = block(x)
            if hasattr(level, "upsample"):
                x = level.upsample(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Autoencoder(nn.Module):
    """KL autoencoder (Rombach et al. 2022): ``moments`` / ``encode`` / ``decode``; pictures in [-1, 1]."""

    def __init__(self, config: dict | None = None) -> None:
        super().__init__()
        config = VAE_CONFIG if config is None else config
        dd, embed = config["ddconfig"], config["embed_dim"]
        self.encoder, self.decoder = Encoder(**dd), Decoder(**dd)
        self.quant_conv = nn.Conv2d(2 * dd["z_channels"], 2 * embed, 1)
        self.post_quant_conv = nn.Conv2d(embed, dd["z_channels"], 1)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent, ``(n, embed_dim, H/8, W/8)`` each."""
        mean, log_var = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, log_var.clamp(-30.0, 20.0)

    def encode(self, x: Tensor) -> Tensor:
        """The latent's mean, unscaled."""
        return self.moments(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Pictures of unscaled latents; values may leave [-1, 1] a little."""
        return self.decoder(self.post_quant_conv(z))
