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
    share of good pictures of the untrained model from fresh noise (see README.md for how it was measured).
    """

    name: str
    prompt: str
    negative: str
    judge: Callable[..., Judgement]
    render: Callable[..., Scene]
    base_success: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.base_success <= 1.0:
            raise ValueError(f"base_success of task {self.name!r} is {self.base_success}; it is a share from 0 to 1")


BASE_SUCCESS = {"colour": 0.441, "place": 0.457, "reflection": 0.422, "frame": 0.328, "count": 0.410, "not_this": 0.297}
"""Measured by ``python -m hero_core.tiny.measure``; the table is in README.md."""

TASKS: dict[str, Task] = {
    name: Task(name, prompt, "", JUDGES[name], RENDERERS[name], BASE_SUCCESS[name]) for name, prompt in PROMPTS.items()
}
"""Task name -> `Task`, in the order of the paper."""
