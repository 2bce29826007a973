# SPDX-License-Identifier: Apache-2.0
"""The logic of the web interface in Chromium: the tests that node runs too, where there is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
from playwright.sync_api import Page, Route

FILES = sorted((Path(__file__).parents[1] / "web").glob("*.test.mjs"))

PLACE = "http://logic.lan/"
PAGE = """<!doctype html><script type="importmap">{"imports": {
    "node:test": "/tests/web/page/test.mjs", "node:assert/strict": "/tests/web/page/assert.mjs"
}}</script>"""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name.removesuffix(".test.mjs"))
def test_logic_in_chromium(file: Path, page: Page, root: Path) -> None:
    """What node gives the tests stands in for them under `tests/web/page/`."""

    def serve(route: Route) -> None:
        name = route.request.url.removeprefix(PLACE)
        if name:
            route.fulfill(path=root / name, content_type="text/javascript")
        else:
            route.fulfill(body=PAGE, content_type="text/html")

    page.route(f"{PLACE}**", serve)
    page.goto(PLACE)
    script = "async file => (await import('node:test')).finished(file)"
    ended = page.evaluate(script, f"/tests/web/{file.name}")
    assert ended == {"count": len(re.findall(r"^test\(", file.read_text(), re.MULTILINE)), "failed": []}
