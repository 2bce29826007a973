# SPDX-License-Identifier: Apache-2.0
"""A store with drawn pictures, the rating page over it, and a Chromium to rate with."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hero_core.rating.app import serving
from hero_core.store import Store
from tests.browser.grid import NO_WIDGETS, enter
from tests.comfy.host import Checkout, Server, checkouts, install

NO_COMFY = "NO COMFYUI WAS FOUND: SET COMFYUI_PATH, OR RUN `python start.py test`, WHICH FETCHES ONE"
FOUND = checkouts()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator:
    """A failed test tells what was on the screen and in the server's log."""
    report = yield
    values = getattr(item, "funcargs", {})
    if report.when == "call" and report.failed and "page" in values:
        picture = values["tmp_path"] / "screen.png" if "tmp_path" in values else Path(tempfile.mkdtemp()) / "screen.png"
        with contextlib.suppress(Exception):  # the browser itself may be what failed
            values["page"].screenshot(path=picture)
            report.sections.append(("screen", str(picture)))
    if report.failed and "comfy" in values:
        report.sections.append(("ComfyUI's log", values["comfy"].tail(30)))
    return report


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "hero", tmp_path / "loras")


@pytest.fixture
def address(store: Store) -> Iterator[str]:
    """The rating page of `store`, served from a thread."""
    with serving(store) as served:
        yield served


@pytest.fixture(scope="session")
def chromium(chromium_launch: dict) -> Iterator:
    """One browser for all tests. Playwright's loop would mark this thread as async, so tests stay synchronous."""
    playwright_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    playwright_api.expect.set_options(timeout=300_000)  # machines may be busy with other things
    with playwright_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(**chromium_launch)
        except playwright_api.Error as error:
            pytest.skip(f"Chromium does not start: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def context(chromium) -> Iterator:
    """A fresh profile whose pages must log no error."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(300_000)
    yield context
    context.close()


@pytest.fixture
def page(context) -> Iterator:
    """A tab; an error of our scripts in it, or anything that our Content-Security-Policy refused, fails the test."""
    page = context.new_page()
    faults: list[str] = []

    def fault(text: str, place: str) -> None:
        # the browser's own words for a refused or failed request, which the tests of 409 and of offline ask for
        expected = text.startswith("Failed to load resource")
        if not expected and ("/hero/" in place or "HERO" in text):
            faults.append(text)

    page.on("pageerror", lambda error: fault(str(error), f"{error.stack}"))
    page.on("console", lambda message: message.type in ("error", "warning") and fault(message.text, page.url))
    yield page
    assert not faults, faults


@pytest.fixture(scope="session", params=FOUND or [None], ids=[c.version for c in FOUND] or ["none"])
def checkout(request: pytest.FixtureRequest) -> Checkout:
    """Each ComfyUI at hand."""
    if request.param is None:
        pytest.skip(NO_COMFY)
    return request.param


@pytest.fixture(scope="session")
def comfy(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running ComfyUI with the pack; each test takes a session name of its own."""
    base = tmp_path_factory.mktemp(f"comfyui-{checkout.version}")
    install(base)
    one_thread = {"OMP_NUM_THREADS": "1"}  # leave a core to the browser
    server = Server(checkout, base, environment=one_thread).start()
    server.request("POST", "/settings/Comfy.TutorialCompleted", True)
    yield server
    server.stop()


LONG_ELSEWHERE = ("resume", "second_tab", "two_grids", "keys_in_the_node", "held", "cancelled")
"""What both renderers and both versions share: on Nodes 2.0 and on the oldest ComfyUI only in the long run."""


@pytest.fixture(params=["classic", "nodes 2.0"])
def tab(request: pytest.FixtureRequest, page, comfy: Server):
    """ComfyUI in a tab, with the classic canvas and with Nodes 2.0."""
    use_vue = request.param == "nodes 2.0"
    if use_vue and comfy.checkout.oldest and "full_screen" not in request.node.name:
        pytest.skip(NO_WIDGETS)
    shared = any(words in request.node.name for words in LONG_ELSEWHERE)
    elsewhere = use_vue or comfy.checkout.oldest
    if elsewhere and shared and not request.config.getoption("--long"):
        pytest.skip("as on the classic canvas of the newest version: runs with --long")
    comfy.request("POST", "/settings/Comfy.VueNodes.Enabled", use_vue)
    return enter(page, comfy)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A session name of the test's own."""
    return "".join(c if c.isalnum() else "_" for c in request.node.name)[-60:]
