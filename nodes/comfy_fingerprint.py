# SPDX-License-Identifier: Apache-2.0
"""By what a session knows its checkpoint, its conditioning and its size again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

UNSIGNED = {torch.uint8, getattr(torch, "float8_e8m0fnu", torch.uint8)}
"""What packs several small numbers into a byte, or holds scales: of these the bytes count, as there are no signs."""
OURS = "hero "
"""How the names of our injections begin, which stand in the place of patches."""


def fingerprint(model: Any, positive: list, negative: list, latent_shape: tuple[int, ...]) -> str:
    """Three short digests: weights, conditioning, size; so that a message can say which of them changed."""
    size = "x".join(str(side) for side in latent_shape)
    return f"{_weights_digest(model)}-{_conditioning_digest(positive, negative)}-{size}"


def _weights_digest(model: Any) -> str:
    """Signs of sampled weights: they survive every move between devices and precisions, and no finetuning."""
    digest = hashlib.sha256()
    unpatched, held = _unpatched(model), dict(model.model.named_parameters())
    for key, weight in model.model_state_dict().items():
        if not key.startswith("diffusion_model."):
            continue
        weight = unpatched.get(key, weight)
        digest.update(f"{key}{tuple(weight.shape)}".encode())
        weight = held.get(key, weight) if weight.is_meta else weight  # the state dict of a GGUF file tells shapes alone
        digest.update(b"" if weight.is_meta else _signs(weight))
    for key in sorted(model.patches, key=str):
        _absorb(digest, key, model.patches[key], _signs)
    for key in sorted(key for key in model.injections if key.startswith(OURS)):
        _absorb(digest, key, model.injections[key], _signs)
    for key in sorted(model.object_patches):
        digest.update(f"{key}{type(model.object_patches[key]).__name__}".encode())
    sampling = model.get_model_object("model_sampling")
    digest.update(f"{float(sampling.sigma_min):.4g} {float(sampling.sigma_max):.4g}".encode())
    return digest.hexdigest()[:16]


def _unpatched(model: Any) -> dict[str, Tensor]:
    """What a loaded MODEL's patches took the place of; of a quantised weight its numbers and scales, as in a file."""
    found: dict[str, Tensor] = {}
    for key, entry in getattr(model, "backup", {}).items():
        weight = entry.weight
        found |= weight.state_dict(key) if hasattr(weight, "state_dict") else {key: weight}
    return found


def _signs(tensor: Tensor, samples: int = 1024) -> bytes:
    flat = tensor.detach().as_subclass(Tensor).reshape(-1)
    picked = flat[:: max(1, len(flat) // samples)]
    if flat.dtype in UNSIGNED:
        return picked.contiguous().view(torch.uint8).cpu().numpy().tobytes()
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
