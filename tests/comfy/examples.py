# SPDX-License-Identifier: Apache-2.0
"""The template workflows as the browser would queue them."""

from __future__ import annotations

import json
from typing import Any

from tests.comfy.graphs import changed
from tests.comfy.host import ROOT

NOTES = {"MarkdownNote", "Note"}


def to_api(workflow: dict, nodes: dict[str, Any]) -> dict[str, Any]:
    """A UI-format workflow as the browser would queue it, without the nodes that this ComfyUI does not know."""
    known = [node for node in workflow["nodes"] if node["type"] in nodes]
    there = {node["id"] for node in known}
    links = {link[0]: (str(link[1]), link[2]) for link in workflow["links"] if link[1] in there}
    graph = {}
    for node in known:
        if node["type"] in NOTES:
            continue
        inputs = _widgets(node, nodes[node["type"]])
        inputs |= {i["name"]: list(links[i["link"]]) for i in node["inputs"] if i["link"] in links}
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def _widgets(node: dict, info: dict) -> dict[str, Any]:
    if node["type"] == "CustomCombo":  # its options are widgets that the browser makes
        return dict(zip(("choice", "index"), node["widgets_values"], strict=False))
    values, found = iter(node["widgets_values"]), {}
    for group in ("required", "optional"):
        for name in info["input_order"].get(group, []):
            kind, *more = info["input"][group][name]
            if isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"):
                value = next(values, None)
                if value is None and group == "optional":
                    continue  # a widget that was not there when the workflow was saved
                found[name] = value
                if more and more[0].get("control_after_generate"):
                    next(values)
    assert not list(values), f"{node['type']} has more widget values than widgets"
    return found


def by_type(graph: dict, kind: str) -> str:
    return next(key for key, node in graph.items() if node["class_type"] == kind)


def latent_of(graph: dict) -> str:
    """The node that gives a round its size and number of pictures."""
    return next(key for key, node in graph.items() if node["class_type"].startswith("Empty"))


def marked(stem: str, session: str, n: int, nodes: dict[str, Any], model: str = "unet") -> dict[str, Any]:
    """A template with ``n`` pictures a round, the marks already in its grid, and a kind of the tiny model."""
    graph = to_api(json.loads((ROOT / f"examples/{stem}.json").read_text()), nodes)
    if model != "unet":  # what a workflow without the widget has
        graph = changed(graph, by_type(graph, "HERO_TinyModel"), kind=model)
    graph = changed(graph, latent_of(graph), batch_size=n)
    graph = changed(graph, by_type(graph, "HERO_Session"), name=session)
    labels = json.dumps({"labels": {"0": "bad", "1": "good"}, "best": 1})
    return changed(graph, by_type(graph, "HERO_FeedbackGrid"), labels=labels)
