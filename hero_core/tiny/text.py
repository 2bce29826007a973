# SPDX-License-Identifier: Apache-2.0
"""Words to context: a word-level tokenizer and a two-layer transformer, trained together with the UNet."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .words import VOCABULARY

LENGTH = 16
"""Tokens of every prompt, begin and end marks and padding included."""

WIDTH = 64
"""Width of the context that the UNet's cross attention reads."""

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


class Tokenizer:
    """Lower-cases, drops punctuation, and looks whole words up; an unknown word becomes ``<unk>``."""

    def __init__(self) -> None:
        self.words = [*SPECIAL, *VOCABULARY]
        self._index = {word: i for i, word in enumerate(self.words)}

    def __call__(self, prompt: str) -> list[int]:
        """The prompt as exactly `LENGTH` ids: begin, words, end, padding. Words beyond the room are dropped."""
        words = re.findall(r"[a-z0-9]+", prompt.lower())[: LENGTH - 2]
        ids = [1, *(self._index.get(word, 3) for word in words), 2]
        return ids + [0] * (LENGTH - len(ids))

    def batch(self, prompts: list[str]) -> Tensor:
        """Prompts -> ``(n, LENGTH)`` int64."""
        return torch.tensor([self(prompt) for prompt in prompts])


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class TextEncoder(nn.Module):
    """Token ids ``(n, 16)`` -> context ``(n, 16, 64)``. Padding takes part, as in Stable Diffusion."""

    def __init__(self, words: int | None = None, width: int = WIDTH, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        words = len(Tokenizer().words) if words is None else words
        self.token = nn.Embedding(words, width)
        self.position = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        self.blocks = nn.ModuleList([_Block(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids) + self.position
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
