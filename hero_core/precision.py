# SPDX-License-Identifier: Apache-2.0
"""Gradients through a model that computes in float16: scaled on entry so that none underflows, true at the LoRA."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

from .errors import HeroError

T = TypeVar("T")

TARGET = 2.0**-3
"""The size at which the largest entry of a gradient enters the model. A float16 goes from 2^-24 to 2^16."""
BACKOFF = 2.0**-3
"""The target moves by this factor each time a gradient overflowed."""
TRIES = 6


class GradientScale:
    """The power of two that gradients carry between a prediction of the model and the LoRA's ``parameters``.

    A loss is a mean over rows, channels and pixels, so its gradient reaches the model at about ``1 / (40 C H W)``, and
    most of it would be below what float16 can hold. The scale is chosen in each backward pass from the gradient that
    arrives, is the same for all predictions of the pass, and is taken off again at the parameters. What overflows in
    spite of that is done again with a smaller one, which later passes keep, as torch's GradScaler does.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters, self.target = list(parameters), TARGET
        self.scale: float | None = None
        for parameter in self.parameters:
            parameter.register_hook(lambda grad: grad if self.scale is None else grad / self.scale)

    @classmethod
    def of(cls, dtype: torch.dtype, parameters: Iterable[Tensor]) -> GradientScale | None:
        """For a model that computes in ``dtype``; None where gradients need no scale."""
        return cls(parameters) if dtype == torch.float16 else None

    def enter(self, prediction: Tensor) -> Tensor:
        """``prediction`` as it is (float32); on the way back its gradient is scaled."""
        return _Enter.apply(prediction, self)  # type: ignore[no-untyped-call,no-any-return]

    def backward(self, compute: Callable[[], tuple[Tensor, T]]) -> T:
        """Add the gradient of the loss that ``compute`` returns first to the parameters'; return what it returns last.

        ``compute`` is called again after an overflow, and only the call that was kept counts. Raises
        :class:`HeroError` where nothing helps; the gradients are then what they were before.
        """
        before = [parameter.grad for parameter in self.parameters]
        for _ in range(TRIES):
            self.scale = None
            for parameter in self.parameters:
                parameter.grad = None
            loss, known = compute()
            if not bool(torch.isfinite(loss.detach())):
                break
            loss.backward()  # type: ignore[no-untyped-call]
            if self._finite():
                self._join(before)
                return known
            self.target *= BACKOFF
        for parameter, grad in zip(self.parameters, before, strict=True):
            parameter.grad = grad
        raise HeroError(
            "The model computes in float16, and that is too small a range for what it computes while it learns (NaN or "
            f"infinity). {remedy(torch.float16)} The LoRA stays as it was."
        )

    def choose(self, grad: Tensor) -> float:
        """The scale of this pass, from the first gradient that arrives in it."""
        if self.scale is None:
            largest = float(grad.abs().max())
            if not 0 < largest < math.inf:
                return 1.0
            self.scale = 2.0 ** min(100, round(math.log2(self.target / largest)))
        return self.scale

    def _finite(self) -> bool:
        grads = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        return not grads or bool(torch.isfinite(torch.stack([grad.abs().max() for grad in grads])).all())

    def _join(self, before: list[Tensor | None]) -> None:
        for parameter, grad in zip(self.parameters, before, strict=True):
            if grad is not None:
                parameter.grad = grad if parameter.grad is None else grad.add_(parameter.grad)


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prediction: Tensor, scale: GradientScale) -> Tensor:
        ctx.scale = scale
        return prediction.view_as(prediction)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad * ctx.scale.choose(grad), None


def remedy(dtype: torch.dtype) -> str:
    """What to start ComfyUI with where a model that computes in ``dtype`` gives NaN or infinity."""
    if dtype == torch.float16:
        return "Start ComfyUI with --bf16-unet, or with --fp32-unet where the card has no bfloat16."
    return "Start ComfyUI with --force-fp32, and look whether a stock sampler draws with this checkpoint."
