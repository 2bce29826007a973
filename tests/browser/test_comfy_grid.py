# SPDX-License-Identifier: Apache-2.0
"""A person rates inside a real ComfyUI: in the node, full screen, in a subgraph, after a reload, in a second tab."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.grid import (
    CENTRE,
    FIND,
    NO_WIDGETS,
    QUICK,
    enter,
    in_full,
    in_node,
    load,
    marks,
    press,
    queue,
    saved,
    tile,
    until,
    until_saved,
)
from tests.comfy.graphs import loop
from tests.comfy.host import ROOT, Server

pytestmark = pytest.mark.browser


def test_a_round_is_rated_in_the_node_and_the_waiting_run_goes_on(tab: Page, comfy: Server, name: str) -> None:
    load(tab, loop(name, mode="wait", **QUICK))
    queue(tab)
    grid = in_node(tab)
    tile(grid, 0).wait_for()
    expect(grid.locator(".hero-heading")).to_have_text(f"{name} · round 1")
    press(grid, 0, "good")
    press(grid, 3, "best")
    press(grid, 5, "bad")
    expect(grid.locator(".hero-saved")).to_have_text("Saved")
    assert marks(comfy, name) == ({"0": "good", "3": "good", "5": "bad"}, 3)
    grid.locator(".hero-submit").click()
    until_saved(comfy, name)


def test_keys_in_the_node_mark_pictures_and_stay_away_from_the_canvas(tab: Page, comfy: Server, name: str) -> None:
    load(tab, loop(name, mode="wait", **QUICK))
    queue(tab)
    grid = in_node(tab)
    tile(grid, 0).locator(".hero-frame").click()
    before = tab.evaluate("() => [app.graph.nodes.length, app.canvas.graph.nodes.length, app.canvas.read_only]")
    for key in ("b", "ArrowRight", "s", "ArrowRight", "g", "Delete", "r", "w", "n", "h", "Backspace", "End", "b", "u"):
        tab.keyboard.press(key)
    expect(grid.locator(".hero-saved")).to_have_text("Saved")
    assert marks(comfy, name) == ({"0": "bad", "1": "good"}, 1)
    after = tab.evaluate("() => [app.graph.nodes.length, app.canvas.graph.nodes.length, app.canvas.read_only]")
    assert after == before
    running = comfy.get("/queue")
    tab.keyboard.press("Control+Enter")  # submits here; on the canvas it would queue another run
    until_saved(comfy, name)
    assert len(running["queue_pending"]) == 0
    assert saved(comfy, name) == 1


def test_full_screen_opens_by_its_key_minimises_to_a_pill_and_submits(tab: Page, comfy: Server, name: str) -> None:
    load(tab, loop(name, mode="wait", **QUICK))
    queue(tab)
    pill = tab.locator(".hero-pill")
    expect(pill).to_contain_text("Round 1 waits for marks")
    tab.keyboard.press("Shift+H")
    full = in_full(tab)
    expect(full).to_be_visible()
    expect(pill).to_be_hidden()
    tab.keyboard.press("s")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("b")
    tab.keyboard.press("z")
    expect(tab.locator(".hero-zoom")).to_be_visible()
    tab.keyboard.press("Escape")
    expect(full).to_be_visible()
    tab.keyboard.press("Escape")
    expect(full).to_be_hidden()
    expect(pill).to_contain_text("1 good, 1 bad, 4 unrated")
    if in_node(tab).is_visible():
        expect(tile(in_node(tab), 0)).to_have_attribute("data-state", "best")
    pill.locator(".hero-pill-open").click()
    expect(full).to_be_visible()
    tab.keyboard.press("Control+Enter")
    expect(full.locator(".hero-submit")).to_have_text("Submitted")
    until_saved(comfy, name)
    tab.keyboard.press("Escape")
    expect(pill).to_be_hidden()


def test_resume_ends_the_run_and_submit_queues_the_rest(tab: Page, comfy: Server, name: str) -> None:
    load(tab, loop(name, mode="resume", **QUICK))
    queue(tab)
    grid = in_node(tab)
    tile(grid, 0).wait_for()
    until(lambda: not comfy.running(), "the run did not end at the grid")
    assert saved(comfy, name) == 0
    press(grid, 2, "best")
    press(grid, 1, "bad")
    grid.locator(".hero-submit").click()
    until_saved(comfy, name)
    lora = comfy.base / "models" / "loras" / "hero" / f"{name}_r0001.safetensors"
    assert lora.is_file()


def test_a_reload_brings_the_round_and_its_marks_back_into_the_node(tab: Page, comfy: Server, name: str) -> None:
    load(tab, loop(name, mode="wait", **QUICK))
    queue(tab)
    grid = in_node(tab)
    tile(grid, 0).wait_for()
    press(grid, 4, "best")
    expect(grid.locator(".hero-saved")).to_have_text("Saved")
    tab.wait_for_timeout(1500)  # the frontend keeps its draft of the workflow after a while
    enter(tab, comfy)
    if not tab.evaluate(f"() => {{ {FIND} return Boolean(grid); }}"):
        load(tab, loop(name, mode="wait", **QUICK))
    tab.evaluate(CENTRE)
    expect(tile(grid, 4)).to_have_attribute("data-state", "best")
    press(grid, 0, "bad")
    grid.locator(".hero-submit").click()
    until_saved(comfy, name)


def test_a_second_tab_rates_the_same_round(tab: Page, context: BrowserContext, comfy: Server, name: str) -> None:
    load(tab, loop(name, mode="wait", **QUICK))
    queue(tab)
    grid = in_node(tab)
    tile(grid, 0).wait_for()
    second = enter(context.new_page(), comfy)
    second.keyboard.press("Shift+H")
    other = in_full(second)
    tile(other, 0).wait_for()
    press(other, 1, "best")
    expect(tile(grid, 1)).to_have_attribute("data-state", "best")  # told by the server, not asked for
    press(grid, 2, "bad")
    expect(tile(other, 2)).to_have_attribute("data-state", "bad")
    second.keyboard.press("Control+Enter")
    expect(grid.locator(".hero-submit")).to_have_text("Submitted")
    until_saved(comfy, name)


def test_a_grid_inside_a_subgraph_shows_and_rates_its_round(tab: Page, comfy: Server, name: str) -> None:
    load(tab, loop(name, mode="wait", **QUICK))
    tab.evaluate(f"() => {{ {FIND} app.graph.convertToSubgraph(new Set([grid])); }}")
    queue(tab)
    expect(tab.locator(".hero-pill")).to_contain_text("Round 1 waits for marks")
    tab.evaluate(
        "() => app.canvas.openSubgraph(app.graph.nodes.find(node => node.subgraph).subgraph,"
        " app.graph.nodes.find(node => node.subgraph))"
    )
    tab.wait_for_timeout(500)
    tab.evaluate(
        "() => app.canvas.centerOnNode(app.canvas.graph.nodes.find(node => node.comfyClass === 'HERO_FeedbackGrid'))"
    )
    grid = in_node(tab).filter(visible=True)
    tile(grid, 0).wait_for()
    press(grid, 0, "best")
    expect(tab.locator(".hero-pill")).to_contain_text("1 good, 0 bad, 5 unrated")
    press(grid, 1, "bad")
    grid.locator(".hero-submit").click()
    until_saved(comfy, name)


def test_two_grids_show_the_rounds_of_their_own_sessions(tab: Page, comfy: Server, name: str) -> None:
    names = [f"{name[-50:]}_{one}" for one in "ab"]
    graph: dict = {}
    for prefix, session in zip("ab", names, strict=True):
        for key, node in loop(session, mode="resume", save=False, **QUICK).items():
            inputs = {k: [f"{prefix}{v[0]}", v[1]] if isinstance(v, list) else v for k, v in node["inputs"].items()}
            graph[f"{prefix}{key}"] = {**node, "inputs": inputs}
    load(tab, graph)
    queue(tab)
    until(lambda: len(comfy.get("/hero/rounds?status=pending")["rounds"]) >= 2 and not comfy.running(), "no two rounds")
    shown = """() => app.graph.nodes.filter(node => node.comfyClass === 'HERO_FeedbackGrid').map(node => {
        const seen = new Set();
        let at = node;
        while (at && at.comfyClass !== 'HERO_Session' && !seen.has(at)) {
            seen.add(at);
            const input = at.inputs.find(one => ['rollout', 'session'].includes(one.name));
            const link = app.graph.getLink ? app.graph.getLink(input.link) : app.graph.links[input.link];
            at = app.graph.getNodeById(link.origin_id);
        }
        const heading = node.widgets.find(one => one.name === 'hero_grid').element.querySelector('.hero-heading');
        return [at.widgets.find(one => one.name === 'name').value, heading.textContent];
    }).sort()"""
    wanted = [[session, f"{session} · round 1"] for session in names]
    until(lambda: tab.evaluate(shown) == wanted, f"{tab.evaluate(shown)} is not {wanted}")


def test_the_grid_adds_nothing_to_saved_workflows_and_prompts(tab: Page, comfy: Server, name: str) -> None:
    load(tab, loop(name, mode="resume", labels='{"labels": {"0": "bad"}}', **QUICK))
    values = tab.evaluate(f"() => {{ {FIND} return grid.serialize().widgets_values; }}")
    assert values == ["resume", '{"labels": {"0": "bad"}}']
    inputs = tab.evaluate(
        "async () => Object.values((await app.graphToPrompt()).output)"
        ".find(node => node.class_type === 'HERO_FeedbackGrid').inputs"
    )
    assert sorted(inputs) == ["images", "labels", "mode", "rollout"]


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_comfyui_serves_the_rating_page_too(page: Page, comfy: Server, name: str, prefix: str) -> None:
    comfy.run(loop(name, mode="resume", **QUICK))
    page.goto(f"{comfy.url}{prefix}/hero/#{name}.0001")
    grid = page.locator(".hero-grid[data-place='page']")
    press(grid, 1, "best")
    press(grid, 0, "bad")
    page.keyboard.press("Control+Enter")
    expect(grid.locator(".hero-why")).to_have_text("Thank you. Queue the workflow to go on.")
    assert marks(comfy, name) == ({"0": "bad", "1": "good"}, 1)
    comfy.run(loop(name, mode="resume", **QUICK))
    assert saved(comfy, name) == 1


BOXES = """() => {
    const { scale, offset } = app.canvas.ds;
    const canvas = app.canvas.canvas.getBoundingClientRect();
    return [...document.querySelectorAll('[data-node-id]')].map(element => {
        const box = element.getBoundingClientRect();
        const node = app.graph.getNodeById(Number(element.dataset.nodeId));
        const left = (box.x - canvas.x) / scale - offset[0], top = (box.y - canvas.y) / scale - offset[1];
        return [node?.type, left, top, left + box.width / scale, top + box.height / scale];
    }).filter(([type, left, top, right]) => type && right > left);
}"""
"""Type, left, top, right and bottom of each node as Nodes 2.0 draws it, which is taller than the classic canvas."""


def test_no_two_nodes_of_a_template_overlap_in_nodes_2(page: Page, comfy: Server) -> None:
    if comfy.checkout.oldest:
        pytest.skip(NO_WIDGETS)
    comfy.request("POST", "/settings/Comfy.VueNodes.Enabled", True)
    enter(page, comfy)
    for path in sorted((ROOT / "examples").glob("*.json")):
        workflow = json.loads(path.read_text())
        page.evaluate("workflow => app.loadGraphData(workflow, true, true, 'template')", workflow)
        page.evaluate("() => { Object.assign(app.canvas.ds, {scale: 0.5, offset: [40, 100]}); }")
        page.evaluate("() => app.canvas.setDirty(true, true)")
        page.wait_for_function(f"count => ({BOXES})().length === count", arg=len(workflow["nodes"]))
        page.wait_for_timeout(1500)  # nodes grow to what is in them
        boxes = page.evaluate(BOXES)
        for number, (one, left, top, right, bottom) in enumerate(boxes):
            for other, left2, top2, right2, bottom2 in boxes[number + 1 :]:
                width, height = min(right, right2) - max(left, left2), min(bottom, bottom2) - max(top, top2)
                assert width < 1 or height < 1, f"{path.stem}: {one} and {other} overlap by {width:.0f} x {height:.0f}"


def test_every_node_has_a_help_page(comfy: Server) -> None:
    extensions = [path for path in comfy.get("/extensions") if path.endswith("/hero.js")]
    assert len(extensions) == 1
    folder = extensions[0].removesuffix("/hero.js")
    nodes = [name for name in comfy.get("/object_info") if name.startswith("HERO_")]
    assert len(nodes) >= 8
    for node in nodes:
        page = comfy.get(f"{folder}/docs/{node}.md".replace(" ", "%20")).decode()
        assert page.startswith("# "), node
        for input_name in _input_names(comfy, node):
            assert f"`{input_name}`" in page, f"{node}: {input_name} is not explained"


def _input_names(comfy: Server, node: str) -> list[str]:
    wanted = comfy.get(f"/object_info/{node}")[node]["input"]
    return [*wanted.get("required", {}), *wanted.get("optional", {})]
