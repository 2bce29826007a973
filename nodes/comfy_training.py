# SPDX-License-Identifier: Apache-2.0
"""What training takes in a host that lives in inference mode: weights to train on, plain precision, room in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_management
import torch
from torch import Tensor, nn

from ..hero_core.errors import HeroError
from .comfy_frozen import normal

TRAINING_MEMORY = 3
"""Room for the backward pass where it is not counted, in units of what ComfyUI reckons for a forward pass."""


def make_trainable(model: nn.Module) -> None:
    """Replace parameters and buffers that were made in inference mode, once; freeze all. Nothing is copied."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            made = normal(parameter)
            if made is not parameter:
                setattr(module, name, nn.Parameter(made, requires_grad=False))
            elif parameter.requires_grad:
                parameter.requires_grad_(False)
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = normal(buffer)


def trainable_clone(model: Any) -> Any:
    """A clone to put our options on. Where the host pages weights, the clone that keeps them in place."""
    if not getattr(model, "is_dynamic", lambda: False)():
        return model.clone()
    try:
        return model.get_non_dynamic_delegate()
    except RuntimeError as error:
        raise HeroError(
            f"This MODEL's weights are paged and cannot be held in place for training ({error}). "
            "Load it with a stock loader node, or start ComfyUI with --disable-dynamic-vram."
        ) from error


def load(
    need: float | None, grad: bool, executor: Callable, model: Any, noise_shape: list[int], *args: Any, **kwargs: Any
) -> Any:
    """Let the host load the model, with ``need`` bytes in mind when it decides how much of it to load.

    The host reckons by rows, so it is told of as many as take so much. In inference mode, as it loads everything:
    quantised weights that were patched in it can be moved in no other.
    """
    rows, one = noise_shape[0], [1, *noise_shape[1:]]
    if need is not None:
        rows = max(rows, math.ceil(need / model.model.memory_required(one)))
    elif grad:
        rows *= TRAINING_MEMORY
    with torch.inference_mode():
        return executor(model, [rows, *noise_shape[1:]], *args, **kwargs)


@contextmanager
def memory_hint(rows: int, grad: bool) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        comfy.model_management.soft_empty_cache(True)
        message = f"The GPU ran out of memory with {rows} pictures at a time. "
        if grad and rows > 1:
            message += (
                f"Lower micro_batch on the LoRA update to {rows // 2} and queue again: the round and its marks stay as "
                "they are."
            )
        elif rows > 1:
            message += f"Lower micro_batch on HERO Sampler to {rows // 2} and queue again."
        else:
            message += "Close other programs that use it, or begin a session with smaller pictures."
        raise HeroError(message) from error


def pinned_attention(_function: Callable, *args: Any, **kwargs: Any) -> Tensor:
    """PyTorch's attention, whatever the host would choose: one function for sampling and for training."""
    return comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)
