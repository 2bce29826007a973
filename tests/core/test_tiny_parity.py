# SPDX-License-Identifier: Apache-2.0
"""The tiny model's networks and schedules give the numbers that ComfyUI's own classes give for the same weights."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from families import FAMILIES

from hero_core.lora import kohya_key
from hero_core.tiny.autoencoder import VAE_CONFIG
from hero_core.tiny.dit import DIT_CONFIG
from hero_core.tiny.latent import LATENT_SCALE
from hero_core.tiny.model import FLOW_WEIGHTS, SHIFT, load_tiny, load_weights
from hero_core.tiny.unet import UNET_CONFIG

COMFYUI = Path(os.environ.get("COMFYUI_PATH", "~/.cache/hero-feedback/ComfyUI")).expanduser()


@pytest.fixture(scope="module")
def comfy():
    if not (COMFYUI / "comfy").is_dir():
        pytest.skip(f"no ComfyUI at {COMFYUI}; set COMFYUI_PATH")
    sys.path.insert(0, str(COMFYUI))
    try:
        from comfy.cli_args import args

        args.cpu = True
        import comfy.ldm.lumina.model
        import comfy.ldm.models.autoencoder
        import comfy.ldm.modules.diffusionmodules.openaimodel
        import comfy.lora
        import comfy.model_base
        import comfy.model_sampling
        import comfy.ops
        import comfy.samplers
        import comfy.utils

        yield comfy
    except ImportError as error:
        pytest.skip(f"ComfyUI at {COMFYUI} does not import: {error}")
    finally:
        sys.path.remove(str(COMFYUI))


@pytest.fixture(scope="module")
def tiny():
    return load_tiny()


@pytest.fixture(scope="module")
def flow():
    return load_tiny(kind="flow")


@pytest.fixture(scope="module")
def sampling(comfy):
    return type("Eps", (comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS), {})()


def test_unet_equals_comfyuis_on_the_same_file(comfy, tiny):
    theirs = comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel(**UNET_CONFIG)
    theirs.load_state_dict(load_weights()["unet"], strict=True)
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(3, 4, 16, 16, generator=generator), torch.randn(3, 16, 64, generator=generator)
    t = torch.tensor([0.0, 437.0, 999.0])
    with torch.inference_mode():
        ours, reference = tiny.denoiser(x, t, context), theirs(x, t, context)
    assert reference.std() > 0.1
    assert (ours - reference).abs().max() < 1e-5


@pytest.mark.parametrize(("height", "width", "words"), [(16, 16, 16), (12, 20, 16), (16, 16, 5)])
def test_the_dit_equals_comfyuis_on_the_same_file(comfy, flow, height, width, words):
    theirs = comfy.ldm.lumina.model.NextDiT(
        **DIT_CONFIG, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init
    )
    found = theirs.load_state_dict(load_weights(FLOW_WEIGHTS)["dit"], strict=False)
    assert found.unexpected_keys == []
    assert set(found.missing_keys) <= {"norm_final.weight"}, "which older versions have and never use"
    generator = torch.Generator().manual_seed(0)
    x, context = (torch.randn(*shape, generator=generator) for shape in ((3, 4, height, width), (3, words, 64)))
    sigma = torch.tensor([0.01, 0.437, 1.0])
    with torch.inference_mode():
        ours, reference = flow.denoiser(x, sigma, context), theirs(x, sigma, context, num_tokens=words)
    assert reference.std() > 0.1
    assert (ours - reference).abs().max() < 1e-5


def test_autoencoder_equals_comfyuis_on_the_same_file(comfy, tiny):
    theirs = comfy.ldm.models.autoencoder.AutoencoderKL(**VAE_CONFIG)
    theirs.load_state_dict(load_weights()["vae"], strict=True)
    theirs.eval()
    x = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        mean = theirs.quant_conv(theirs.encoder(x * 2 - 1)).chunk(2, dim=1)[0]
        ours = tiny.encode(x)
        assert (ours - mean * LATENT_SCALE).abs().max() < 1e-4
        reference = theirs.decode(ours / LATENT_SCALE)
        assert (tiny.vae.decode(ours / LATENT_SCALE) - reference).abs().max() < 1e-5


def test_timesteps_and_sigmas_equal_comfyuis(tiny, sampling):
    assert torch.equal(tiny.train_sigmas, sampling.sigmas)
    levels = torch.logspace(-1.6, 1.2, 333)
    assert torch.equal(tiny.timestep(levels), sampling.timestep(levels))
    steps = torch.linspace(0, 999, 321)
    assert torch.equal(tiny.sigma(steps), sampling.sigma(steps))
    assert tiny.sigma_min == float(sampling.sigma_min)
    assert tiny.sigma_max == float(sampling.sigma_max)


@pytest.mark.parametrize("scheduler", ["normal", "simple", "karras"])
@pytest.mark.parametrize("steps", [1, 7, 20, 50])
def test_schedules_equal_comfyuis(comfy, tiny, sampling, scheduler, steps):
    expected = comfy.samplers.calculate_sigmas(sampling, scheduler, steps)
    found = tiny.sigmas(steps, scheduler)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-6 * expected.max()


@pytest.fixture(scope="module")
def flow_sampling(comfy):
    made = type("Flow", (comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST), {})()
    made.set_parameters(shift=SHIFT, multiplier=1.0)
    return made


@pytest.mark.parametrize("scheduler", ["normal", "simple", "karras"])
@pytest.mark.parametrize("steps", [1, 7, 20, 50])
def test_schedules_of_the_flow_equal_comfyuis(comfy, flow, flow_sampling, scheduler, steps):
    expected = comfy.samplers.calculate_sigmas(flow_sampling, scheduler, steps)
    torch.testing.assert_close(flow.sigmas(steps, scheduler), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(flow.train_sigmas, flow_sampling.sigmas, rtol=0, atol=1e-6)


def test_denoise_of_the_flow_equals_comfyuis_arithmetic(flow, flow_sampling):
    generator = torch.Generator().manual_seed(2)
    sigma, x = torch.tensor([0.05, 0.5, 1.0]), torch.randn(3, 4, 16, 16, generator=generator)
    context = flow.encode_prompt("a red rose")
    with torch.inference_mode():
        velocity = flow.denoiser(x, flow_sampling.timestep(sigma), context.expand(3, -1, -1))
        reference = flow_sampling.calculate_denoised(sigma, velocity, x)
        assert (flow.denoise(x, sigma, context) - reference).abs().max() < 1e-5
        scaled = flow_sampling.noise_scaling(torch.tensor(0.9), x, torch.zeros_like(x))
        torch.testing.assert_close(flow.initial(x, 0.9), scaled)


def test_denoise_equals_comfyuis_eps_arithmetic(tiny, sampling):
    generator = torch.Generator().manual_seed(2)
    sigma = torch.tensor([0.05, 1.3, 14.0])
    x = torch.randn(3, 4, 16, 16, generator=generator) * sigma[:, None, None, None]
    context = tiny.encode_prompt("a red rose")
    with torch.inference_mode():
        scaled = sampling.calculate_input(sigma, x)
        eps = tiny.denoiser(scaled, sampling.timestep(sigma).float(), context.expand(3, -1, -1))
        reference = sampling.calculate_denoised(sigma, eps, x)
        assert (tiny.denoise(x, sigma, context) - reference).abs().max() < 1e-5


@pytest.mark.parametrize("name", [*FAMILIES, "tiny"])
def test_comfyui_reads_each_of_our_kohya_names_as_the_weight_that_was_trained(comfy, name):
    if name == "tiny":
        config, paths = UNET_CONFIG, [key.removesuffix(".weight") for key in load_weights()["unet"] if ".attn" in key]
        paths = [path for path in paths if not path.endswith(".bias")]
    else:
        config, paths = FAMILIES[name].ldm, FAMILIES[name].attention_paths()
    model = SimpleNamespace(
        state_dict=lambda: {f"diffusion_model.{path}.weight": None for path in paths},
        model_config=SimpleNamespace(unet_config=config),
    )
    names = comfy.lora.model_lora_keys_unet(model, {})
    assert {path: names[kohya_key(path, config)] for path in paths} == {
        path: f"diffusion_model.{path}.weight" for path in paths
    }
    down_up = {kohya_key(path, config).split("_")[2] for path in paths}
    assert down_up == {"down", "mid", "up"}, "the names of blocks, and not LDM's own"
