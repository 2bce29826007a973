"""A store with drawn pictures, the rating page over it, and a Chromium to rate with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hero_core.rating.app import serving
from hero_core.session import Store

playwright_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")


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
    context.set_default_timeout(10_000)
    yield context
    context.close()


@pytest.fixture
def page(context) -> Iterator:
    """A tab; a script error or a refused Content-Security-Policy in it fails the test."""
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: "Content Security Policy" in message.text and faults.append(message.text))
    yield page
    assert not faults, faults
