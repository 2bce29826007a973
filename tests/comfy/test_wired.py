# SPDX-License-Identifier: Apache-2.0
"""What people wire, mute and bypass: it counts, or a sentence says so before the first mark."""

from __future__ import annotations

import copy
import json
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.comfy.graphs import added, any_latents, changed, critic, forward, loop, rate
from tests.comfy.host import Failed, Listener, Server

ONE_GOOD = json.dumps({"labels": {"0": "good", "1": "bad"}, "best": 0})
SMALL: dict[str, Any] = {"n": 2, "steps": 10, "embedding_steps": 2, "scored_steps": 1, "size": 64}
WIDGETS = ("INT", "FLOAT", "STRING", "COMBO", "BOOLEAN")


@pytest.fixture
def name() -> str:
    """A session nobody else uses."""
    return f"w{uuid.uuid4().hex[:12]}"


def without(graph: dict, *nodes: str) -> dict:
    """The workflow as the browser sends it where these nodes are muted: they and their wires are gone."""
    kept = {key: copy.deepcopy(node) for key, node in graph.items() if key not in nodes}
    for node in kept.values():
        node["inputs"] = {k: v for k, v in node["inputs"].items() if not (isinstance(v, list) and v[0] in nodes)}
    return kept


def linked(server: Server, graph: dict) -> dict:
    """The workflow with every widget of our nodes over a link, from nodes called as in a subgraph."""
    graph = copy.deepcopy(graph)
    for entry in list(graph.values()):
        if not entry["class_type"].startswith("HERO_"):
            continue
        described = server.get(f"/object_info/{entry['class_type']}")[entry["class_type"]]["input"]
        for widget, (kind, *_) in {**described.get("required", {}), **described.get("optional", {})}.items():
            if widget in entry["inputs"] and (isinstance(kind, list) or kind in WIDGETS):
                source = f"12:0:{len(graph)}"
                value = json.dumps(entry["inputs"][widget])
                graph[source] = {"class_type": "Odd_Any", "inputs": {"json": value}}
                entry["inputs"][widget] = [source, 0]
    return graph


def refused(server: Server, graph: dict, node: str) -> str:
    with pytest.raises(Failed) as failed:
        server.run(graph)
    assert failed.value.node == graph[node]["class_type"], failed.value
    assert "HeroError" in failed.value.kind, failed.value
    return failed.value.message


def drawn(server: Server, name: str) -> list[str]:
    return [path.name for path in (server.base / "output/hero" / name).glob("rounds/*")]


def lora(server: Server, name: str, number: int) -> bytes:
    """The weights of a LoRA file, without its header, which names the session."""
    file = (server.base / f"models/loras/hero/{name}_r{number:04d}.safetensors").read_bytes()
    return file[8 + int.from_bytes(file[:8], "little") :]


# -- over a link ----------------------------------------------------------------------------------------------------


def test_a_session_name_over_a_link_learns_round_after_round(comfy: Server, name: str) -> None:
    graph = changed(loop(name, **SMALL), "session", name=["12:0:5", 0])
    graph["12:0:5"] = {"class_type": "PrimitiveString", "inputs": {"value": name}}
    for number in (1, 2):
        shown = comfy.run(graph)["outputs"]["grid"]["hero_round"]
        assert shown == [f"{name}.{number:04d}"]
        rate(comfy, shown[0])
        assert comfy.run(graph)["outputs"]["save"]["hero_saved"] == shown


EVERY_LOOP = [("loop", "wait"), ("loop", "resume"), ("forward", "wait"), ("critic", "wait"), ("any_latents", "wait")]


@pytest.mark.parametrize(("kind", "mode"), EVERY_LOOP)
def test_every_widget_may_come_over_a_link(comfy: Server, name: str, kind: str, mode: str) -> None:
    def graph(session: str) -> dict:
        if kind == "any_latents":
            return changed(any_latents(session, n=2), "grid", mode=mode, labels=ONE_GOOD)
        whole = loop(session, labels=ONE_GOOD, mode=mode, **SMALL)
        return {"loop": whole, "forward": forward(whole), "critic": critic(whole)}[kind]

    for number in (1, 2):
        for session, queued in ((name, graph(name)), (f"{name}L", linked(comfy, graph(f"{name}L")))):
            assert comfy.run(queued)["outputs"]["save"]["hero_saved"] == [f"{session}.{number:04d}"]
        assert lora(comfy, f"{name}L", number) == lora(comfy, name, number), number


def test_marks_over_a_link_that_are_none_get_a_sentence(comfy: Server, name: str) -> None:
    assert "labels is no JSON" in refused(comfy, linked(comfy, loop(name, labels="{", **SMALL)), "grid")


# -- what is wired counts, or is refused ----------------------------------------------------------------------------


def test_a_latent_with_a_picture_in_it_is_refused_before_anything_is_drawn(comfy: Server, name: str) -> None:
    graph = added(loop(name, **SMALL), "image", "EmptyImage", width=64, height=64, batch_size=2, color=0)
    graph = added(graph, "encode", "VAEEncode", pixels=["image", 0], vae=["tiny", 2])
    message = refused(comfy, changed(graph, "sampler", latent=["encode", 0]), "sampler")
    assert "(2 x 4 x 8 x 8) holds a picture" in message
    assert "Empty Latent Image" in message
    assert drawn(comfy, name) == []


def test_lists_are_refused_before_they_make_rounds_of_one_picture(comfy: Server, name: str) -> None:
    graph = added(loop(name, **SMALL), "list", "RebatchLatents", latents=["latent", 0], batch_size=1)
    assert "latent comes as a list of 2" in refused(comfy, changed(graph, "sampler", latent=["list", 0]), "sampler")
    assert drawn(comfy, name) == []
    finished = added(any_latents(name, n=2), "list", "RebatchLatents", latents=["sampler", 0], batch_size=1)
    assert "latent comes as a list of 2" in refused(comfy, changed(finished, "rated", latent=["list", 0]), "rated")
    assert drawn(comfy, name) == []
    images = added(loop(name, **SMALL), "list", "RebatchImages", images=["decode", 0], batch_size=1)
    assert "images comes as a list of 2" in refused(comfy, changed(images, "grid", images=["list", 0]), "grid")
    assert comfy.get(f"/hero/rounds/{name}.0001")["width"] is None, "no picture is shown"


# -- muted and bypassed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", ["sampler", "rated"])
def test_what_an_update_lacks_is_said_before_the_round_is_drawn(comfy: Server, name: str, begun: str) -> None:
    graph = loop(name, **SMALL) if begun == "sampler" else changed(any_latents(name, n=2), "update", source="both")
    muted = without(graph, "embedding", "mixture") if begun == "sampler" else without(graph, "tiny2")
    message = refused(comfy, muted, begun)
    expected = "DDPO LoRA Update (node update) cannot run: nothing comes into its reward"
    assert (expected if begun == "sampler" else "takes a reward: wire Embedding Trainer") in message
    assert drawn(comfy, name) == []


def test_an_update_muted_after_drawing_stops_at_the_grid_and_loses_no_mark(comfy: Server, name: str) -> None:
    graph = loop(name, **SMALL)
    comfy.run(graph)
    rated = rate(comfy, f"{name}.0001")
    assert "cannot run: nothing comes into its reward" in refused(comfy, without(graph, "embedding"), "grid")
    assert comfy.get(f"/hero/rounds/{name}.0001") == rated
    assert comfy.run(graph)["outputs"]["save"]["hero_saved"] == [f"{name}.0001"], "put back, it goes on"


def test_what_a_round_will_not_teach_is_said_before_the_marks_and_when_it_is_saved(comfy: Server, name: str) -> None:
    graph = without(loop(name, **SMALL), "update")
    shown = comfy.run(graph)["outputs"]["grid"]
    assert shown["hero_note"] == [
        "No LoRA update is wired into Save Round: the checkpoint learns nothing from these marks."
    ]
    rate(comfy, f"{name}.0001")
    saved = comfy.run(graph)["outputs"]["save"]
    assert saved["hero_note"] == ["Round 1 is saved. No LoRA update was wired in: the checkpoint's LoRA is as it was."]

    fresh = without(loop(name, labels=ONE_GOOD, **SMALL), "mixture")
    outputs = comfy.run(fresh)["outputs"]
    assert "hero_note" not in outputs["grid"]
    assert outputs["save"]["hero_note"] == [
        "Round 2 is saved. There is no mixture: the next round starts from fresh noise."
    ]
    unsaved = comfy.run(without(loop(name, **SMALL), "save"))["outputs"]["grid"]
    assert unsaved["hero_note"][0].startswith("No Save Round follows in this workflow")
    whole = comfy.run(loop(name, labels=ONE_GOOD, **SMALL))["outputs"]
    assert not {"hero_note"} & {key for outputs in whole.values() for key in outputs}


def test_a_save_round_with_nothing_to_save_is_said_before_the_round_is_drawn(comfy: Server, name: str) -> None:
    empty = without(loop(name, **SMALL), "embedding", "update", "mixture")
    with pytest.raises(Failed, match="nothing to save"):
        comfy.run(empty)
    assert drawn(comfy, name) == []


def test_a_node_that_the_host_refuses_is_said_on_the_grid(comfy: Server, name: str) -> None:
    graph = changed(loop(name, **SMALL), "update", lr=-1.0)
    shown = comfy.run(graph)["outputs"]["grid"]
    assert shown["hero_note"][0].startswith("Save Round (node save) does not run this time")


def test_why_a_round_taught_nothing_stands_on_the_nodes(comfy: Server, name: str) -> None:
    none_good = json.dumps({"labels": {"0": "bad", "1": "bad"}})
    outputs = comfy.run(loop(name, labels=none_good, **SMALL))["outputs"]
    for node in ("update", "save"):
        assert "No picture of this round is good" in outputs[node]["hero_note"][0], node


def test_a_marked_round_that_is_kept_says_so_on_the_sampler(comfy: Server, name: str) -> None:
    comfy.run(loop(name, **SMALL))
    marks = {"rev": 0, "labels": {"0": "good"}, "best": None}
    assert comfy.request("PUT", f"/hero/rounds/{name}.0001/labels", marks)[0] == 200
    outputs = comfy.run(loop(name, **SMALL, eta=0.5))["outputs"]
    assert outputs["sampler"]["hero_note"][0].startswith("Round 1 is kept as it was drawn (eta 1, not 0.5)")


# -- what was rated comes out ---------------------------------------------------------------------------------------


def files_of(server: Server, name: str, *numbers: int) -> np.ndarray:
    folder = server.base / "output/hero" / name / "rounds/0001/pictures"
    return np.stack([np.asarray(Image.open(folder / f"{number:04d}.png").convert("RGB")) for number in numbers])


def test_best_and_goods_are_the_pictures_that_were_rated(comfy: Server, name: str) -> None:
    graph = added(loop(name, **SMALL), "again", "KSampler", model=["sampler", 2], positive=["positive", 0],
                  negative=["negative", 0], latent_image=["sampler", 0], seed=1, steps=4, cfg=5.0,
                  sampler_name="euler", scheduler="normal", denoise=0.8)  # fmt: skip
    graph = changed(graph, "decode", samples=["again", 0])
    graph = added(graph, "goods", "PreviewImage", images=["grid", 1])
    graph = added(graph, "best", "PreviewImage", images=["grid", 2])
    comfy.run(graph)
    marks = {"rev": 0, "labels": {"0": "good", "1": "good"}, "best": 1}
    rev = comfy.request("PUT", f"/hero/rounds/{name}.0001/labels", marks)[1]["rev"]
    comfy.post(f"/hero/rounds/{name}.0001/submit", {"rev": rev})
    entry = comfy.run(changed(graph, "again", seed=2))
    np.testing.assert_array_equal(comfy.pictures(entry, "goods"), files_of(comfy, name, 0, 1))
    np.testing.assert_array_equal(comfy.pictures(entry, "best"), files_of(comfy, name, 1))


# -- words ----------------------------------------------------------------------------------------------------------


def description(server: Server, name: str) -> dict[str, str]:
    return json.loads((Path(server.base) / "output/hero" / name / "session.json").read_text())["description"]


def test_words_are_taken_by_sockets_and_left_out_where_they_cannot_be_known(comfy: Server, name: str) -> None:
    comfy.run(loop(f"{name}_first", labels=ONE_GOOD, **SMALL))
    file = f"hero/{name}_first_r0001.safetensors"
    graph = added(loop(name, **SMALL), "lora", "LoraLoader", model=["tiny", 0], clip=["tiny", 1], lora_name=file,
                  strength_model=0.5, strength_clip=1.0)  # fmt: skip
    graph = changed(graph, "sampler", model=["lora", 0], negative=["zero", 0])
    graph = added(graph, "zero", "ConditioningZeroOut", conditioning=["positive", 0])
    graph = added(graph, "text", "PrimitiveString", value="a blue rose")
    comfy.run(changed(graph, "positive", text=["text", 0]))
    assert description(comfy, name) == {
        "checkpoint": "HERO tiny model", "loras": f"{file} (0.5)", "prompt": "a blue rose", "size": "64 x 64",
    }  # fmt: skip


# -- where the LoRA goes --------------------------------------------------------------------------------------------


def test_a_lora_folder_that_cannot_be_written_is_said_before_the_round_is_drawn(comfy: Server, name: str) -> None:
    folder = comfy.base / "models/loras/hero"
    folder.mkdir(exist_ok=True)
    folder.rename(folder.with_name("aside"))
    try:
        folder.write_text("a file where the folder should be")
        message = refused(comfy, loop(name, **SMALL), "sampler")
        unlearned = comfy.run(without(loop(name, **SMALL), "update"))["outputs"]
    finally:
        folder.unlink(missing_ok=True)
        folder.with_name("aside").rename(folder)
    assert str(folder) in message
    assert "nothing can be written there" in message
    assert unlearned["grid"]["hero_round"] == [f"{name}.0001"], "without an update there is nothing to write"


# -- models that do not repeat themselves -----------------------------------------------------------------------------

UNREPEATABLE = {
    "LazyCache": {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False},
    "VideoLinearCFGGuidance": {"min_cfg": 1.0},
}


@pytest.mark.parametrize("kind", UNREPEATABLE)
def test_a_model_that_does_not_repeat_itself_is_refused_before_the_round_is_drawn(
    comfy: Server, name: str, kind: str
) -> None:
    if comfy.request("GET", f"/object_info/{kind}")[1] == {}:
        pytest.skip(f"this ComfyUI has no {kind}")
    graph = added(loop(name, **SMALL), "odd", kind, model=["tiny", 0], **UNREPEATABLE[kind])
    message = refused(comfy, changed(graph, "sampler", model=["odd", 0]), "sampler")
    assert "does not repeat itself" in message
    assert "(node odd)" in message
    assert drawn(comfy, name) == []
    if kind == "LazyCache":
        rated = added(any_latents(name, n=2), "odd", kind, model=["tiny", 0], **UNREPEATABLE[kind])
        assert "does not repeat itself" in refused(comfy, changed(rated, "rated", model=["odd", 0]), "rated")


def test_a_model_with_something_hung_in_that_repeats_itself_is_learned_from(comfy: Server, name: str) -> None:
    graph = added(loop(name, labels=ONE_GOOD, **SMALL), "free", "FreeU_V2", model=["tiny", 0],
                  b1=1.3, b2=1.4, s1=0.9, s2=0.2)  # fmt: skip
    saved = comfy.run(changed(graph, "sampler", model=["free", 0]))["outputs"]["save"]["hero_saved"]
    assert saved == [f"{name}.0001"]


# -- Run (Instant) ----------------------------------------------------------------------------------------------------


def test_a_workflow_that_is_queued_again_and_again_is_slowed_and_told_so(comfy: Server, name: str) -> None:
    graph, tab = loop(name, **SMALL), uuid.uuid4().hex
    with Listener(comfy, tab) as listener:
        for _ in range(5):
            comfy.wait(comfy.queue(graph, tab))
        began = time.monotonic()
        comfy.wait(comfy.queue(graph, tab))
        assert time.monotonic() - began > 1.5
        told = [data for data in listener.of("preview") if b"Run (Instant) queues the workflow again" in data]
    rate(comfy, f"{name}.0001")
    assert comfy.run(graph)["outputs"]["save"]["hero_saved"] == [f"{name}.0001"]
    assert told[0][4:16] == (4).to_bytes(4, "big") + b"gridThe "
