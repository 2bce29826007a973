# SPDX-License-Identifier: Apache-2.0
"""Widgets of HERO Sampler that are turned while a marked round waits, in a real ComfyUI."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.comfy.graphs import changed, loop, rate
from tests.comfy.host import Failed, Server
from tests.widgets import NODES

OTHER = {
    "steps": (10, 12), "cfg": (5.0, 7.0), "eta": (1.0, 0.9), "scheduler": ("normal", "karras"), "micro_batch": (4, 3),
    "scored_steps": (2, 1), "scored_part": ("all", "late"),
}  # fmt: skip
"""Every widget: as the round was drawn with it, and as it is turned then."""


def test_no_widget_has_a_say_in_a_marked_round_and_the_node_says_so(comfy: Server) -> None:
    sampler = NODES["HERO_Sampler"]
    assert OTHER.keys() == {*sampler.widgets, *sampler.advanced}
    name = f"w{uuid.uuid4().hex[:12]}"
    graph = loop(name)
    comfy.run(graph)
    first = {"rev": comfy.get(f"/hero/rounds/{name}.0001")["rev"], "labels": {"0": "bad"}, "best": None}
    assert comfy.request("PUT", f"/hero/rounds/{name}.0001/labels", first)[0] == 200
    drawn = (comfy.base / f"output/hero/{name}/rounds/0001/rollout.safetensors").read_bytes()
    for widget, (was, now) in OTHER.items():
        entry = comfy.run(changed(graph, "sampler", **{widget: now}))
        was, now = (f"{value:g}" if isinstance(value, float) else value for value in (was, now))
        assert entry["outputs"]["sampler"]["hero_note"] == [
            f"Round 1 is kept as it was drawn ({widget} {was}, not {now}): the change takes effect in the next round."
        ]
    assert (comfy.base / f"output/hero/{name}/rounds/0001/rollout.safetensors").read_bytes() == drawn

    rate(comfy, f"{name}.0001")
    turned = changed(graph, "sampler", **{widget: now for widget, (_, now) in OTHER.items()})
    entry = comfy.run(changed(turned, "update", micro_batch=1))
    assert entry["outputs"]["save"]["hero_saved"] == [f"{name}.0001"], "the update is judged by what the round recorded"
    saved = json.loads((comfy.base / f"output/hero/{name}/session.json").read_text())["history"][0]
    assert saved["optimizer_steps"] == 2
    assert saved["ratio_error"] < 1e-5
    with pytest.raises(Failed, match="asks for 2 scored_steps of each picture and the round records 1"):
        comfy.run(turned)  # the next round is asked for with one
    fewer = changed(turned, "update", scored_steps=1)
    assert comfy.run(fewer)["outputs"]["grid"]["hero_round"] == [f"{name}.0002"]
