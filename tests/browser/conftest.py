"""A store with drawn pictures, the rating page over it, and a Chromium to rate with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hero_core.rating.app import serving
from hero_core.session import Store
from tests.comfy.host import Checkout, Server, checkouts, install

NO_COMFY = "NO COMFYUI WAS FOUND: SET COMFYUI_PATH, OR RUN `python start.py test`, WHICH FETCHES ONE"
FOUND = checkouts()
PACK = "Hero Feedback-1.0"
"""The pack's folder. No brackets in it: ComfyUI serves no pack's web files from a folder with brackets."""


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
    playwright_api.expect.set_options(timeout=20_000)  # machines may be busy with other things
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
    context.set_default_timeout(20_000)
    yield context
    context.close()


@pytest.fixture
def page(context) -> Iterator:
    """A tab; an error of our scripts in it, or anything that our Content-Security-Policy refused, fails the test."""
    page = context.new_page()
    faults: list[str] = []

    def fault(text: str, place: str) -> None:
        if "/hero/" in place or "HERO" in text:
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
    install(base).rename(base / "custom_nodes" / PACK)
    server = Server(checkout, base, ("--whitelist-custom-nodes", PACK)).start()
    server.request("POST", "/settings/Comfy.TutorialCompleted", True)
    yield server
    server.stop()
