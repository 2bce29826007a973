# SPDX-License-Identifier: Apache-2.0
"""Whole rounds in a real ComfyUI, rated over HTTP."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from tests.comfy.graphs import PROMPT, added, changed, history, look, loop, marks_of, rate, stock
from tests.comfy.host import Failed, Interrupted, Listener, Server

N = 8
ONE_GOOD = json.dumps({"labels": {"0": "bad", "1": "good"}, "best": 1})


@pytest.fixture
def name() -> str:
    """A session nobody else uses."""
    return f"t{uuid.uuid4().hex[:12]}"


def cached(entry: dict) -> set[str]:
    return {node for kind, data in entry["status"]["messages"] if kind == "execution_cached" for node in data["nodes"]}


def session_of(server: Server, name: str) -> dict[str, Any]:
    return next(s for s in server.get("/hero/sessions")["sessions"] if s["name"] == name)


def test_resume_stops_at_the_grid_and_goes_on_from_there(comfy: Server, name: str) -> None:
    first = comfy.run(loop(name))
    assert first["outputs"]["grid"]["hero_round"] == [f"{name}.0001"]
    assert "save" not in first["outputs"]
    assert f"{name}.0001" in [r["id"] for r in comfy.get("/hero/rounds?status=pending")["rounds"]]

    again = comfy.run(loop(name))
    assert again["outputs"].get("grid", first["outputs"]["grid"])["hero_round"] == [f"{name}.0001"]
    assert session_of(comfy, name)["saved_round"] == 0, "without marks nothing goes on"

    rated = rate(comfy, f"{name}.0001")
    assert (rated["submitted"], rated["status"]) == (True, "rated")
    second = comfy.run(loop(name))
    assert second["outputs"]["save"]["hero_saved"] == [f"{name}.0001"]
    assert {"sampler", "decode"} <= cached(second), "what came before the grid is not computed again"
    assert session_of(comfy, name)["saved_round"] == 1

    entry = history(comfy, name)[0]
    assert entry["marks"] == N
    assert entry["ratio_error"] < 1e-6
    assert entry["optimizer_steps"] > 0
    assert "max|ratio-1| before the first step" in comfy.log.read_text(), "every update prints it"

    third = comfy.run(loop(name))
    assert third["outputs"]["grid"]["hero_round"] == [f"{name}.0002"], "a saved round makes room for the next"


def test_the_lora_file_is_listed_by_the_stock_loader_and_equals_the_model_output(comfy: Server, name: str) -> None:
    graph = changed(loop(name), "update", lr=0.02)
    comfy.run(graph)
    rate(comfy, f"{name}.0001")
    comfy.run(graph)
    file = f"hero/{name}_r0001.safetensors"
    choices = comfy.get("/object_info/LoraLoader")["LoraLoader"]["input"]["required"]["lora_name"]
    assert file in json.dumps(choices).replace("\\\\", "/")

    base, by_file = (comfy.pictures(comfy.run(stock(n=3, steps=6, lora=lora)), "preview") for lora in (None, file))
    assert (by_file != base).mean() > 0.05, "the LoRA changes pictures"
    half = comfy.pictures(comfy.run(stock(n=3, steps=6, lora=file, strength=0.0)), "preview")
    assert np.array_equal(half, base)

    through_session = changed(stock(n=3, steps=6), "sampler", model=["hero", 2])
    round_two = loop(name, save=False)
    through_session["hero"] = changed(round_two, "sampler", latent=["many", 0])["sampler"]
    through_session["many"], through_session["session"] = round_two["latent"], round_two["session"]
    assert np.array_equal(comfy.pictures(comfy.run(through_session), "preview"), by_file)


def test_wait_holds_the_queue_until_submit_and_announces_itself(comfy: Server, name: str) -> None:
    client = uuid.uuid4().hex
    with Listener(comfy, client) as tab, Listener(comfy, uuid.uuid4().hex) as other_tab:
        prompt = comfy.queue(loop(name, mode="wait"), client)
        told = tab.until("hero.round", id=f"{name}.0001")[0]
        assert (told["mode"], told["n"], told["status"]) == ("wait", N, "sampled")
        assert other_tab.until("hero.round", id=f"{name}.0001")
        time.sleep(0.5)
        assert comfy.running() == 1
        rate(comfy, f"{name}.0001")
        entry = comfy.wait(prompt)
        assert tab.until("hero.round", id=f"{name}.0001", status="saved")
    assert entry["outputs"]["save"]["hero_saved"] == [f"{name}.0001"]


def test_long_work_shows_progress_and_sampling_shows_previews(comfy: Server, name: str) -> None:
    client = uuid.uuid4().hex
    with Listener(comfy, client) as tab:
        comfy.wait(comfy.queue(loop(name), client))
        assert len(tab.of("preview")) >= 5
        rate(comfy, f"{name}.0001")
        comfy.wait(comfy.queue(loop(name), client))
        tab.until("execution_success", count=2)
        for node in ("sampler", "embedding", "update"):
            told = [message for message in tab.of("progress") if message["node"] == node]
            assert told, node
            assert told[-1]["value"] == told[-1]["max"], node


def test_a_script_may_hand_its_marks_to_the_node(comfy: Server, name: str) -> None:
    labels = json.dumps({"labels": {"0": "good", "1": "bad", "2": "good", "3": "bad"}, "best": 2})
    graph = added(loop(name, mode="wait", labels=labels), "goods", "PreviewImage", images=["grid", 1])
    graph = added(graph, "best", "PreviewImage", images=["grid", 2])
    entry = comfy.run(graph)
    assert entry["outputs"]["save"]["hero_saved"] == [f"{name}.0001"]
    shown, goods = look(comfy, f"{name}.0001"), comfy.pictures(entry, "goods")
    assert np.abs(goods.astype(int) - shown[[0, 2]]).max() <= 1
    assert np.abs(comfy.pictures(entry, "best").astype(int) - shown[[2]]).max() <= 1


def test_keep_hands_on_the_old_best(comfy: Server, name: str) -> None:
    comfy.run(loop(name, labels=ONE_GOOD))
    old_best = look(comfy, f"{name}.0001")[[1]]
    keep = json.dumps({"labels": {"0": "bad", "3": "good"}, "best": "keep"})
    entry = comfy.run(added(loop(name, labels=keep), "best", "PreviewImage", images=["grid", 2]))
    assert np.array_equal(comfy.pictures(entry, "best"), old_best)
    assert history(comfy, name)[1]["best"] == {"round": 1, "picture": 1}


def test_a_round_without_a_good_picture_teaches_nothing_and_says_so(comfy: Server, name: str) -> None:
    labels = json.dumps({"labels": {str(i): "bad" for i in range(N)}, "best": None})
    graph = added(loop(name, labels=labels), "goods", "PreviewImage", images=["grid", 1])
    entry = comfy.run(graph)
    assert "goods" not in entry["outputs"], "nothing runs where there is no good picture"
    assert "No picture" in history(comfy, name)[0]["skip"]
    assert session_of(comfy, name)["saved_round"] == 1
    assert comfy.run(loop(name))["outputs"]["grid"]["hero_round"] == [f"{name}.0002"]


@pytest.mark.parametrize("left_out", [("lora",), ("mixture",), ("reward", "lora")])
def test_a_node_left_out_is_an_ablation(comfy: Server, name: str, left_out: tuple[str, ...]) -> None:
    graph = loop(name, labels=ONE_GOOD)
    for socket in left_out:
        del graph["save"]["inputs"][socket]
    entry = comfy.run(graph)
    assert entry["outputs"]["save"]["hero_saved"] == [f"{name}.0001"]
    assert (history(comfy, name)[0]["lora"] is None) == ("lora" in left_out)
    file = comfy.base / "models/loras/hero" / f"{name}_r0001.safetensors"
    assert file.exists() == ("lora" not in left_out)


def test_save_round_with_nothing_wired_says_what_to_wire(comfy: Server, name: str) -> None:
    graph = loop(name)
    graph["save"]["inputs"] = {"session": ["session", 0]}
    with pytest.raises(Failed, match="wire a reward, a lora or a mixture"):
        comfy.run(graph)


def test_the_noise_output_works_in_a_stock_custom_sampler(comfy: Server, name: str) -> None:
    graph = loop(name, labels=ONE_GOOD, save=False)
    graph["mixture"]["inputs"] |= {"beta": 1.0, "eps0": 0.0}
    for node, kind, inputs in (
        ("guider", "CFGGuider", {
            "model": ["tiny", 0], "positive": ["positive", 0], "negative": ["negative", 0], "cfg": 5.0,
        }),
        ("euler", "KSamplerSelect", {"sampler_name": "euler"}),
        ("sigmas", "BasicScheduler", {"model": ["tiny", 0], "scheduler": "normal", "steps": 6, "denoise": 1.0}),
        ("two", "EmptyLatentImage", {"width": 128, "height": 128, "batch_size": 2}),
        ("custom", "SamplerCustomAdvanced", {
            "noise": ["mixture", 1], "guider": ["guider", 0], "sampler": ["euler", 0], "sigmas": ["sigmas", 0],
            "latent_image": ["two", 0],
        }),
        ("decoded", "VAEDecode", {"samples": ["custom", 0], "vae": ["tiny", 2]}),
        ("seen", "PreviewImage", {"images": ["decoded", 0]}),
    ):  # fmt: skip
        graph = added(graph, node, kind, **inputs)
    pictures = comfy.pictures(comfy.run(graph), "seen")
    assert np.array_equal(pictures[0], pictures[1]), "beta 1 and eps0 0 repeat the noise of the best"


def other_prompt(graph: dict) -> dict:
    return changed(graph, "positive", text="photo of one red rose in a vase")


def other_size(graph: dict) -> dict:
    return changed(graph, "latent", width=192)


def other_negative(graph: dict) -> dict:
    return changed(graph, "negative", text="red")


@pytest.mark.parametrize(
    ("change", "words"),
    [(other_prompt, "red rose"), (other_size, "192 x 128"), (other_negative, "negative was '' and is now 'red'")],
)
def test_another_prompt_or_size_in_a_session_gets_a_sentence_before_any_work(
    comfy: Server, name: str, change: Any, words: str
) -> None:
    comfy.run(loop(name))
    client = uuid.uuid4().hex
    with Listener(comfy, client) as tab:
        prompt = comfy.queue(change(loop(name)), client)
        tab.until("execution_error")
        assert tab.of("progress") == [], "no step was drawn"
    with pytest.raises(Failed, match="belongs to another set-up") as failed:
        comfy.wait(prompt)
    assert failed.value.node == "HERO_Sampler"
    assert words in failed.value.message
    assert "another name" in failed.value.message, "the remedy"
    rate(comfy, f"{name}.0001")
    assert comfy.run(loop(name))["outputs"]["save"]["hero_saved"] == [f"{name}.0001"], "put back, it goes on"


def test_another_checkpoint_in_a_session_gets_a_sentence(comfy: Server, name: str) -> None:
    comfy.run(changed(loop(name, labels=ONE_GOOD), "update", lr=0.02))
    comfy.run(loop(name))
    lora = f"hero/{name}_r0001.safetensors"
    graph = added(loop(name), "lora", "LoraLoaderModelOnly", model=["tiny", 0], lora_name=lora, strength_model=1.0)
    with pytest.raises(Failed, match="checkpoint") as failed:
        comfy.run(changed(graph, "sampler", model=["lora", 0]))
    assert failed.value.node == "HERO_Sampler"


def test_changed_session_settings_get_a_sentence(comfy: Server, name: str) -> None:
    comfy.run(loop(name))
    with pytest.raises(Failed, match="was begun with") as failed:
        comfy.run(changed(loop(name), "session", rank=8))
    assert failed.value.node == "HERO_Session"


CHOSEN = [({}, 40), ({"targets": "every linear layer"}, 63), ({"pattern": ".*to_q"}, 10)]


@pytest.mark.parametrize(("more", "layers"), CHOSEN)
def test_the_layers_that_learn_are_chosen_once_and_another_choice_gets_a_sentence(
    comfy: Server, name: str, more: dict[str, str], layers: int
) -> None:
    """A workflow that does not know the widgets, as those of before, learns on attention."""
    graph = loop(name, labels=ONE_GOOD)
    saved = comfy.run(changed(graph, "session", **more))["outputs"]["save"]
    assert saved["hero_saved"] == [f"{name}.0001"]
    file = comfy.base / f"models/loras/hero/{name}_r0001.safetensors"
    with safe_open(file, framework="pt") as opened:
        assert len(opened.keys()) == 3 * layers
        assert opened.metadata()["modelspec.architecture"] == "hero-tiny/lora"
    picture = comfy.base / f"output/hero/{name}/rounds/0001/pictures/0001.png"
    assert file.with_suffix(".preview.png").read_bytes() == picture.read_bytes()
    other = {"targets": "attention and feed-forward"}
    with pytest.raises(Failed, match="Set these back, or choose another session name") as failed:
        comfy.run(changed(graph, "session", **other))
    begun = more.get("pattern") or more.get("targets", "attention")
    assert f"targets {begun!r}; this asks for" in failed.value.message


def test_a_pattern_that_is_none_gets_a_sentence_before_anything_runs(comfy: Server, name: str) -> None:
    with pytest.raises(Failed, match="are no regular expression"):
        comfy.run(changed(loop(name), "session", pattern="("))


@pytest.mark.parametrize("bad", ["../x", "a b", "", "a" * 65, "ä"])
def test_a_bad_session_name_gets_a_sentence(comfy: Server, bad: str) -> None:
    with pytest.raises(Failed, match="no session name"):
        comfy.run(loop(bad))


# -- Cancel -----------------------------------------------------------------------------------------------------------


def cancel(server: Server, graph: dict, running: Callable[[Listener], Any]) -> list[dict]:
    """Queue and press Cancel once it is ``running``; what the tab was told of progress until the prompt was over."""
    client = uuid.uuid4().hex
    with Listener(server, client) as tab:
        prompt = server.queue(graph, client)
        running(tab)
        server.interrupt()
        with pytest.raises(Interrupted):
            server.wait(prompt)
        tab.until("execution_interrupted")
        return tab.of("progress")


def test_cancel_while_sampling(comfy: Server, name: str) -> None:
    told = cancel(comfy, loop(name, n=64, steps=50), lambda tab: tab.until("progress", node="sampler"))
    assert told[-1]["value"] < told[-1]["max"], "it ends in the middle"
    assert comfy.run(loop(name))["outputs"]["grid"]["hero_round"] == [f"{name}.0001"]


def test_cancel_while_waiting_keeps_the_marks(comfy: Server, name: str) -> None:
    def mark(tab: Listener) -> None:
        tab.until("hero.round", id=f"{name}.0001")
        rev = comfy.get(f"/hero/rounds/{name}.0001")["rev"]
        marks = {"rev": rev, "labels": {"1": "good", "2": "bad"}, "best": 1}
        assert comfy.request("PUT", f"/hero/rounds/{name}.0001/labels", marks)[0] == 200

    cancel(comfy, loop(name, mode="wait"), mark)
    kept = comfy.get(f"/hero/rounds/{name}.0001")
    assert (kept["labels"], kept["best"], kept["submitted"]) == ({"1": "good", "2": "bad"}, 1, False)
    comfy.post(f"/hero/rounds/{name}.0001/submit", {"rev": kept["rev"]})
    assert comfy.run(loop(name, mode="wait"))["outputs"]["save"]["hero_saved"] == [f"{name}.0001"]


@pytest.mark.parametrize(("node", "changes"), [("embedding", {"steps": 100000}), ("update", {"epochs": 100})])
def test_cancel_while_learning_loses_nothing(comfy: Server, name: str, node: str, changes: dict) -> None:
    comfy.run(loop(name))
    rate(comfy, f"{name}.0001")
    told = cancel(comfy, changed(loop(name), node, **changes), lambda tab: tab.until("progress", node=node))
    assert told[-1]["value"] < told[-1]["max"], "it ends in the middle"
    assert comfy.get(f"/hero/rounds/{name}.0001")["status"] == "rated"
    entry = comfy.run(loop(name))
    assert entry["outputs"]["save"]["hero_saved"] == [f"{name}.0001"]
    assert ("embedding" in cached(entry)) == (node == "update"), "what was done is not done again"


# -- Kill -------------------------------------------------------------------------------------------------------------


def lora_of(server: Server, name: str) -> dict:
    return load_file(server.base / "models/loras/hero" / f"{name}_r0001.safetensors")


@pytest.mark.usefixtures("newest")
def test_three_kills_in_one_round_lose_no_mark_and_change_no_bit(comfy: Server, own_server: Server, name: str) -> None:
    graph, client = loop(name), uuid.uuid4().hex
    comfy.run(graph)
    rate(comfy, f"{name}.0001")
    comfy.run(graph)
    expected = lora_of(comfy, name)

    server = own_server.start()
    server.run(graph)
    pictures = look(server, f"{name}.0001")
    server.kill()  # after sampling

    server.start()
    entry = server.run(graph)
    assert entry["outputs"]["grid"]["hero_round"] == [f"{name}.0001"]
    assert np.array_equal(look(server, f"{name}.0001"), pictures)
    marks = marks_of(pictures)
    half = {"rev": 0, "labels": dict(list(marks["labels"].items())[: N // 2]), "best": None}
    status, state = server.request("PUT", f"/hero/rounds/{name}.0001/labels", half)
    assert status == 200
    server.kill()  # after half of the marks

    server.start()
    kept = server.get(f"/hero/rounds/{name}.0001")
    assert (kept["labels"], kept["rev"]) == (half["labels"], state["rev"])
    rate(server, f"{name}.0001")
    with Listener(server, client) as tab:
        server.queue(changed(graph, "update", epochs=100), client)
        tab.until("progress", node="update")
        server.kill()  # in the update

    server.start()
    assert server.get(f"/hero/rounds/{name}.0001")["labels"] == marks["labels"]
    server.run(graph)
    found = lora_of(server, name)
    assert found.keys() == expected.keys()
    assert all(bool((found[key] == expected[key]).all()) for key in expected)
    assert history(server, name)[0]["marks"] == N

    server.stop()
    server.start()
    assert server.run(graph)["outputs"]["grid"]["hero_round"] == [f"{name}.0002"], "the next round after a restart"
    assert server.get(f"/hero/rounds/{name}.0002")["prompt"] == PROMPT
