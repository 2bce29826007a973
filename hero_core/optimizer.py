# SPDX-License-Identifier: Apache-2.0
"""The state of an optimiser as flat tensors, and flat tensors under a prefix: how networks travel between rounds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def optimizer_state(optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An optimiser's state as flat tensors ``<parameter>:<name>`` on the CPU, ready for safetensors."""
    flat = {}
    for key, parameter in named.items():
        for name, value in optimizer.state.get(parameter, {}).items():
            flat[f"{key}:{name}"] = torch.as_tensor(value).detach().to("cpu", torch.float32, copy=True)
    return flat


def load_optimizer(optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor], flat: Mapping[str, Tensor]) -> None:
    """The inverse of :func:`optimizer_state`; an empty ``flat`` leaves the optimiser fresh."""
    for key, value in flat.items():
        parameter_key, _, name = key.rpartition(":")
        parameter = named[parameter_key]
        device = "cpu" if name == "step" and not optimizer.defaults.get("fused") else parameter.device
        optimizer.state[parameter][name] = value.to(device, copy=True)


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` under ``<prefix>:<key>``."""
    return {f"{prefix}:{key}": tensor for key, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that stand under ``<prefix>:``, by the keys they had; the inverse of :func:`prefixed`."""
    start = f"{prefix}:"
    return {key[len(start) :]: tensor for key, tensor in tensors.items() if key.startswith(start)}
