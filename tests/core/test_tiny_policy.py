# SPDX-License-Identifier: Apache-2.0
"""The tiny model as a policy: its sides and its guidance, on which all figures rest, against a plain computation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hero_core.lora import LoRAConfig, LoRAState
from hero_core.seeding import generator
from hero_core.tiny.model import TinyModel, load_tiny
from hero_core.tiny.policy import TinyPolicy

PROMPT, NEGATIVE = "photo of one blue rose in a vase", "red apples"
SIGMA = torch.tensor([7.0, 1.0])
X = SIGMA[:, None, None, None] * torch.randn(2, 4, 16, 16, generator=generator("x"))


@pytest.fixture(scope="module")
def tiny() -> TinyModel:
    return load_tiny()


def plain(tiny: TinyModel, prompt: str) -> Tensor:
    """``x - sigma eps``, the noise as the UNet predicts it for one prompt."""
    column = SIGMA[:, None, None, None]
    with torch.no_grad():
        context = tiny.encode_prompt(prompt).repeat(2, 1, 1)
        return X - column * tiny.denoiser(X / (1 + column**2).sqrt(), tiny.timestep(SIGMA).float(), context)


def denoised(policy: TinyPolicy, *sides: str, lora: LoRAState | None = None, cfg: float = 5.0) -> list[Tensor]:
    lora = lora or policy.fresh_lora(LoRAConfig(), generator("lora"))
    return policy.run(
        lambda a: [a.denoise(X, SIGMA, side) for side in sides], lora=lora, rows=2, grad=False, cfg=cfg  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("cfg", [0.0, 1.0, 3.0, 7.5])
def test_guidance_and_its_sides_are_the_plain_computation(tiny: TinyModel, cfg: float) -> None:
    with_prompt, without = plain(tiny, PROMPT), plain(tiny, NEGATIVE)
    assert float((with_prompt - without).abs().max()) > 0.05, "two prompts must tell the sides apart"
    sides = ("positive", "negative", "guided")
    positive, negative, guided = denoised(TinyPolicy(tiny, PROMPT, NEGATIVE), *sides, cfg=cfg)
    torch.testing.assert_close(positive, with_prompt, rtol=0, atol=1e-5)
    torch.testing.assert_close(negative, without, rtol=0, atol=1e-5)
    torch.testing.assert_close(guided, without + cfg * (with_prompt - without), rtol=0, atol=1e-4)


def test_the_lora_is_worn_on_every_side(tiny: TinyModel) -> None:
    policy = TinyPolicy(tiny, PROMPT, NEGATIVE)
    lora = policy.fresh_lora(LoRAConfig(), generator("lora"))
    moved = LoRAState(lora.config, {k: w + 0.05 for k, w in lora.weights.items()})
    for side in ("positive", "negative", "guided"):
        (before,), (after,) = denoised(policy, side, lora=lora), denoised(policy, side, lora=moved)
        assert float((before - after).abs().max()) > 1e-2, side


def test_the_first_noise_has_the_variance_of_the_data_too(tiny: TinyModel) -> None:
    """At the last training level ``x = z sqrt(1 + sigma^2)``, below it ``z sigma``, as ComfyUI scales unit noise."""
    policy = TinyPolicy(tiny, PROMPT)
    z_T, top = torch.ones(2, 4, 16, 16), tiny.sigma_max
    lora = policy.fresh_lora(LoRAConfig(), generator("lora"))
    body = lambda actor: (actor.initial(z_T, top), actor.initial(z_T, 3.0))  # noqa: E731
    first, later = policy.run(body, lora=lora, rows=2, grad=False, cfg=5.0)
    torch.testing.assert_close(first, z_T * (1 + top**2) ** 0.5)
    torch.testing.assert_close(later, z_T * 3)


def test_training_times_run_from_the_cleanest_to_the_noisiest(tiny: TinyModel) -> None:
    levels = TinyPolicy(tiny, PROMPT).training_sigma(torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(levels, tiny.train_sigmas[[0, 500, 999]])


def test_the_flows_policy_guides_by_velocities_and_names_its_layers_as_its_family_does() -> None:
    flow = load_tiny(kind="flow")
    policy = TinyPolicy(flow, PROMPT, NEGATIVE)
    assert policy.flow
    assert policy.fingerprint != TinyPolicy(load_tiny(), PROMPT, NEGATIVE).fingerprint, "a session belongs to one kind"
    lora, sigma = policy.fresh_lora(LoRAConfig(), generator("lora")), torch.tensor([0.9, 0.3])
    x = torch.randn(2, 4, 16, 16, generator=generator("x"))
    body = lambda a: (a.denoise(x, sigma), a.initial(x, 1.0), a.final(x))  # noqa: E731
    guided, initial, final = policy.run(body, lora=lora, rows=2, grad=False, cfg=4.0)
    with torch.no_grad():
        sides = [flow.encode_prompt(prompt).repeat(2, 1, 1) for prompt in (PROMPT, NEGATIVE)]
        one, other = (x - sigma[:, None, None, None] * flow.denoiser(x, sigma, context) for context in sides)
    torch.testing.assert_close(guided, other + 4 * (one - other), rtol=0, atol=1e-4)
    assert torch.equal(initial, x)
    assert torch.equal(final, x)
    name = "layers.2.attention.qkv"
    assert policy.lora_keys([name]) == {name: "lora_unet_layers_2_attention_qkv"}
    torch.testing.assert_close(policy.training_sigma(torch.tensor([0.0, 1.0])), torch.tensor([0.001998, 1.0]))
