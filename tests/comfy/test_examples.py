# SPDX-License-Identifier: Apache-2.0
"""The template workflows: listed by ComfyUI, whole, and running."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.comfy.graphs import changed
from tests.comfy.host import PACK, ROOT, Server

EXAMPLES = sorted((ROOT / "examples").glob("*.json"))
NOTES = {"MarkdownNote", "Note"}


def to_api(workflow: dict, nodes: dict[str, Any]) -> dict[str, Any]:
    """A UI-format workflow as the browser would queue it."""
    links = {link[0]: (str(link[1]), link[2]) for link in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        inputs = _widgets(node, nodes[node["type"]])
        inputs |= {i["name"]: list(links[i["link"]]) for i in node["inputs"] if i["link"] is not None}
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def _widgets(node: dict, info: dict) -> dict[str, Any]:
    values, found = iter(node["widgets_values"]), {}
    for group in ("required", "optional"):
        for name in info["input_order"].get(group, []):
            kind, *more = info["input"][group][name]
            if isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"):
                found[name] = next(values)
                if more and more[0].get("control_after_generate"):
                    next(values)
    assert not list(values), f"{node['type']} has more widget values than widgets"
    return found


def by_type(graph: dict, kind: str) -> str:
    return next(key for key, node in graph.items() if node["class_type"] == kind)


def marked(stem: str, session: str, n: int, nodes: dict[str, Any]) -> dict[str, Any]:
    """A template with ``n`` pictures a round and the marks already in its grid."""
    graph = to_api(json.loads((ROOT / f"examples/{stem}.json").read_text()), nodes)
    graph = changed(graph, by_type(graph, "EmptyLatentImage"), batch_size=n)
    graph = changed(graph, by_type(graph, "HERO_Session"), name=session)
    labels = json.dumps({"labels": {"0": "bad", "1": "good"}, "best": 1})
    return changed(graph, by_type(graph, "HERO_FeedbackGrid"), labels=labels)


@pytest.fixture
def nodes(comfy: Server) -> dict[str, Any]:
    return comfy.get("/object_info")


def test_comfyui_lists_them_as_templates_and_serves_them(comfy: Server) -> None:
    listed = next(names for folder, names in comfy.get("/workflow_templates").items() if folder == PACK)
    assert sorted(path.stem for path in EXAMPLES) == [
        "hero_sd15", "hero_tiny", "nft_tiny", "rate_any_workflow", "score_action_tiny", "use_the_lora"
    ]  # fmt: skip
    assert {path.stem for path in EXAMPLES} <= set(listed)
    served = comfy.get(f"/api/workflow_templates/{PACK}/hero_tiny.json")
    assert served["nodes"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_no_node_is_missing_and_every_link_joins_two_sockets_of_one_type(path: Path, nodes: dict[str, Any]) -> None:
    workflow = json.loads(path.read_text())
    at = {node["id"]: node for node in workflow["nodes"]}
    assert {node["type"] for node in workflow["nodes"]} - NOTES <= nodes.keys()
    for number, source, output, target, socket, kind in workflow["links"]:
        assert number in at[source]["outputs"][output]["links"]
        assert at[target]["inputs"][socket]["link"] == number
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
    assert graph[sampler["positive"][0]]["inputs"]["text"] == "photo of one blue rose in a vase"
    update = graph[by_type(graph, "HERO_DDPOUpdate")]["inputs"]
    assert (update["lr"], update["scored_steps"], update["batch"], update["clip"]) == (3e-4, 5, 8, 1e-4)
    mixture = graph[by_type(graph, "HERO_LatentMixture")]["inputs"]
    assert (mixture["beta"], mixture["eps0"]) == (0.5, 0.1)


def test_the_tiny_workflow_and_then_the_lora_workflow_run(comfy: Server, nodes: dict[str, Any]) -> None:
    name = f"e{uuid.uuid4().hex[:8]}"
    graph = marked("hero_tiny", name, 8, nodes)
    graph = changed(graph, by_type(graph, "HERO_EmbeddingTrainer"), steps=10)
    entry = comfy.run(graph)
    assert entry["outputs"][by_type(graph, "HERO_SaveRound")]["hero_saved"] == [f"{name}.0001"]
    assert [f"{name}_r0001" in str(output) for output in entry["outputs"].values()].count(True) == 1, "the LoRA's name"

    use = to_api(json.loads((ROOT / "examples/use_the_lora.json").read_text()), nodes)
    loader = by_type(use, "CheckpointLoaderSimple")
    use[loader] = {"class_type": "HERO_TinyModel", "inputs": {}}
    use = changed(use, by_type(use, "LoraLoader"), lora_name=f"hero/{name}_r0001.safetensors")
    use = changed(use, by_type(use, "EmptyLatentImage"), width=128, height=128, batch_size=2)
    use = changed(use, by_type(use, "KSampler"), steps=8)
    assert comfy.pictures(comfy.run(use), by_type(use, "SaveImage")).shape == (2, 128, 128, 3)


@pytest.mark.usefixtures("newest")
def test_the_workflow_with_a_critic_runs_two_rounds(comfy: Server, nodes: dict[str, Any]) -> None:
    name = f"e{uuid.uuid4().hex[:8]}"
    graph = marked("score_action_tiny", name, 8, nodes)
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


@pytest.mark.parametrize("stem", ["nft_tiny", "rate_any_workflow"])
def test_the_forward_workflows_run(stem: str, comfy: Server, nodes: dict[str, Any]) -> None:
    name = f"e{uuid.uuid4().hex[:8]}"
    graph = marked(stem, name, 4, nodes)
    graph = changed(graph, by_type(graph, "HERO_NFTUpdate"), steps=2)
    entry = comfy.run(graph)
    assert entry["outputs"][by_type(graph, "HERO_SaveRound")]["hero_saved"] == [f"{name}.0001"]


def test_the_lora_workflow_uses_stock_nodes_only(nodes: dict[str, Any]) -> None:
    workflow = json.loads((ROOT / "examples/use_the_lora.json").read_text())
    modules = {nodes[n["type"]]["python_module"] for n in workflow["nodes"] if n["type"] not in NOTES}
    assert all(module.startswith(("nodes", "comfy_extras")) for module in modules), modules
