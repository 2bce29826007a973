# SPDX-License-Identifier: Apache-2.0
"""A gradient through the host's models: kernels that have one, no written-over inputs, blocks that are computed again.

Nothing here knows a family of models: layers and blocks are found by what they are.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..hero_core.lora import is_linear

EAGER = ("comfy_kitchen.backends.eager.rope", "comfy_kitchen.backends.eager.adaln")
"""Where the host's kernel library keeps the plain forms of its fused functions: those have a gradient."""

ATTENTION = re.compile(r"attn|attention|(^|\.)single_blocks\.", re.IGNORECASE)
"""Paths of layers that belong to an attention; in Flux's single blocks the same layers are the feed-forward too."""


@contextmanager
def one_kind_of_kernels() -> Iterator[None]:
    """The kernels that have a gradient, for sampling as for training: other kernels would give other probabilities."""
    with ExitStack() as stack:
        if hasattr(comfy.model_management, "in_training"):
            stack.enter_context(_set(comfy.model_management, "in_training", True))
        for name in EAGER:
            try:
                fused, plain = importlib.import_module("comfy_kitchen"), importlib.import_module(name)
            except ImportError:  # hosts before the library fuse nothing
                continue
            for function, form in inspect.getmembers(plain, inspect.isfunction):
                if form.__module__ == name and inspect.isfunction(getattr(fused, function, None)):
                    stack.enter_context(_set(fused, function, form))
        yield


@contextmanager
def _set(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def differentiable(root: nn.Module, recompute: bool) -> Iterator[None]:
    """Keep what the backward pass needs from being written over, and with ``recompute`` keep the inputs of each block
    alone: a third more time for a fraction of the memory. The same kernels run on the same numbers, nothing changes.

    Blocks of some families add to their input in place (``img += ...``), after a norm or a checkpoint has kept it.
    """
    with ExitStack() as stack:
        for norm in root.modules():
            if "norm" in type(norm).__name__.lower() and not list(norm.children()):
                stack.enter_context(_forward(norm, _on_copies(norm.forward)))
        for block in blocks(root):
            guarded = _on_copies(block.forward)
            stack.enter_context(_forward(block, _recomputing(guarded) if recompute else guarded))
        yield


@contextmanager
def _forward(module: nn.Module, forward: Callable) -> Iterator[None]:
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward  # the class's own comes to light again
        else:
            module.forward = own


def _on_copies(forward: Callable) -> Callable:
    def copy(value: Any) -> Any:
        return value.clone() if isinstance(value, Tensor) and value.is_floating_point() else value

    def on_copies(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return forward(*(copy(one) for one in args), **{name: copy(one) for name, one in kwargs.items()})

    return on_copies


def _recomputing(forward: Callable) -> Callable:
    def recomputing(*args: Any, **kwargs: Any) -> Any:
        # The host writes the block's number into a shared dict, which says another one when the block is run again.
        args = tuple(dict(a) if isinstance(a, dict) else a for a in args)
        kwargs = {name: dict(a) if isinstance(a, dict) else a for name, a in kwargs.items()}
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return recomputing


def blocks(root: nn.Module) -> list[nn.Module]:
    """The repeated parts of a model that are computed again: the smallest that hold a whole attention, and beside
    those whatever else stands in a list, of UNets and transformers alike."""
    parts = {path: part for path, part in root.named_modules() if _is_part(root, path, part)}
    layers = [path for path, layer in root.named_modules() if is_linear(layer) and ATTENTION.search(path)]
    holding = {path for path in parts if any(_inside(layer, path) for layer in layers)}
    chosen = [path for path in holding if not any(_inside(other, path) for other in holding)]
    for path in parts:
        if path not in holding and not any(_inside(path, other) for other in chosen):
            chosen.append(path)
    return [parts[path] for path in chosen]


def _is_part(root: nn.Module, path: str, part: nn.Module) -> bool:
    lists = (nn.ModuleList, nn.Sequential)
    parent = root.get_submodule(path.rpartition(".")[0])
    return isinstance(parent, lists) and not isinstance(part, lists) and bool(list(part.children()))


def _inside(path: str, other: str) -> bool:
    return path.startswith(f"{other}.")
