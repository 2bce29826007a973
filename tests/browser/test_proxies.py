# SPDX-License-Identifier: Apache-2.0
"""ComfyUI on a local network behind a plain-http proxy that gives it another name and another path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.grid import QUICK, READY, in_node, load, marks, press, queue, tile, until, until_saved
from tests.comfy.graphs import loop
from tests.comfy.host import Server
from tests.proxy import nginx, proxy

pytestmark = pytest.mark.browser


@pytest.fixture(params=["nginx", "proxy"])
def behind(request: pytest.FixtureRequest, comfy: Server, tmp_path: Path):
    """The address of ComfyUI behind a proxy with a path, under a name that a browser takes for another machine's."""
    if comfy.checkout.oldest and request.param == "nginx" and not request.config.getoption("--long"):
        pytest.skip("as with the proxy written here: runs with --long")
    start: Callable = {"nginx": nginx, "proxy": proxy}[request.param]
    with start(comfy.port, tmp_path, "/comfy") as port:
        yield f"http://studio.lan:{port}/comfy/"


def test_rounds_are_rated_behind_a_proxy_with_a_path(page: Page, behind: str, comfy: Server, name: str) -> None:
    comfy.request("POST", "/settings/Comfy.VueNodes.Enabled", False)
    page.goto(behind)
    page.wait_for_function(READY, timeout=90_000)
    load(page, loop(name, mode="resume", **QUICK))
    queue(page)
    grid = in_node(page)
    tile(grid, 0).wait_for()
    until(lambda: not comfy.running(), "the run did not end at the grid")
    press(grid, 2, "best")
    page.goto(f"{behind}hero/#{name}.0001")
    grid = page.locator(".hero-grid[data-place='page']")
    expect(tile(grid, 2)).to_have_attribute("data-state", "best")
    press(grid, 0, "bad")
    expect(grid.locator(".hero-saved")).to_have_text("Saved")
    assert marks(comfy, name) == ({"0": "bad", "2": "good"}, 2)
    grid.locator(".hero-submit").click()
    expect(grid.locator(".hero-submit")).to_have_text("Submitted")
    comfy.run(loop(name, mode="resume", **QUICK))
    until_saved(comfy, name)


@pytest.mark.usefixtures("newest")
def test_without_its_own_route_the_interface_comes_from_beside_its_entry(
    context: BrowserContext, behind: str, comfy: Server
) -> None:
    page = context.new_page()
    page.route("**/hero/static/**", lambda route: route.abort())
    page.goto(behind)
    page.wait_for_function(READY, timeout=90_000)
    expect(page.locator(".hero-pill")).to_be_attached()
