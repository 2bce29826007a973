# SPDX-License-Identifier: Apache-2.0
"""The tiny model's interface: weights, prompts, schedules, speed-independent facts of sampling."""

import numpy as np
import pytest
import torch

from hero_core.tiny.model import FLOW_WEIGHTS, KINDS, WEIGHTS, load_tiny, load_weights
from hero_core.tiny.tasks import TASKS
from hero_core.tiny.text import LENGTH, Tokenizer


@pytest.fixture(scope="module")
def tiny():
    return load_tiny()


@pytest.fixture(scope="module")
def flow():
    return load_tiny(kind="flow")


def test_the_weights_of_each_kind_are_at_most_six_megabytes():
    assert WEIGHTS.stat().st_size <= 6_000_000
    assert FLOW_WEIGHTS.stat().st_size <= 6_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_weights_are_frozen_float32(kind):
    tiny = load_tiny(kind=kind)
    for network in (tiny.denoiser, tiny.vae, tiny.text):
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in network.parameters())


def test_the_kinds_share_their_autoencoder_and_nothing_else(tiny, flow):
    assert (tiny.flow, flow.flow) == (False, True)
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tiny.decode(z), flow.decode(z))
    assert not torch.equal(tiny.encode_prompt("a red rose"), flow.encode_prompt("a red rose"))


def test_a_kind_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="kind is 'dit'; choose one of unet, flow"):
        load_tiny(kind="dit")


def test_missing_weights_are_named_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors are missing; reinstall"):
        load_weights(tmp_path / "none.safetensors")


def test_case_and_punctuation_do_not_change_a_prompt():
    tokenizer = Tokenizer()
    assert tokenizer("Photo of one BLUE rose, in a vase!") == tokenizer("photo of one blue rose in a vase")
    assert tokenizer("a zebra")[2] == tokenizer.words.index("<unk>")


@pytest.mark.parametrize("prompt", [task.prompt for task in TASKS.values()])
def test_every_word_of_every_task_prompt_is_known(prompt):
    ids = Tokenizer()(prompt)
    assert len(ids) == LENGTH
    assert 3 not in ids
    assert ids[len(prompt.split()) + 1] == 2


def test_a_prompt_longer_than_the_room_keeps_its_end_mark():
    ids = Tokenizer()("rose " * 40)
    assert len(ids) == LENGTH
    assert ids[-1] == 2


def test_prompts_differ_in_their_context(tiny):
    blue, red = tiny.encode_prompt("a blue rose"), tiny.encode_prompt("a red rose")
    assert blue.shape == (1, LENGTH, 64)
    assert (blue - red).abs().max() > 0.1


def test_normal_schedule_runs_from_sigma_max_to_sigma_min_to_zero(tiny):
    levels = tiny.sigmas(20)
    assert levels.shape == (21,)
    assert float(levels[0]) == pytest.approx(14.6146, abs=1e-3)
    assert float(levels[-2]) == pytest.approx(0.0292, abs=1e-3)
    assert float(levels[-1]) == 0.0
    assert (levels.diff() < 0).all()


def test_the_flows_schedule_runs_from_noise_alone_to_the_picture(flow):
    levels = flow.sigmas(20)
    assert (float(levels[0]), float(levels[-1])) == (1.0, 0.0)
    assert (levels.diff() < 0).all()


def test_bad_schedules_are_refused_with_the_remedy(tiny):
    with pytest.raises(ValueError, match="'exponential'; choose one of normal, simple, karras"):
        tiny.sigmas(20, "exponential")
    with pytest.raises(ValueError, match="steps is 0"):
        tiny.sigmas(0)


def test_the_flow_returns_a_nearly_clean_latent_too(flow):
    scene = TASKS["count"].render(np.random.default_rng(0)).picture
    z = flow.encode(torch.from_numpy(scene.copy()).permute(2, 0, 1)[None].float() / 255)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        back = flow.denoise(0.98 * z + 0.02 * noise, 0.02, flow.encode_prompt(TASKS["count"].prompt))
    assert float((back - z).square().mean().sqrt()) < 0.06


def test_denoising_a_nearly_clean_latent_returns_it(tiny):
    scene = TASKS["count"].render(np.random.default_rng(0)).picture
    picture = torch.from_numpy(scene.copy()).permute(2, 0, 1)[None].float() / 255
    z = tiny.encode(picture)
    with torch.inference_mode():
        x0 = tiny.denoise(z, tiny.sigma_min, tiny.encode_prompt("red apples"))
    assert (x0 - z).abs().mean() < 0.05


def test_a_picture_survives_the_autoencoder(tiny):
    scene = TASKS["count"].render(np.random.default_rng(0)).picture
    picture = torch.from_numpy(scene.copy()).permute(2, 0, 1)[None].float() / 255
    again = tiny.decode(tiny.encode(picture))
    assert again.shape == picture.shape
    assert 0.0 <= float(again.min())
    assert float(again.max()) <= 1.0
    assert (again - picture).abs().mean() < 0.04


def test_latents_have_a_standard_deviation_of_about_one(tiny):
    rng = np.random.default_rng(3)
    scenes = np.stack([task.render(rng).picture for task in TASKS.values() for _ in range(4)])
    z = tiny.encode(torch.from_numpy(scenes).permute(0, 3, 1, 2).float() / 255)
    assert 0.8 < float(z.std()) < 1.2


def test_the_uncached_forward_is_deterministic(tiny):
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    context = tiny.encode_prompt("mountains")
    with torch.inference_mode():
        assert torch.equal(tiny.denoise(x, 1.0, context), tiny.denoise(x, 1.0, context))
