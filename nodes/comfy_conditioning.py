# SPDX-License-Identifier: Apache-2.0
"""Conditioning as ComfyUI hands it to a sampler: kept apart, fit to enter a loss, refused where nobody can learn it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..hero_core.errors import HeroError


class _Alone:
    """A condition that never shares a batch. The host joins prompts into one batch when memory is free, so the shape of
    a model call, and with it the rounding, would depend on what else is loaded."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def process_cond(self, **kwargs: Any) -> _Alone:
        return _Alone(self.inner.process_cond(**kwargs))

    def can_concat(self, other: Any) -> bool:
        return False

    def concat(self, others: list) -> Any:
        return self.inner.concat([other.inner for other in others])

    def size(self) -> list[int]:
        return self.inner.size()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def isolate_conditions(conds: Mapping[str, list[dict]]) -> None:
    """Give every condition a batch of its own and tensors that may enter a loss."""
    for cond in _all(conds):
        cond["model_conds"] = {key: _Alone(_normal(value)) for key, value in cond["model_conds"].items()}


def _normal(condition: Any) -> Any:
    tensor = getattr(condition, "cond", None)
    if isinstance(tensor, Tensor) and tensor.is_inference() and not torch.is_inference_mode_enabled():
        return type(condition)(tensor.clone())
    if isinstance(tensor, list):
        return type(condition)([t.clone() if isinstance(t, Tensor) else t for t in tensor])
    return condition


def freeze_controls(conds: Mapping[str, list[dict]]) -> None:
    for cond in _all(conds):
        control = cond.get("control")
        for patcher in control.get_models() if control is not None else []:
            patcher.model.requires_grad_(False)


def _all(conds: Mapping[str, list[dict]]) -> Iterator[dict]:
    for group in conds.values():
        yield from group


def refuse_batches(*groups: list) -> None:
    for tensor, _ in (entry for group in groups for entry in group):
        if isinstance(tensor, Tensor) and tensor.ndim > 0 and len(tensor) > 1:
            raise HeroError(
                f"The conditioning holds a batch of {len(tensor)} prompts. A session learns one prompt; wire one."
            )


def depends_on_time(model: Any, conditioning: list) -> bool:
    """Whether rows of different noise levels may not share a call: the host asks row 0 alone for the time."""
    timed = {"start_percent", "end_percent", "timestep_start", "timestep_end", "clip_start_percent", "control", "hooks"}
    if any(timed & options.keys() for _, options in conditioning):
        return True
    options = dict(model.model_options)
    transformer = options.pop("transformer_options", {})
    wrapped = any(any(kind.values()) for kind in getattr(model, "wrappers", {}).values())
    return bool(wrapped or transformer or {k for k, v in options.items() if v})
