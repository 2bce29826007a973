# SPDX-License-Identifier: Apache-2.0
"""The gradient of each family in each precision, in ComfyUI's process.

``python precision_checks.py CHECKOUT PACK OUT NAMES``: names of families, and of precisions where not all are wanted.
Against the same weights, as numbers, in a float32 model: so what is measured is how a precision computes, and not what
was lost when a file was made. ``test_families.py`` says what must be, ``python -m tests.families`` makes a table.
"""

from __future__ import annotations

import importlib.util
import json
import traceback
from collections.abc import Callable
from typing import Any

import inside  # it boots the host, so that comes first

# isort: split
import comfy.model_patcher
import torch
from families import CPU, FAMILIES, Family, draw_weights
from family_checks import ROWS, STATE, drawn, length, policy_of, trained
from inside import BF16, F8, F16, F32, NAMES, OUT, core_lora, cosine, host, ratio_error
from torch import Tensor

PICTURE = 128 * 128
"""Latent cells of a picture of 1024 x 1024, in most families: a loss is a mean over them, so its gradient is small."""


def in_precision(weights: torch.dtype, compute: torch.dtype | None = None) -> Callable[[Family], Any]:
    """The miniature as the host loads a file of ``weights`` and computes it in ``compute``."""
    return lambda family: family.model(dtype=weights, compute=compute)


def in_layout(layout: str, **how: Any) -> Callable[[Family], Any]:
    """The miniature with the linear layers of its blocks in one of the host's quantised formats."""

    def made(family: Family) -> Any:
        base = family.base()
        draw_weights(base.diffusion_model, 0)
        root = base.diffusion_model
        linear = {f"{path}.weight" for path, layer in root.named_modules() if core_lora.is_linear(layer)}
        blocks = {key for key in linear if any(part.isdigit() for part in key.split("."))}
        stored = family.base(dtype=BF16, compute=BF16, quant_config={"mixed_ops": True})
        stored.load_model_weights(inside.in_format(root.state_dict(), blocks, layout, BF16, **how), "")
        return comfy.model_patcher.ModelPatcher(stored, CPU, CPU)

    return made


PRECISIONS: dict[str, Callable[[Family], Any]] = {
    "fp16": in_precision(F16), "bf16": in_precision(BF16), "bf16 in fp32": in_precision(BF16, F32),
    "fp8 in fp16": in_precision(F8, F16), "fp8 in bf16": in_precision(F8, BF16),
}  # fmt: skip
LAYOUTS: dict[str, Callable[[Family], Any]] = {
    "fp8 scaled": in_layout("float8_e4m3fn"), "int8": in_layout("int8_tensorwise"),
    "int8 convrot": in_layout("int8_tensorwise", per_channel=True, convrot=True), "nvfp4": in_layout("nvfp4"),
    "mxfp8": in_layout("mxfp8"), "w4a8": in_layout("asym_w4a8_int8"), "w4a4": in_layout("convrot_w4a4"),
}  # fmt: skip


def exact(family: Family, model: Any) -> Any:
    """The miniature in float32 with the numbers that the weights of ``model`` stand for."""
    plain = family.model()
    read = dict(model.model.diffusion_model.named_parameters())
    for name, parameter in plain.model.diffusion_model.named_parameters():
        weight = read[name].data
        parameter.data = (weight if type(weight) is Tensor else weight.dequantize()).float().clone()
    return plain


def gradient(family: Family, model: Any, recompute: bool = False) -> STATE:
    """The LoRA's gradient of a loss whose gradient enters the model as small as at real size."""
    policy = policy_of(family, model)
    draw = torch.Generator().manual_seed(2)
    x, target = (torch.randn(ROWS, *policy.latent_shape, generator=draw) for _ in range(2))
    sigma = policy.training_sigma(torch.tensor([0.7, 0.3]))
    small = 1 / (40 * policy.latent_shape[0] * PICTURE)

    def body(actor: Any) -> STATE:
        def compute() -> tuple[Tensor, None]:
            noised = x * (1 if policy.flow else sigma[:, None, None, None])
            return (actor.denoise(noised, sigma, "positive") * target).sum() * small, None

        if actor.gradient_scale is None:
            compute()[0].backward()
        else:
            actor.gradient_scale.backward(compute)
        found = {key: one.grad for key, one in actor.lora.parameters().items() if one.grad is not None}
        return {key: grad.clone() for key, grad in found.items()}

    policy.recompute = recompute
    return policy.run(body, lora=trained(policy), rows=ROWS, grad=True, cfg=1.0)


def flat(state: STATE, keys: list[str]) -> Tensor:
    return torch.cat([state[key].flatten() for key in keys])


def check(family: Family, make: Callable[[Family], Any]) -> dict[str, Any]:
    """Cosine and length of the gradient, kept and computed again, and the ratio before the first step."""
    with torch.inference_mode():  # as the host's loaders do
        model = make(family)
    right = gradient(family, exact(family, model))
    keys = sorted(right)
    found = [gradient(family, model, recompute) for recompute in (False, True)]
    policy = policy_of(family, model)
    lora = trained(policy)
    return {
        "cosine": min(cosine(flat(one, keys), flat(right, keys)) for one in found),
        "length": max((length(one) / length(right) for one in found), key=lambda share: abs(share - 1)),
        "ratio_error": ratio_error(policy, lora, drawn(family, policy, lora)),
        "quantised": sum(type(one.data) is not Tensor for one in model.model.diffusion_model.parameters()),
    }


def wanted() -> dict[str, Callable[[Family], Any]]:
    """The precisions that are asked for and that this host has."""
    known = {**PRECISIONS, **(LAYOUTS if importlib.util.find_spec("comfy.quant_ops") else {})}
    named = set(NAMES) & {*PRECISIONS, *LAYOUTS}
    return {name: make for name, make in known.items() if name in named or not named}


def measure(family: Family) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, make in wanted().items():
        try:
            with host.normal_mode():
                results[name] = check(family, make)
        except Exception:
            results[name] = {"error": traceback.format_exc()}
    return results


@torch.inference_mode()
def main() -> None:
    results = {}
    for name in NAMES:
        if name in FAMILIES and FAMILIES[name].known:
            results[name] = measure(FAMILIES[name])
            OUT.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
