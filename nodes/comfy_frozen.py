# SPDX-License-Identifier: Apache-2.0
"""Frozen layers whose weights are cast, quantised or elsewhere: read when they are needed, and not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.ops
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from ..hero_core.errors import HeroError
from ..hero_core.lora import is_linear

PLAIN = (torch.float32, torch.float16, torch.bfloat16)
"""What a weight is kept in that can be computed with as it is."""


def is_plain(weight: Tensor) -> bool:
    """Whether a weight is an ordinary float tensor: not fp8, not quantised, not another program's kind."""
    return weight.dtype in PLAIN and type(weight.data) in (Tensor, FakeTensor)


def quantised(model: Any) -> bool:
    """Whether any weight of a MODEL's diffusion model is other than plain."""
    return not all(is_plain(weight) for weight in model.get_model_object("diffusion_model").parameters())


def refuse_unreadable(model: Any) -> None:
    """Raise :class:`HeroError` where a layer's weight is not plain and the layer does not know how to read it."""
    for path, module in model.get_model_object("diffusion_model").named_modules():
        for name, weight in module.named_parameters(recurse=False):
            # What is not the weight of a layer of torch or the host is read by the code of the model itself.
            if name == "weight" and _is_layer(module) and not is_plain(weight) and not _reads(module, weight):
                kind = type(weight.data).__name__
                kind = str(weight.dtype).removeprefix("torch.") if kind == "Tensor" else kind
                raise HeroError(
                    f"{path}.{name} is {kind}, and its layer ({type(module).__name__}) has no way known to HERO to "
                    "turn it into numbers. Load a bf16, fp16, fp8 or int8 file with Load Diffusion Model, or a GGUF "
                    "file with the loader of ComfyUI-GGUF."
                )


def _is_layer(module: nn.Module) -> bool:
    """Whether a module computes with its weight as it is told to, and not by rules of a model's own."""
    kinds = type(module).__mro__[: -len(nn.Module.__mro__)]
    return is_linear(module) or any(kind.__module__.startswith("torch.nn.modules") for kind in kinds)


def _reads(module: nn.Module, weight: Tensor) -> bool:
    if type(weight.data) is Tensor:
        return bool(getattr(module, "comfy_cast_weights", False))
    return hasattr(module, "comfy_cast_weights")


def normal(tensor: Tensor) -> Tensor:
    """A plain tensor that was made in inference mode as one that may enter a backward pass, in the same memory.

    Others stay as they were: what they stand for is read outside of the graph, and the host, which moves them in
    inference mode, could not move them if they were of another.
    """
    if not tensor.is_inference() or type(tensor.data) is not Tensor:
        return tensor
    empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return empty.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


@contextmanager
def refetching(root: nn.Module, device: torch.device) -> Iterator[None]:
    """Let frozen layers whose weights are not ready for ``device`` keep none of them for the backward pass.

    What such a layer reads would else be kept for each call of the model, in the precision of the computation, or lie
    in a buffer that the next layer takes. The forward pass is the host's own, and the one that it takes when sampling.
    """
    layers = [module for module in root.modules() if _fetches(module, device)]
    outer = [(layer, vars(layer).get("forward")) for layer in layers]
    for layer in layers:
        layer.forward = _frozen(layer, layer.forward)
    try:
        yield
    finally:
        for layer, forward in outer:
            del layer.forward  # the class's own comes to light again
            if forward is not None:
                layer.forward = forward


def _fetches(module: nn.Module, device: torch.device) -> bool:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not hasattr(module, "comfy_cast_weights"):
        return False
    elsewhere = weight.device != device
    # Any layer may be wrapped, and a layer that is no linear one has little to keep: only its buffer is not its own.
    return elsewhere or (is_linear(module) and (bool(module.comfy_cast_weights) or not is_plain(weight)))


def _frozen(layer: Any, forward: Callable) -> Callable:
    """``forward`` of a layer, with gradients for its input alone."""
    own = is_linear(layer) and "forward" not in vars(layer)

    def frozen(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, Tensor) or not torch.is_grad_enabled():
            return forward(x, *args, **kwargs)
        function = _Linear if own and not args and not kwargs else _Again
        return function.apply(x, layer, lambda x: forward(x, *args, **kwargs))  # type: ignore[no-untyped-call]

    return frozen


class _Linear(torch.autograd.Function):
    """A frozen linear layer, whose gradient is the arriving one times its weight, read anew."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any, forward: Callable) -> Tensor:
        ctx.layer = layer
        # What computes in fp8 clamps its input in place. Others get it as it lies: kernels round by its strides.
        return forward(x.detach().clone() if isinstance(layer, comfy.ops.fp8_ops.Linear) else x.detach())  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return grad @ weight_of(ctx.layer, grad), None, None


class _Again(torch.autograd.Function):
    """A frozen layer of another kind, computed a second time for the gradient of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any, forward: Callable) -> Tensor:
        ctx.save_for_backward(x)
        ctx.forward = forward
        return forward(x.detach())  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            return torch.autograd.grad(ctx.forward(x), x, grad)[0], None, None


def weight_of(layer: Any, like: Tensor) -> Tensor:
    """The weight ``(out, in)`` of a linear layer of the host with its patches, as floats of the kind of ``like``."""
    read = getattr(layer, "cast_bias_weight", None)
    weight, _ = read(like) if read is not None else comfy.ops.cast_bias_weight(layer, like)
    if type(weight.data) is not Tensor:
        weight = weight.dequantize()
    weight = weight.to(like.dtype)
    # What a layer multiplies its weight or its input with beside what it reads.
    for name in ("scale_weight", "pre_quant_scale"):
        factor = getattr(layer, name, None)
        weight = weight if factor is None else weight * factor.to(like)
    return weight  # type: ignore[no-any-return]
