# SPDX-License-Identifier: Apache-2.0
"""Learning from finished pictures, HERO Sampler's and those of any other sampler, in a real ComfyUI."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from tests.comfy.graphs import added, any_latents, changed, forward, history, look, loop, rate
from tests.comfy.host import Failed, Server


@pytest.fixture
def name() -> str:
    """A session nobody else uses."""
    return f"a{uuid.uuid4().hex[:12]}"


def test_pictures_of_the_stock_sampler_are_rated_and_learned_from(comfy: Server, name: str) -> None:
    graph = any_latents(name)
    for number in (1, 2):
        round_id = f"{name}.{number:04d}"
        assert comfy.run(graph)["outputs"]["grid"]["hero_round"] == [round_id]
        rate(comfy, round_id)
        assert comfy.run(graph)["outputs"]["save"]["hero_saved"] == [round_id]
    entries = history(comfy, name)
    assert [entry["optimizer_steps"] for entry in entries] == [4, 4]
    assert [entry["lora"] for entry in entries] == [f"{name}_r0001.safetensors", f"{name}_r0002.safetensors"]
    first, second = (look(comfy, f"{name}.{number:04d}") for number in (1, 2))
    assert not np.array_equal(first, second), "every round has a seed of its own"
    assert "not recorded" not in comfy.log.read_text()


def test_marked_pictures_stay_when_the_sampler_draws_others(comfy: Server, name: str) -> None:
    graph = any_latents(name)
    comfy.run(graph)
    before = look(comfy, f"{name}.0001")
    comfy.request("PUT", f"/hero/rounds/{name}.0001/labels", {"rev": 0, "labels": {"3": "good"}, "best": 3})
    comfy.run(changed(graph, "sampler", steps=4))
    assert np.array_equal(look(comfy, f"{name}.0001"), before)
    assert comfy.get(f"/hero/rounds/{name}.0001")["labels"] == {"3": "good"}


def test_the_forward_update_learns_from_hero_samplers_rounds_too(comfy: Server, name: str) -> None:
    graph = forward(loop(name), rule="goods", ema_decay=0.5)
    comfy.run(graph)
    rate(comfy, f"{name}.0001")
    comfy.run(graph)
    assert history(comfy, name)[0]["optimizer_steps"] == 4


def test_an_update_that_needs_recorded_steps_says_what_to_wire(comfy: Server, name: str) -> None:
    graph = any_latents(name)
    old = loop(name)
    graph["embedding"], graph["update"] = old["embedding"], old["update"]
    for node in ("embedding", "update"):
        graph[node]["inputs"]["rollout"] = ["rated", 1]
    comfy.run(any_latents(name))
    rate(comfy, f"{name}.0001")
    with pytest.raises(Failed, match="wire Forward-Process LoRA Update") as failed:
        comfy.run(graph)
    assert failed.value.node == "HERO_DDPOUpdate"
    comfy.run(any_latents(name))
    assert history(comfy, name)[0]["marks"] == 8, "the marks were not lost"


def test_a_mixture_needs_the_noise_and_takes_the_samplers(comfy: Server, name: str) -> None:
    graph = added(
        any_latents(name), "mixture", "HERO_LatentMixture", rollout=["rated", 1], feedback=["grid", 0], beta=0.5,
        eps0=0.1,
    )  # fmt: skip
    graph["save"]["inputs"]["mixture"] = ["mixture", 0]
    comfy.run(graph)
    rate(comfy, f"{name}.0001")
    with pytest.raises(Failed, match="leave Latent Mixture out") as failed:
        comfy.run(graph)
    assert failed.value.node == "HERO_LatentMixture"
    graph["rated"]["inputs"]["noise"] = ["learned", 2]
    comfy.run(changed(graph, "session", name=f"{name}n"))
    rate(comfy, f"{name}n.0001")
    saved = comfy.run(changed(graph, "session", name=f"{name}n"))
    assert saved["outputs"]["save"]["hero_saved"] == [f"{name}n.0001"]


def test_what_cannot_be_learned_from_is_refused(comfy: Server, name: str) -> None:
    graph = any_latents(name)
    with pytest.raises(Failed, match="wire the output of a sampler") as failed:
        comfy.run(changed(graph, "rated", latent=["latent", 0]))
    assert failed.value.node == "HERO_RateLatents"
    comfy.run(graph)
    rate(comfy, f"{name}.0001")
    with pytest.raises(Failed, match="wire Embedding Trainer into it, or choose marks") as failed:
        comfy.run(changed(graph, "update", source="embedding"))
    assert failed.value.node == "HERO_NFTUpdate"
