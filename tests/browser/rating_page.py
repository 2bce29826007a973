# SPDX-License-Identifier: Apache-2.0
"""The standalone rating page, as a person takes hold of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from playwright.sync_api import Page

from hero_core.feedback import Feedback
from hero_core.store import Round


def open_page(page: Page, address: str) -> Page:
    page.goto(address)
    page.locator(".hero-tile").first.wait_for()
    return page


def tile(page: Page, index: int):
    return page.locator(f".hero-tile[data-index='{index}']")


def mark(page: Page, index: int, name: str) -> None:
    tile(page, index).locator(f".hero-mark.is-{name}").click()


def counts(page: Page) -> list[int]:
    return [int(page.locator(f".hero-count.is-{name} b").inner_text()) for name in ("good", "bad", "unrated")]


def states(page: Page) -> dict[int, str]:
    """What the page shows of each rated picture."""
    shown = page.locator(".hero-tile").evaluate_all("tiles => tiles.map(tile => tile.dataset.state)")
    return {i: state for i, state in enumerate(shown) if state != "unrated"}


def until(condition: Callable[[], object], what: str, seconds: float = 600.0) -> None:
    """Wait for something that is not on the page."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def until_marks(round_: Round, labels: dict[int, str], best: int | str | None = None) -> None:
    wanted = Feedback(round_.n, labels, best)  # type: ignore[arg-type]
    until(lambda: round_.marks().feedback == wanted, f"{round_.marks()} is not {wanted}")
