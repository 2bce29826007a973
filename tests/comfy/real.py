# SPDX-License-Identifier: Apache-2.0
"""Models at the size that people run them, without their weights: what is reckoned of them, and timed on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import torch
from families import CPU, FAMILIES, SDXL_TEXT, T5_IDS, Family, Text, pooled

GUIDED = {"guidance": lambda _: 3.5}
FLUX = Text(4096, 256, {**pooled(768), **GUIDED})
TEXTS = {
    "SD 1.5": Text(768, 77), "SDXL": Text(2048, 77, SDXL_TEXT.more), "SD 3.5": Text(4096, 154, pooled(2048)),
    "Flux.1 dev": FLUX, "Z-Image": Text(2560, 128), "Qwen-Image": Text(3584, 128), "Anima": Text(1024, 128, T5_IDS),
    "Krea 2": Text(12 * 2560, 128),
}  # fmt: skip
"""What the text encoders of the real models give."""
CFG = {"SD 1.5": 5.0, "SDXL": 5.0, "SD 3.5": 4.5, "Anima": 4.0}
"""The guidance of those that are used with any."""
STORED = {"fp8": torch.float8_e4m3fn, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Real:
    """A model of a family as a file of ``stored`` numbers holds it, drawing pictures of ``side`` pixels."""

    name: str
    stored: str
    side: int = 1024

    @property
    def family(self) -> Family:
        return FAMILIES[self.name]

    @property
    def title(self) -> str:
        return f"{self.name} {self.stored}, {self.side}²"

    @property
    def cfg(self) -> float:
        return CFG.get(self.name, 1.0)

    def model(self, weights: str = "meta", home: torch.device = CPU, *, miniature: bool = False) -> Any:
        """A MODEL that computes at ``home``; its weights are not set, and lie in main memory (``cpu``) or nowhere."""
        dtype = STORED[self.stored]
        compute = torch.bfloat16 if dtype == torch.float8_e4m3fn else None
        base = self.family.base(torch.device(weights), real=not miniature, dtype=dtype, compute=compute)
        return comfy.model_patcher.ModelPatcher(base, home, CPU)

    def latent(self, rows: int = 1, *, miniature: bool = False) -> dict[str, Any]:
        """An empty LATENT."""
        channels, *sides = self.family.latent
        if not miniature:
            sides[-2:] = [self.side // 8] * 2
        return {"samples": torch.zeros(rows, channels, *sides)}

    def text(self, seed: int, *, miniature: bool = False) -> list:
        """A CONDITIONING of drawn numbers."""
        return (self.family.text if miniature else TEXTS[self.name])(seed)


TABLE = (
    Real("SD 1.5", "fp16", 512), Real("SDXL", "fp16"), Real("SD 3.5", "bf16"), Real("Flux.1 dev", "bf16"),
    Real("Flux.1 dev", "fp8"), Real("Flux.1 dev", "fp8", 512), Real("Z-Image", "bf16"), Real("Qwen-Image", "fp8"),
    Real("Krea 2", "fp8"), Real("Anima", "bf16"),
)  # fmt: skip

ON_A_GPU = (
    *TABLE, Real("SD 1.5", "bf16", 512), Real("SDXL", "bf16"), Real("SDXL", "fp8"), Real("Z-Image", "fp8"),
    Real("Qwen-Image", "bf16"),
)  # fmt: skip
"""In the order in which they are timed, the table first."""
