# SPDX-License-Identifier: Apache-2.0
"""By what a session knows its checkpoint, its conditioning and its size again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def fingerprint(model: Any, positive: list, negative: list, latent_shape: tuple[int, ...]) -> str:
    """Three short digests: weights, conditioning, size; so that a message can say which of them changed."""
    size = "x".join(str(side) for side in latent_shape)
    return f"{_weights_digest(model)}-{_conditioning_digest(positive, negative)}-{size}"


def _weights_digest(model: Any) -> str:
    """Signs of sampled weights: they survive every move between devices and precisions, and no finetuning."""
    digest = hashlib.sha256()
    backup = getattr(model, "backup", {})
    for key, weight in model.model_state_dict().items():
        if not key.startswith("diffusion_model."):
            continue
        weight = backup[key].weight if key in backup else weight
        digest.update(f"{key}{tuple(weight.shape)}".encode())
        digest.update(_signs(weight))
    for key in sorted(model.patches, key=str):
        _absorb(digest, key, model.patches[key], _signs)
    for key in sorted(model.object_patches):
        digest.update(f"{key}{type(model.object_patches[key]).__name__}".encode())
    sampling = model.get_model_object("model_sampling")
    digest.update(f"{float(sampling.sigma_min):.4g} {float(sampling.sigma_max):.4g}".encode())
    return digest.hexdigest()[:16]


def _signs(tensor: Tensor, samples: int = 1024) -> bytes:
    flat = tensor.detach().reshape(-1)
    picked = flat[:: max(1, len(flat) // samples)]
    return torch.signbit(picked.to("cpu", torch.float32)).numpy().tobytes()


def _conditioning_digest(positive: list, negative: list) -> str:
    digest = hashlib.sha256()
    _absorb(digest, "positive", positive, _half)
    _absorb(digest, "negative", negative, _half)
    return digest.hexdigest()[:16]


def _half(tensor: Tensor) -> bytes:
    return f"{tuple(tensor.shape)}".encode() + tensor.detach().to("cpu", torch.float16).contiguous().numpy().tobytes()


def _absorb(digest: Any, key: object, value: Any, of_tensor: Callable[[Tensor], bytes]) -> None:
    """Hash nested containers; an object counts by its type and, where it has them, its weights."""
    digest.update(str(key).encode())
    if isinstance(value, Tensor):
        digest.update(of_tensor(value))
    elif isinstance(value, Mapping):
        for name in sorted(value, key=str):
            if name not in ("uuid",):
                _absorb(digest, name, value[name], of_tensor)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            _absorb(digest, number, item, of_tensor)
    elif isinstance(value, (str, int, float, bool, type(None))):
        digest.update(repr(value).encode())
    else:
        digest.update(type(value).__name__.encode())
        _absorb(digest, "weights", getattr(value, "weights", None), of_tensor)
