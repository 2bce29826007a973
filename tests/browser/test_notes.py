# SPDX-License-Identifier: Apache-2.0
"""What a node has to tell stands on it, in the tab that queued the workflow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
from playwright.sync_api import Page

from tests.browser.grid import QUICK, enter, in_node, load, queue, tile
from tests.comfy.graphs import loop
from tests.comfy.host import Server

pytestmark = pytest.mark.browser

TOLD = """words => app.graph.nodes.flatMap(node => (node.widgets ?? [])
  .filter(widget => String(widget.value ?? "").includes(words)).map(() => node.type))"""


def test_what_the_marks_will_not_teach_stands_on_the_grid_while_it_waits(page: Page, comfy: Server) -> None:
    comfy.request("POST", "/settings/Comfy.VueNodes.Enabled", False)
    tab = enter(page, comfy)
    graph = loop("told", mode="wait", **QUICK)
    del graph["update"], graph["save"]["inputs"]["lora"]
    load(tab, graph)
    queue(tab)
    tile(in_node(tab), 0).wait_for()
    tab.wait_for_function(f"words => ({TOLD})(words).length > 0", arg="No LoRA update is wired")
    assert tab.evaluate(TOLD, "No LoRA update is wired") == ["HERO_FeedbackGrid"]
    if folder := os.environ.get("HERO_SCREENSHOTS"):
        tab.screenshot(path=Path(folder) / f"note-{comfy.checkout.version}.png")
    comfy.interrupt()
