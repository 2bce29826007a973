# SPDX-License-Identifier: Apache-2.0
"""Gradients through a float16 model: nothing underflows, nothing overflows unseen, and the LoRA gets true ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hero_core.errors import HeroError
from hero_core.precision import TARGET, GradientScale

SMALL = 1 / (40 * 4 * 128 * 128)
"""How small the gradient of a loss over a 1024 x 1024 picture of SDXL is where it enters the model."""


class Half(nn.Module):
    """A frozen float16 network with one trainable float32 factor in its middle, and its float32 twin."""

    def __init__(self, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.first, self.last = (torch.randn(64, 64, generator=draw).div(8).to(dtype) for _ in range(2))
        self.factor, self.dtype = nn.Parameter(torch.ones(64)), dtype

    def forward(self, x: Tensor) -> Tensor:
        hidden = (x.to(self.dtype) @ self.first).float() * self.factor
        return (hidden.to(self.dtype) @ self.last).tanh().float()


X = torch.randn(512, 64, generator=torch.Generator().manual_seed(1))
LENGTHS = torch.rand(512, 1, generator=torch.Generator().manual_seed(2))


def gradient(model: Half, scale: GradientScale | None) -> Tensor:
    def compute() -> tuple[Tensor, None]:
        prediction = model(X)
        prediction = scale.enter(prediction) if scale else prediction
        return (prediction * LENGTHS).sum() * SMALL, None

    if scale:
        scale.backward(compute)
    else:
        compute()[0].backward()
    assert model.factor.grad is not None
    found, model.factor.grad = model.factor.grad, None
    return found


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_a_small_gradient_crosses_float16_whole() -> None:
    exact, model = gradient(Half(torch.float32), None), Half()
    assert cosine(gradient(model, None), exact) < 0.99, "unscaled, it must underflow"
    scaled = gradient(model, GradientScale([model.factor]))
    assert cosine(scaled, exact) > 0.9999
    assert float(scaled.norm() / exact.norm()) == pytest.approx(1, abs=1e-3)


def test_the_scale_is_a_power_of_two_and_leaves_float32_bits_alone() -> None:
    model = Half(torch.float32)
    scale = GradientScale([model.factor])
    assert gradient(model, scale).equal(gradient(Half(torch.float32), None))
    assert scale.scale is not None
    assert torch.frexp(torch.tensor(scale.scale)).mantissa == 0.5
    assert TARGET / 1.5 < scale.scale * float(LENGTHS.max()) * SMALL < TARGET * 1.5


def test_only_float16_is_scaled() -> None:
    kinds = (torch.float16, torch.bfloat16, torch.float32)
    assert [GradientScale.of(kind, []) is not None for kind in kinds] == [True, False, False]


def test_all_predictions_of_a_pass_have_one_scale_and_the_next_pass_another() -> None:
    factor = nn.Parameter(torch.ones(1))
    scale = GradientScale([factor])

    def passed(*sizes: float) -> float:
        scale.backward(lambda: (torch.stack([scale.enter(factor * size) * size for size in sizes]).sum(), None))
        found, factor.grad = factor.grad, None
        assert found is not None
        return float(found)

    assert passed(2.0**-9, 2.0**-5) == 2.0**-18 + 2.0**-10
    first = scale.scale
    assert passed(2.0**-4) == 2.0**-8
    assert first is not None
    assert scale.scale is not None
    assert first > scale.scale


def test_an_overflow_is_done_again_and_remembered_and_no_gradient_is_lost() -> None:
    factor, calls = nn.Parameter(torch.full((4,), 2.0**-12)), 0
    factor.grad = torch.full((4,), 3.0)
    scale = GradientScale([factor])

    def compute() -> tuple[Tensor, int]:
        nonlocal calls
        calls += 1
        steep = factor.half() * 2.0**10 * 2.0**10  # its gradient is 2^20 times what enters: 2^17 from 2^-3
        return scale.enter(steep.float()).sum() * 2.0**-20, calls

    assert scale.backward(compute) == calls == 2, "what is returned is of the call that counted"
    assert factor.grad.tolist() == [4.0] * 4
    assert scale.target == TARGET / 8
    scale.backward(compute)
    assert calls == 3, "the smaller target stays"
    assert factor.grad.tolist() == [5.0] * 4


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_model_that_gives_nan_is_named_with_its_remedy_and_gradients_stay(loss: float) -> None:
    factor = nn.Parameter(torch.ones(1))
    scale = GradientScale([factor])
    factor.grad = torch.tensor([2.0])
    with pytest.raises(HeroError, match=r"float16.*--bf16-unet"):
        scale.backward(lambda: (scale.enter(factor).sum() * loss, None))
    assert factor.grad == 2


def test_a_gradient_that_always_overflows_ends_in_a_sentence() -> None:
    factor = nn.Parameter(torch.ones(1))
    scale, calls = GradientScale([factor]), []

    def compute() -> tuple[Tensor, None]:
        calls.append(1)
        prediction = scale.enter(factor.clone())
        prediction.register_hook(lambda grad: grad * float("inf"))
        return prediction.sum(), None

    with pytest.raises(HeroError, match="float16"):
        scale.backward(compute)
    assert len(calls) == 6
    assert factor.grad is None
