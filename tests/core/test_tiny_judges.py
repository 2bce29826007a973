# SPDX-License-Identifier: Apache-2.0
"""The judges agree with the renderers' truth, before and after the autoencoder, and refuse what is unclear."""

import numpy as np
import pytest
import torch

from hero_core.tiny.judges import JUDGES, free_attributes
from hero_core.tiny.model import load_tiny
from hero_core.tiny.scenes import RENDERERS, SUCCESS_RATES, training_caption
from hero_core.tiny.words import VOCABULARY

TASKS = list(RENDERERS)


def render(task, n, seed):
    rng = np.random.default_rng(seed)
    scenes = [RENDERERS[task](rng, success=bool(i % 2)) for i in range(n)]
    pictures = torch.from_numpy(np.stack([s.picture for s in scenes])).permute(0, 3, 1, 2).float() / 255
    return pictures, np.array([s.success for s in scenes])


@pytest.mark.parametrize("task", TASKS)
def test_judge_agrees_with_the_renderer_on_99_percent_of_1000_scenes(task):
    pictures, truth = render(task, 1000, seed=11)
    assert truth.mean() == 0.5
    assert (JUDGES[task](pictures).good == truth).mean() >= 0.99


@pytest.mark.parametrize("task", TASKS)
def test_judge_agrees_on_97_percent_after_the_autoencoder(task):
    pictures, truth = render(task, 64, seed=12)
    model = load_tiny()
    again = model.decode(model.encode(pictures))
    assert (JUDGES[task](again).good == truth).mean() >= 0.97


@pytest.mark.parametrize("task", TASKS)
def test_grey_noise_and_strong_blur_are_not_good(task):
    pictures, _ = render(task, 40, seed=13)
    noise = torch.rand(8, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    assert not JUDGES[task](noise).good.any()
    assert not JUDGES[task](torch.full((2, 3, 128, 128), 0.5)).good.any()
    small = torch.nn.functional.interpolate(pictures, size=(5, 5), mode="area")
    blurred = torch.nn.functional.interpolate(small, size=(128, 128), mode="bilinear")
    assert JUDGES[task](blurred).good.mean() <= 0.05


@pytest.mark.parametrize("task", TASKS)
def test_quality_lies_between_0_and_1_and_ranks_the_goods(task):
    pictures, truth = render(task, 100, seed=14)
    quality = JUDGES[task](pictures).quality[truth]
    assert quality.min() >= 0.0
    assert quality.max() <= 1.0
    assert np.unique(quality).size > 10


@pytest.mark.parametrize("task", TASKS)
def test_every_task_leaves_two_attributes_free_and_they_vary(task):
    pictures, _ = render(task, 200, seed=15)
    free = free_attributes(task, pictures)
    assert len(free) >= 2
    for bins in free.values():
        assert bins.shape == (200,)
        assert np.unique(bins).size >= 3
        assert np.bincount(bins).max() < 150


def test_free_attributes_of_an_unknown_task_are_refused():
    with pytest.raises(ValueError, match="unknown task 'hands'; choose one of colour"):
        free_attributes("hands", torch.zeros(1, 3, 128, 128))


def test_judges_refuse_pictures_of_another_layout():
    with pytest.raises(ValueError, match=r"shape \(2, 128, 128, 3\)"):
        JUDGES["colour"](torch.zeros(2, 128, 128, 3))


def test_judges_read_other_sizes_too():
    pictures, truth = render("colour", 60, seed=16)
    large = torch.nn.functional.interpolate(pictures, scale_factor=2, mode="nearest")
    assert (JUDGES["colour"](large).good == truth).mean() >= 0.98


@pytest.mark.parametrize("task", TASKS)
def test_scenes_succeed_at_the_rate_that_training_uses(task):
    rng = np.random.default_rng(17)
    share = np.mean([RENDERERS[task](rng).success for _ in range(600)])
    assert abs(share - SUCCESS_RATES[task]) < 0.06


def test_captions_use_only_words_of_the_vocabulary():
    rng, words = np.random.default_rng(18), set(VOCABULARY)
    for task in TASKS:
        for _ in range(40):
            assert set(training_caption(rng, task, RENDERERS[task](rng)).split()) <= words


def test_one_seed_renders_one_scene():
    first, second = (RENDERERS["place"](np.random.default_rng(19)).picture for _ in range(2))
    assert np.array_equal(first, second)
