# SPDX-License-Identifier: Apache-2.0
"""The template workflows: listed by ComfyUI, whole, and running."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.comfy.examples import NOTES, by_type, latent_of, marked, to_api
from tests.comfy.graphs import changed
from tests.comfy.host import PACK, ROOT, Checkout, Server

EXAMPLES = sorted((ROOT / "examples").glob("*.json"))

both = pytest.mark.parametrize("model", ["unet", "flow"])


@pytest.fixture
def nodes(comfy: Server) -> dict[str, Any]:
    return comfy.get("/object_info")


def test_comfyui_lists_them_as_templates_and_serves_them(comfy: Server) -> None:
    listed = next(names for folder, names in comfy.get("/workflow_templates").items() if folder == PACK)
    assert sorted(path.stem for path in EXAMPLES) == [
        "hero_flux", "hero_qwen_image", "hero_sd15", "hero_sdxl", "hero_tiny", "hero_z_image_turbo", "nft_tiny",
        "rate_any_workflow", "score_action_tiny", "use_the_lora",
    ]  # fmt: skip
    assert {path.stem for path in EXAMPLES} <= set(listed)
    served = comfy.get(f"/api/workflow_templates/{PACK}/hero_tiny.json")
    assert served["nodes"]


NEWER = {"CustomCombo"}
"""What the oldest supported ComfyUI lacks; a note in the workflow says what to do without it."""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_no_node_is_missing_and_every_link_joins_two_sockets_of_one_type(
    path: Path, nodes: dict[str, Any], checkout: Checkout
) -> None:
    workflow = json.loads(path.read_text())
    at = {node["id"]: node for node in workflow["nodes"]}
    missing = {node["type"] for node in workflow["nodes"]} - NOTES - nodes.keys()
    assert missing <= (NEWER if checkout.oldest else set())
    for number, source, output, target, socket, kind in workflow["links"]:
        assert number in at[source]["outputs"][output]["links"]
        assert at[target]["inputs"][socket]["link"] == number
        if at[source]["type"] in missing:
            continue
        assert nodes[at[source]["type"]]["output"][output] == kind
        spec = nodes[at[target]["type"]]["input"]
        name = at[target]["inputs"][socket]["name"]
        assert {**spec.get("required", {}), **spec.get("optional", {})}[name][0] in (kind, "*")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_no_two_nodes_overlap(path: Path) -> None:
    nodes = [(*node["pos"], *node["size"]) for node in json.loads(path.read_text())["nodes"]]
    boxes = [(x, y, x + width, y + height) for x, y, width, height in nodes]
    for number, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[number + 1 :]:
            apart = right <= other[0] or other[2] <= left or bottom <= other[1] - 30 or other[3] <= top - 30
            assert apart, (number, other)


def test_the_sd15_workflow_has_the_papers_settings(nodes: dict[str, Any]) -> None:
    graph = to_api(json.loads((ROOT / "examples/hero_sd15.json").read_text()), nodes)
    sampler = graph[by_type(graph, "HERO_Sampler")]["inputs"]
    assert (sampler["steps"], sampler["cfg"], sampler["eta"], sampler["scored_steps"]) == (50, 5.0, 1.0, 5)
    assert graph[by_type(graph, "EmptyLatentImage")]["inputs"] == {"width": 512, "height": 512, "batch_size": 64}
    update = graph[by_type(graph, "HERO_DDPOUpdate")]["inputs"]
    assert (update["lr"], update["scored_steps"], update["batch"], update["clip"]) == (3e-4, 5, 8, 1e-4)
    mixture = graph[by_type(graph, "HERO_LatentMixture")]["inputs"]
    assert (mixture["beta"], mixture["eps0"]) == (0.5, 0.1)


TASKS = (
    "photo of one blue rose in a vase", "a black cat sitting inside a cardboard box",
    "narcissus by a quiet spring and its reflection in the water", "beautiful mountains viewed from a train window",
    "1 hand", "sexy",
)  # fmt: skip


def test_the_sd15_workflow_has_the_six_tasks_in_a_menu_and_their_settings_in_a_note(
    nodes: dict[str, Any], checkout: Checkout
) -> None:
    workflow = json.loads((ROOT / "examples/hero_sd15.json").read_text())
    menu = next(node for node in workflow["nodes"] if node["type"] == "CustomCombo")
    assert menu["widgets_values"] == [TASKS[0], 0, *TASKS, ""]
    notes = " ".join(node["widgets_values"][0] for node in workflow["nodes"] if node["type"] in NOTES)
    assert [task for task in TASKS if f"| {task} |" not in notes] == []
    assert "Custom Combo" in notes, "what to do where there is none"
    graph = to_api(workflow, nodes)
    prompt = graph[graph[by_type(graph, "HERO_Sampler")]["inputs"]["positive"][0]]["inputs"]["text"]
    assert prompt == (TASKS[0] if checkout.oldest else [str(menu["id"]), 0])


FOR_FILES = ("hero_flux", "hero_qwen_image", "hero_sd15", "hero_sdxl", "hero_z_image_turbo")


@pytest.mark.parametrize("stem", FOR_FILES)
def test_every_file_of_a_workflow_comes_with_its_address_and_its_folder(stem: str, comfy: Server) -> None:
    """From these ComfyUI offers to fetch a file that is missing."""
    folders = comfy.get("/models")
    files, told = [], []
    for node in json.loads((ROOT / f"examples/{stem}.json").read_text())["nodes"]:
        files += [str(value) for value in node["widgets_values"] if str(value).endswith(".safetensors")]
        told += node["properties"].get("models", [])
    assert files
    assert [one["name"] for one in told] == files
    for one in told:
        assert one["url"].startswith("https://huggingface.co/")
        assert one["url"].endswith(f"/{one['name']}")
        assert one["directory"] in folders


@pytest.mark.parametrize("stem", ["hero_flux", "hero_qwen_image", "hero_sdxl", "hero_z_image_turbo"])
def test_the_workflows_of_large_models_draw_sixteen_pictures_and_learn_them_one_by_one(
    stem: str, nodes: dict[str, Any]
) -> None:
    graph = to_api(json.loads((ROOT / f"examples/{stem}.json").read_text()), nodes)
    size = graph[latent_of(graph)]["inputs"]
    assert (size["width"], size["height"], size["batch_size"]) == (1024, 1024, 16)
    assert graph[by_type(graph, "HERO_NFTUpdate")]["inputs"]["micro_batch"] == 1
    assert graph[by_type(graph, "HERO_FeedbackGrid")]["inputs"]["mode"] == "resume", "the GPU is free while one marks"
    if stem == "hero_z_image_turbo":
        sampler = graph[by_type(graph, "KSampler")]["inputs"]
        assert (sampler["steps"], sampler["cfg"]) == (8, 1.0)


@both
def test_the_tiny_workflow_and_then_the_lora_workflow_run(comfy: Server, nodes: dict[str, Any], model: str) -> None:
    name = f"e{uuid.uuid4().hex[:8]}"
    graph = marked("hero_tiny", name, 8, nodes, model)
    graph = changed(graph, by_type(graph, "HERO_EmbeddingTrainer"), steps=10)
    entry = comfy.run(graph)
    assert entry["outputs"][by_type(graph, "HERO_SaveRound")]["hero_saved"] == [f"{name}.0001"]
    assert [f"{name}_r0001" in str(output) for output in entry["outputs"].values()].count(True) == 1, "the LoRA's name"

    use = to_api(json.loads((ROOT / "examples/use_the_lora.json").read_text()), nodes)
    loader = by_type(use, "CheckpointLoaderSimple")
    use[loader] = {"class_type": "HERO_TinyModel", "inputs": {"kind": model} if model == "flow" else {}}
    use = changed(use, by_type(use, "LoraLoader"), lora_name=f"hero/{name}_r0001.safetensors")
    use = changed(use, by_type(use, "EmptyLatentImage"), width=128, height=128, batch_size=2)
    use = changed(use, by_type(use, "KSampler"), steps=8)
    assert comfy.pictures(comfy.run(use), by_type(use, "SaveImage")).shape == (2, 128, 128, 3)


@both
@pytest.mark.usefixtures("newest")
def test_the_workflow_with_a_critic_runs_two_rounds(comfy: Server, nodes: dict[str, Any], model: str) -> None:
    name = f"e{uuid.uuid4().hex[:8]}"
    graph = marked("score_action_tiny", name, 8, nodes, model)
    graph = changed(graph, by_type(graph, "HERO_EmbeddingTrainer"), steps=10)
    for number in (1, 2):
        graph = changed(graph, by_type(graph, "HERO_ScoreActionUpdate"), min_r2=-10.0)
        entry = comfy.run(graph)
        assert entry["outputs"][by_type(graph, "HERO_SaveRound")]["hero_saved"] == [f"{name}.{number:04d}"]
    saved = json.loads((comfy.base / f"output/hero/{name}/session.json").read_text())["history"][-1]
    assert saved["ratio_error"] < 1e-6
    assert saved["critic_r2"] <= 1
    assert saved["advantage"] == "gradient"
    assert len(saved["values"]["good"]["values"]) == 11, "ten recorded steps, and the reward"


@both
@pytest.mark.parametrize("stem", ["nft_tiny", "rate_any_workflow"])
def test_the_forward_workflows_run(stem: str, comfy: Server, nodes: dict[str, Any], model: str) -> None:
    name = f"e{uuid.uuid4().hex[:8]}"
    graph = marked(stem, name, 4, nodes, model)
    graph = changed(graph, by_type(graph, "HERO_NFTUpdate"), steps=2)
    entry = comfy.run(graph)
    assert entry["outputs"][by_type(graph, "HERO_SaveRound")]["hero_saved"] == [f"{name}.0001"]


def test_the_lora_workflow_uses_stock_nodes_only(nodes: dict[str, Any]) -> None:
    workflow = json.loads((ROOT / "examples/use_the_lora.json").read_text())
    modules = {nodes[n["type"]]["python_module"] for n in workflow["nodes"] if n["type"] not in NOTES}
    assert all(module.startswith(("nodes", "comfy_extras")) for module in modules), modules
