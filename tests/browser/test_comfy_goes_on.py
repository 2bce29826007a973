# SPDX-License-Identifier: Apache-2.0
"""What happens after Submit in ComfyUI: the round's own workflow goes on, and is not said to where it does not."""

from __future__ import annotations

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
from playwright.sync_api import Locator, Page, expect

from tests.browser.grid import CENTRE, QUICK, READY, enter, in_node, load, press, queue, saved, tile, until, until_saved
from tests.comfy.graphs import loop
from tests.comfy.host import Server

pytestmark = pytest.mark.browser

PROMOTE = """name => {
    const session = app.graph.nodes.find(node => node.comfyClass === 'HERO_Session');
    app.graph.convertToSubgraph(new Set([session]));
    app.graph.remove(app.graph.nodes.find(node => node.comfyClass === 'PrimitiveString'));
    app.graph.nodes.find(node => node.subgraph).widgets.find(widget => widget.name === 'name').value = name;
}"""
"""Make a subgraph of HERO Session and type its name into the subgraph's own widget."""

MODES = "() => [app.extensionManager.queueSettings.mode, app.ui.autoQueueEnabled ?? false]"


def linked(name: str, **settings) -> dict:
    """The loop, with a session name that comes over a link."""
    graph = loop("stale", **QUICK, **settings)
    graph["name"] = {"class_type": "PrimitiveString", "inputs": {"value": name}}
    graph["session"]["inputs"]["name"] = ["name", 0]
    return graph


def until_it_waits(page: Page, comfy: Server) -> Locator:
    """The grid in the node, once the run has ended there."""
    tile(in_node(page), 0).wait_for()
    until(lambda: not comfy.running(), "the run did not end at the grid")
    return in_node(page)


def rate(grid: Locator) -> None:
    press(grid, 2, "best")
    press(grid, 1, "bad")
    expect(grid.locator(".hero-saved")).to_have_text("Saved")
    grid.locator(".hero-submit").click()


def runs(comfy: Server) -> int:
    """How many workflows were queued so far."""
    return comfy.log.read_text(errors="replace").count("got prompt")


def test_submit_queues_the_rest_where_a_subgraph_names_the_session(tab: Page, comfy: Server, name: str) -> None:
    load(tab, linked("unused", mode="resume"))
    tab.evaluate(PROMOTE, name)
    queue(tab)
    until_it_waits(tab, comfy)
    tab.wait_for_timeout(1500)  # the frontend keeps its draft of the workflow after a while
    tab.reload()
    tab.wait_for_function(READY)
    tab.evaluate(CENTRE)
    grid = in_node(tab)
    expect(grid.locator(".hero-heading")).to_have_text(f"{name} · round 1")
    rate(grid)
    expect(grid.locator(".hero-why")).to_have_text("Thank you. The workflow goes on.")
    until_saved(comfy, name)
    expect(grid.locator(".hero-why")).to_have_text("This round is saved. Queue the workflow for the next one.")


def test_submit_in_resume_queues_the_rest_where_a_link_names_the_session(tab: Page, comfy: Server, name: str) -> None:
    load(tab, linked(name, mode="resume"))
    queue(tab)
    rate(until_it_waits(tab, comfy))
    expect(in_node(tab).locator(".hero-why")).to_have_text("Thank you. The workflow goes on.")
    until_saved(comfy, name)


def test_submit_in_resume_queues_no_other_sessions_workflow(tab: Page, comfy: Server, name: str) -> None:
    comfy.run(loop(name, mode="resume", **QUICK))
    enter(tab, comfy)  # which shows the newest of the rounds that wait
    load(tab, linked("another", mode="resume"))
    tab.keyboard.press("Shift+H")
    full = tab.locator(".hero-grid[data-place='full']")
    expect(full.locator(".hero-heading")).to_have_text(f"{name} · round 1")
    before = runs(comfy)
    rate(full)
    expect(tab.locator(".p-toast-message").filter(has_text=f"Round 1 of {name} is submitted. Open its")).to_be_visible()
    expect(full.locator(".hero-why")).to_have_text("Thank you. Queue the workflow to go on.")
    assert runs(comfy) == before


def test_a_cancelled_run_is_queued_again_by_submit(tab: Page, comfy: Server, name: str) -> None:
    load(tab, loop(name, mode="wait", **QUICK))
    queue(tab)
    tile(in_node(tab), 0).wait_for()
    assert comfy.get(f"/hero/rounds/{name}.0001")["running"] is True
    comfy.interrupt()
    until_it_waits(tab, comfy)
    assert comfy.get(f"/hero/rounds/{name}.0001")["running"] is False
    rate(in_node(tab))
    expect(in_node(tab).locator(".hero-why")).to_have_text("Thank you. The workflow goes on.")
    until_saved(comfy, name)


def test_a_cancelled_run_is_not_said_to_go_on(tab: Page, comfy: Server, name: str) -> None:
    """Neither where the host refuses the workflow, nor where it is cancelled after Submit."""
    load(tab, loop(name, mode="resume", **QUICK))
    queue(tab)
    grid = until_it_waits(tab, comfy)
    tab.route("**/prompt", lambda route: route.fulfill(status=500, json={"error": "no"}))
    rate(grid)
    expect(grid.locator(".hero-why")).to_have_text("Thank you. Queue the workflow to go on.")
    tab.unroute_all()
    tab.keyboard.press("Escape")  # the host's own words about it
    comfy.interrupt()
    assert (saved(comfy, name), comfy.running()) == (0, 0)


def test_what_a_round_will_not_teach_stands_there_before_the_first_mark(tab: Page, comfy: Server, name: str) -> None:
    graph = loop(name, mode="wait", **QUICK)
    del graph["update"], graph["save"]["inputs"]["lora"]
    load(tab, graph)
    queue(tab)
    grid = in_node(tab)
    tile(grid, 0).wait_for()
    expect(grid.locator(".hero-notes li")).to_have_text(comfy.get(f"/hero/rounds/{name}.0001")["notes"])
    expect(grid.locator(".hero-notes")).to_contain_text("the checkpoint learns nothing from these marks")
    rate(grid)
    until_saved(comfy, name)
    expect(grid.locator(".hero-notes")).to_be_hidden()


@pytest.mark.parametrize("menu", ["today's", "the one before"])
def test_run_instant_is_held_while_a_round_waits(tab: Page, comfy: Server, name: str, menu: str) -> None:
    """With `resume` it would queue four runs a second that end where the first one did."""
    load(tab, loop(f"{name[-50:]}_{len(menu)}", mode="resume", **QUICK))
    on, held = ("instant", "disabled") if comfy.checkout.oldest else ("instant-running", "instant-idle")
    if menu == "today's":
        tab.evaluate("mode => { app.extensionManager.queueSettings.mode = mode; }", on)
        switched, off = [on, False], [held, False]
    else:
        tab.evaluate("() => { app.ui.autoQueueEnabled = true; app.ui.autoQueueMode = 'instant'; }")
        switched, off = ["disabled", True], ["disabled", False]
    before = runs(comfy)
    queue(tab)
    grid = until_it_waits(tab, comfy)
    tab.wait_for_timeout(1500)
    assert (runs(comfy) - before, tab.evaluate(MODES)) == (1, off)
    expect(grid.locator(".hero-notes")).to_have_text(
        "Run (Instant) is held while this round waits. Submit goes on with it."
    )
    rate(grid)
    until(lambda: tab.evaluate(MODES) == switched, "Run (Instant) is not on again")
    expect(grid.locator(".hero-heading")).to_contain_text("round 2")
    until(lambda: not comfy.running() and tab.evaluate(MODES) == off, "the second round does not hold it")
    assert runs(comfy) - before <= 4
    tab.reload()  # as it comes up it goes on with no Run (Instant), and no round is left waiting to other tests
    tab.wait_for_function(READY)
    rate(in_node(tab))
    until_saved(comfy, f"{name[-50:]}_{len(menu)}", rounds=2)
