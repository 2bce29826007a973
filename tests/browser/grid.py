# SPDX-License-Identifier: Apache-2.0
"""The Feedback Grid inside ComfyUI, as a person takes hold of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.comfy.host import Server

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

NO_WIDGETS = "the experimental Nodes 2.0 of this frontend shows no pack's own widgets, only full screen works"

READY = """() => {
    try {
        const open = app.canvas?.graph && app.extensionManager?.workflow?.activeWorkflow;
        return Boolean(open && document.querySelector('.hero-pill'));
    } catch {
        return false;
    }
}"""
FIND = "const grid = app.graph.nodes.find(node => node.comfyClass === 'HERO_FeedbackGrid');"
CENTRE = f"() => {{ {FIND} app.canvas.centerOnNode(grid); app.canvas.setDirty(true, true); }}"
QUICK: dict[str, Any] = {"n": 6, "steps": 10, "embedding_steps": 2}


def enter(page: Page, comfy: Server) -> Page:
    page.goto(comfy.url)
    page.wait_for_function(READY, timeout=600_000)
    page.wait_for_timeout(500)
    return page


def load(page: Page, graph: dict) -> None:
    """Open a workflow as by dropping its file, with the Feedback Grid in the middle of the screen."""
    page.evaluate("graph => app.loadApiJson(graph, 'loop')", graph)
    page.wait_for_function(f"() => {{ {FIND} return Boolean(grid); }}")
    page.evaluate(CENTRE)


def queue(page: Page) -> None:
    page.evaluate("() => app.queuePrompt(0, 1)")


def in_node(page: Page) -> Locator:
    return page.locator(".hero-grid[data-place='node']")


def in_full(page: Page) -> Locator:
    return page.locator(".hero-grid[data-place='full']")


def tile(grid: Locator, index: int) -> Locator:
    return grid.locator(f".hero-tile[data-index='{index}']")


def press(grid: Locator, index: int, mark: str) -> None:
    tile(grid, index).locator(f".hero-mark.is-{mark}").click()


def until(condition: Callable[[], object], what: str, seconds: float = 600.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def saved(comfy: Server, session: str) -> int:
    sessions = comfy.get("/hero/sessions")["sessions"]
    return next((one["saved_round"] for one in sessions if one["name"] == session), 0)


def until_saved(comfy: Server, session: str, rounds: int = 1) -> None:
    until(
        lambda: saved(comfy, session) == rounds and not comfy.running(),
        f"round {rounds} was not saved\n{comfy.tail(20)}",
    )


def marks(comfy: Server, session: str) -> tuple[dict, object]:
    round_ = comfy.get(f"/hero/rounds/{session}.0001")
    return round_["labels"], round_["best"]
