# SPDX-License-Identifier: Apache-2.0
"""The denoiser of the flowing tiny model: a diffusion transformer of Lumina 2's kind at toy size.

Text and picture are one sequence of tokens, as in most models of today. Module names follow the published state-dict
layout of that family (``noise_refiner`` / ``context_refiner`` / ``layers``), so one file serves this class and every
program that reads that layout, and the generic LoRA key names of such models fit.

Notation: ``n`` rows, ``C`` channels, ``H x W`` latent cells, ``L`` text tokens, ``T`` tokens, ``d`` the width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .unet import timestep_features

DIT_CONFIG: dict = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 4,
    "dim": 160,
    "n_layers": 5,
    "n_refiner_layers": 1,
    "n_heads": 5,
    "n_kv_heads": 5,
    "multiple_of": 384,
    "ffn_dim_multiplier": 0.25,
    "norm_eps": 1e-5,
    "qk_norm": True,
    "cap_feat_dim": 64,
    "axes_dims": [8, 12, 12],
    "axes_lens": [64, 64, 64],
}
"""Keyword arguments of the architecture, in the names loaders of that layout use for it.

The feed-forward layers are ``multiple_of`` wide: the multiplier is small enough to round up to it, whether a loader
applies it to the width or to four times the width.
"""

TIME_FEATURES = 256
"""Width of the sinusoidal features of the time."""

ROTARY_BASE = 10000.0


def rotations(positions: Tensor, widths: list[int]) -> Tensor:
    """Rotary angles of token positions, ``(T, axes)`` -> ``(T, sum(widths) / 2, 2)`` cosines and sines."""
    angles = []
    for axis, width in enumerate(widths):
        exponent = torch.arange(0, width, 2, dtype=torch.float64, device=positions.device) / width
        angles.append(positions[:, axis, None].double() / ROTARY_BASE**exponent)
    angle = torch.cat(angles, dim=-1)
    return torch.stack([angle.cos(), angle.sin()], dim=-1).float()


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate neighbouring channels of ``(n, T, heads, width)`` as pairs by the angles of their token."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = turn[:, None].to(x.dtype).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class JointAttention(nn.Module):
    """Self attention of a sequence, queries and keys normalised and rotated by position."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.q_norm, self.k_norm = nn.RMSNorm(width // heads), nn.RMSNorm(width // heads)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k = rotate(self.q_norm(q), turn), rotate(self.k_norm(k), turn)
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.out(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """A linear layer gated by the SiLU of another one (Shazeer 2020), and back."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(inner, width, bias=False)
        self.w3 = nn.Linear(width, inner, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


def _modulation(width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), nn.Linear(width, outputs * width))


class Block(nn.Module):
    """Attention and feed-forward, normalised before and after, scaled and gated by the time if ``timed``."""

    def __init__(self, width: int, heads: int, inner: int, eps: float, timed: bool = True) -> None:
        super().__init__()
        self.attention, self.feed_forward = JointAttention(width, heads), FeedForward(width, inner)
        self.attention_norm1, self.attention_norm2 = nn.RMSNorm(width, eps=eps), nn.RMSNorm(width, eps=eps)
        self.ffn_norm1, self.ffn_norm2 = nn.RMSNorm(width, eps=eps), nn.RMSNorm(width, eps=eps)
        if timed:
            self.adaLN_modulation = _modulation(width, 4)

    def forward(self, x: Tensor, turn: Tensor, time: Tensor | None = None) -> Tensor:
        if time is None:
            x = x + self.attention_norm2(self.attention(self.attention_norm1(x), turn))
            return x + self.ffn_norm2(self.feed_forward(self.ffn_norm1(x)))
        scale_a, gate_a, scale_f, gate_f = self.adaLN_modulation(time)[:, None].chunk(4, dim=-1)
        mixed = self.attention(self.attention_norm1(x) * (1 + scale_a), turn)
        x = x + gate_a.tanh() * self.attention_norm2(mixed)
        made = self.feed_forward(self.ffn_norm1(x) * (1 + scale_f))
        return x + gate_f.tanh() * self.ffn_norm2(made)


class TimeEmbedder(nn.Module):
    """Sinusoidal features of a time in [0, 1] through two layers: ``(n,)`` -> ``(n, d)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time: Tensor, dtype: torch.dtype) -> Tensor:
        return self.mlp(timestep_features(time, TIME_FEATURES).to(dtype))


class FinalLayer(nn.Module):
    """A norm scaled by the time, and every token's patch."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = _modulation(width, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.linear(self.norm_final(x) * (1 + self.adaLN_modulation(time)[:, None]))


class DiT(nn.Module):
    """Velocity predictor ``dit(x, sigma, context) -> eps - x0`` for ``x = (1 - sigma) x0 + sigma eps``.

    x: ``(n, in_channels, H, W)`` with H and W multiples of the patch; sigma: ``(n,)`` in [0, 1]; context:
    ``(n, L, cap_feat_dim)``. Returns the shape of x.
    """

    def __init__(self, config: dict | None = None) -> None:
        super().__init__()
        self.config = cfg = dict(DIT_CONFIG if config is None else config)
        width, patch = cfg["dim"], cfg["patch_size"] ** 2 * cfg["in_channels"]
        shape = (width, cfg["n_heads"], cfg["multiple_of"], cfg["norm_eps"])
        self.x_embedder = nn.Linear(patch, width)
        self.noise_refiner = nn.ModuleList([Block(*shape) for _ in range(cfg["n_refiner_layers"])])
        self.context_refiner = nn.ModuleList([Block(*shape, timed=False) for _ in range(cfg["n_refiner_layers"])])
        self.t_embedder = TimeEmbedder(width)
        text = cfg["cap_feat_dim"]
        self.cap_embedder = nn.Sequential(nn.RMSNorm(text, eps=cfg["norm_eps"]), nn.Linear(text, width))
        self.layers = nn.ModuleList([Block(*shape) for _ in range(cfg["n_layers"])])
        self.final_layer = FinalLayer(width, patch)

    def _turns(self, length: int, rows: int, columns: int, device: torch.device) -> Tensor:
        """Words lie along the first axis; the cells share the place after the last word and lie along the others."""
        words = torch.zeros(length, 3, device=device)
        words[:, 0] = torch.arange(length, device=device)
        y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
        cells = torch.stack([torch.full_like(y, length), y, x], dim=-1).flatten(0, 1)
        return rotations(torch.cat([words, cells.float()]), self.config["axes_dims"])

    def forward(self, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        p = self.config["patch_size"]
        length, rows, columns = context.shape[1], x.shape[2] // p, x.shape[3] // p
        turn = self._turns(length, rows, columns, x.device)
        time = self.t_embedder(1 - sigma, x.dtype)
        words = self.cap_embedder(context)
        for block in self.context_refiner:
            words = block(words, turn[:length])
        patches = x.unflatten(3, (columns, p)).unflatten(2, (rows, p)).permute(0, 2, 4, 3, 5, 1)
        cells = self.x_embedder(patches.flatten(3).flatten(1, 2))
        for block in self.noise_refiner:
            cells = block(cells, turn[length:], time)
        tokens = torch.cat([words.expand(len(cells), -1, -1), cells], dim=1)
        for block in self.layers:
            tokens = block(tokens, turn, time)
        made = self.final_layer(tokens[:, length:], time)
        made = made.unflatten(-1, (p, p, -1)).unflatten(1, (rows, columns)).permute(0, 5, 1, 3, 2, 4)
        # The layout's networks point from the noise to the picture.
        return -made.flatten(4, 5).flatten(2, 3)
