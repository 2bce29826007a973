# SPDX-License-Identifier: Apache-2.0
"""The six tasks of the tiny model: a prompt, the judge of its pictures, and how often the untrained model succeeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .judges import JUDGES, Judgement
from .scenes import RENDERERS, Scene
from .words import PROMPTS


@dataclass(frozen=True)
class Task:
    """One task.

    judge: pictures ``(n, 3, H, W)`` in [0, 1] -> `Judgement`; render: ``(rng, success=None) -> Scene``; base_success:
    share of good pictures of each kind of the untrained model from fresh noise (README.md says how it was measured).
    """

    name: str
    prompt: str
    negative: str
    judge: Callable[..., Judgement]
    render: Callable[..., Scene]
    base_success: dict[str, float]

    def __post_init__(self) -> None:
        if not all(0.0 <= share <= 1.0 for share in self.base_success.values()):
            raise ValueError(f"base_success of task {self.name!r} is {self.base_success}; shares are from 0 to 1")


BASE_SUCCESS = {
    "unet": {"colour": 0.441, "place": 0.457, "reflection": 0.422, "frame": 0.328, "count": 0.410, "not_this": 0.297},
    "flow": {"colour": 0.313, "place": 0.438, "reflection": 0.703, "frame": 0.273, "count": 0.367, "not_this": 0.320},
}
"""Measured by ``python -m hero_core.tiny.measure``; the table is in README.md."""

TASKS: dict[str, Task] = {
    name: Task(
        name, prompt, "", JUDGES[name], RENDERERS[name], {kind: share[name] for kind, share in BASE_SUCCESS.items()}
    )
    for name, prompt in PROMPTS.items()
}
"""Task name -> `Task`, in the order of the paper."""
