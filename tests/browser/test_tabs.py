# SPDX-License-Identifier: Apache-2.0
"""Two sessions in two tabs at once, and a tab that stays open for many rounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
from playwright.sync_api import BrowserContext, Page, expect

from hero_core.feedback import Feedback
from hero_core.store import Store
from tests.browser.rating_page import mark, states, until_marks
from tests.browser.rounds import draw_round, save_round


def test_two_sessions_in_two_tabs_do_not_meet(page: Page, context: BrowserContext, address: str, store: Store) -> None:
    tabs = {"one": page, "two": context.new_page()}
    rounds = {name: draw_round(store, name) for name in tabs}
    for name, tab in tabs.items():
        tab.goto(f"{address}#{name}.0001")
        expect(tab.locator(".hero-heading")).to_have_text(f"{name} · round 1")
    for index in range(3):
        mark(tabs["one"], index, "bad")
        mark(tabs["two"], index, "best" if index == 2 else "good")
    mine, others = {i: "bad" for i in range(3)}, {i: "good" for i in range(3)}
    until_marks(rounds["one"], mine)
    until_marks(rounds["two"], others, 2)
    tabs["one"].keyboard.press("Control+Enter")
    expect(tabs["one"].locator(".hero-submit")).to_have_text("Submitted")
    save_round(rounds["one"], best=0)
    draw_round(store, "one")
    tabs["one"].evaluate("dispatchEvent(new Event('focus'))")
    expect(tabs["one"].locator(".hero-heading")).to_have_text("one · round 2")
    tabs["two"].evaluate("dispatchEvent(new Event('focus'))")
    tabs["two"].wait_for_timeout(300)
    expect(tabs["two"].locator(".hero-heading")).to_have_text("two · round 1")
    assert states(tabs["two"]) == {**{i: "good" for i in range(2)}, 2: "best"}
    assert rounds["two"].marks().submitted is False
    mark(tabs["two"], 7, "bad")
    until_marks(rounds["two"], {**others, 7: "bad"}, 2)  # type: ignore[arg-type]
    assert store.round("one.0002").marks().rev == 0, "the next round of the one session heard nothing of the other"


MEASURED = ("JSHeapUsedSize", "Nodes", "JSEventListeners", "Documents")


def held(page: Page) -> dict[str, float]:
    """What the tab holds after a collection: bytes of objects, and numbers of nodes and listeners."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable")
    for _ in range(3):
        devtools.send("HeapProfiler.collectGarbage")
    metrics = {one["name"]: one["value"] for one in devtools.send("Performance.getMetrics")["metrics"]}
    devtools.detach()
    return {name: metrics[name] for name in MEASURED}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_tab_that_shows_many_rounds_stays_as_large_as_it_was(
    page: Page, address: str, store: Store, tally: Callable
) -> None:
    page.goto(address)
    settled: dict[str, float] = {}
    for number in range(1, 61):
        round_ = draw_round(store, n=64, height=64, width=64)
        page.evaluate("dispatchEvent(new Event('focus'))")
        expect(page.locator(".hero-heading")).to_have_text(f"blue_rose · round {number}")
        page.keyboard.press("Home")
        page.keyboard.press("s")
        page.keyboard.press("ArrowRight")
        for _ in range(63):
            page.keyboard.press("Shift+B")
        until_marks(round_, {0: "good", **{i: "bad" for i in range(1, 64)}}, 0)
        page.keyboard.press("Control+Enter")
        expect(page.locator(".hero-submit")).to_have_text("Submitted")
        assert round_.marks().feedback == Feedback(64, {0: "good", **{i: "bad" for i in range(1, 64)}}, 0)
        save_round(round_, best=0)
        if number == 15:
            settled = held(page)
    tally("rounds", 60)
    now = held(page)
    growth = {name: now[name] - settled[name] for name in MEASURED}
    assert growth["JSHeapUsedSize"] < 2e6, (settled, now)  # 45 rounds later
    assert growth["Nodes"] < 500, (settled, now)
    assert growth["JSEventListeners"] < 200, (settled, now)
