# SPDX-License-Identifier: Apache-2.0
"""A person rates on the standalone page: by mouse, by keyboard, in two tabs, offline, over rounds."""

from __future__ import annotations

import itertools
import json
import re
import time

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
from playwright.sync_api import BrowserContext, Page, Route, expect

from hero_core.feedback import Feedback, problems
from hero_core.store import Store
from tests.browser.rating_page import counts, mark, open_page, states, tile, until_marks
from tests.browser.rounds import draw_round, save_round

# -- one tab --------------------------------------------------------------------------------------------------------


def test_a_round_is_rated_by_mouse(page: Page, address: str, store: Store) -> None:
    round_ = draw_round(store)
    open_page(page, address)
    mark(page, 0, "good")
    mark(page, 3, "best")
    mark(page, 5, "bad")
    mark(page, 6, "bad")
    mark(page, 6, "bad")  # once more takes it off
    assert counts(page) == [2, 1, 13]
    assert states(page) == {0: "good", 3: "best", 5: "bad"}
    expect(page.locator(".hero-saved")).to_have_text("Saved")
    until_marks(round_, {0: "good", 3: "good", 5: "bad"}, 3)
    page.get_by_role("button", name="Submit").click()
    expect(page.locator(".hero-submit")).to_have_text("Submitted")
    assert round_.marks().submitted


def test_a_round_is_rated_by_keyboard(page: Page, address: str, store: Store) -> None:
    round_ = draw_round(store)
    open_page(page, address)
    columns = page.evaluate(
        "getComputedStyle(document.querySelector('.hero-tiles')).gridTemplateColumns.split(' ').length"
    )
    for key in (
        "g",
        "ArrowRight",
        "b",
        "ArrowDown",
        "s",
        "ArrowUp",
        "ArrowLeft",
        "x",
        "End",
        "b",
        "Home",
        "Shift+b",
        "Shift+g",
    ):
        page.keyboard.press(key)
    expected = {0: "bad", 1: "good", 1 + columns: "good", 15: "bad"}
    until_marks(round_, expected, 1 + columns)
    expect(tile(page, 2)).to_be_focused()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".hero-submit")).to_have_text("Submitted")
    assert round_.marks().feedback == Feedback(16, expected, 1 + columns)  # type: ignore[arg-type]


def test_undo_takes_back_one_change_after_another(page: Page, address: str, store: Store) -> None:
    round_ = draw_round(store)
    open_page(page, address)
    mark(page, 2, "good")
    mark(page, 4, "best")
    page.get_by_role("button", name="Mark every unrated picture bad").click()
    assert counts(page) == [2, 14, 0]
    page.keyboard.press("u")
    assert states(page) == {2: "good", 4: "best"}
    page.keyboard.press("Control+z")
    assert states(page) == {2: "good"}
    page.get_by_role("button", name="Undo").click()
    assert states(page) == {}
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    until_marks(round_, {})


def test_submit_says_in_words_what_is_missing(page: Page, address: str, store: Store) -> None:
    draw_round(store)
    open_page(page, address)
    submit, why = page.locator(".hero-submit"), page.locator(".hero-why")
    expect(submit).to_be_disabled()
    expect(why).to_have_text("Nothing is rated yet: mark at least one picture good or bad.")
    mark(page, 0, "good")
    expect(why).to_have_text("Pick the best of the good pictures.")
    expect(submit).to_be_disabled()
    mark(page, 0, "best")
    expect(why).to_have_text("")
    expect(submit).to_be_enabled()


def test_a_reload_in_the_middle_loses_nothing(page: Page, address: str, store: Store) -> None:
    draw_round(store)
    open_page(page, address)
    mark(page, 7, "best")
    mark(page, 8, "bad")
    expect(page.locator(".hero-saved")).to_have_text("Saved")
    page.reload()
    page.locator(".hero-tile").first.wait_for()
    assert states(page) == {7: "best", 8: "bad"}
    assert counts(page) == [1, 1, 14]


def test_a_picture_is_zoomed_and_marked_there(page: Page, address: str, store: Store) -> None:
    round_ = draw_round(store)
    open_page(page, address)
    tile(page, 3).locator(".hero-frame").dblclick()
    zoom = page.locator(".hero-zoom")
    expect(zoom.locator(".hero-zoom-caption")).to_have_text("Picture 4 of 16")
    assert "size=full" in (zoom.locator("img").get_attribute("src") or "")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("s")
    expect(zoom.locator(".hero-mark.is-best")).to_have_attribute("aria-pressed", "true")
    zoom.locator(".hero-mark.is-bad").click()
    page.keyboard.press("Escape")
    expect(zoom).to_have_count(0)
    expect(tile(page, 4)).to_be_focused()
    until_marks(round_, {4: "bad"})


def test_every_picture_says_its_number_and_mark_to_a_screen_reader(page: Page, address: str, store: Store) -> None:
    draw_round(store)
    open_page(page, address)
    mark(page, 1, "best")
    expect(page.get_by_label("Picture 2 of 16: best")).to_be_visible()
    expect(page.get_by_label("Picture 3 of 16: unrated")).to_be_visible()
    pressed = tile(page, 1).locator(".hero-mark").evaluate_all("all => all.map(b => [b.ariaLabel, b.ariaPressed])")
    assert pressed == [["Good, picture 2", "false"], ["Best, picture 2", "true"], ["Bad, picture 2", "false"]]
    tabbable = page.locator(".hero-tile[tabindex='0']")
    assert tabbable.count() == 1, "one tab stop for the whole grid, arrows inside"


def test_focus_is_seen(page: Page, address: str, store: Store) -> None:
    draw_round(store)
    open_page(page, address)
    page.keyboard.press("ArrowRight")
    expect(tile(page, 1)).to_have_css("box-shadow", re.compile(r"rgb\(108, 178, 255\)"))


# -- several tabs, no server ----------------------------------------------------------------------------------------


def test_a_second_tab_follows_and_both_keep_their_marks(
    page: Page, context: BrowserContext, address: str, store: Store
) -> None:
    round_ = draw_round(store)
    open_page(page, address)
    other = open_page(context.new_page(), address)
    mark(page, 0, "good")
    until_marks(round_, {0: "good"})
    mark(other, 9, "bad")  # made on revision 0, which is stale now
    until_marks(round_, {0: "good", 9: "bad"})
    assert states(other) == {0: "good", 9: "bad"}
    expect(other.locator(".hero-why")).to_contain_text("another tab")
    page.bring_to_front()
    expect(tile(page, 9)).to_have_attribute("data-state", "bad")


def test_of_two_marks_on_one_picture_the_later_stands(page: Page, address: str, store: Store) -> None:
    round_ = draw_round(store)
    open_page(page, address)
    round_.put_marks(0, Feedback(16, {4: "bad", 5: "good"}, 5))
    mark(page, 4, "good")
    until_marks(round_, {4: "good", 5: "good"}, 5)


def test_a_round_submitted_elsewhere_is_closed_here(page: Page, address: str, store: Store) -> None:
    round_ = draw_round(store)
    open_page(page, address)
    mark(page, 0, "bad")
    until_marks(round_, {0: "bad"})
    round_.submit()
    expect(page.locator(".hero-submit")).to_have_text("Submitted")
    expect(tile(page, 1).locator(".hero-mark.is-good")).to_be_disabled()
    page.keyboard.press("g")
    assert states(page) == {0: "bad"}


def test_submit_on_a_stale_tab_shows_the_others_marks_first(page: Page, address: str, store: Store) -> None:
    round_ = draw_round(store)
    page.route("**/rounds?status=pending", lambda route: route.abort())  # this tab hears of nothing
    page.goto(f"{address}#blue_rose.0001")
    page.unroute("**/rounds?status=pending")
    page.locator(".hero-tile").first.wait_for()
    page.route("**/rounds?status=pending", lambda route: route.abort())
    mark(page, 0, "bad")
    until_marks(round_, {0: "bad"})
    round_.put_marks(1, Feedback(16, {0: "bad", 1: "bad"}))
    page.keyboard.press("Control+Enter")
    expect(tile(page, 1)).to_have_attribute("data-state", "bad")
    expect(page.locator(".hero-why")).to_contain_text("Not submitted")
    assert not round_.marks().submitted
    page.keyboard.press("Control+Enter")
    expect(page.locator(".hero-submit")).to_have_text("Submitted")


def test_marks_made_offline_are_shown_counted_and_sent_later(page: Page, address: str, store: Store) -> None:
    round_ = draw_round(store)
    open_page(page, address)
    page.route("**/labels", lambda route: route.abort())
    for index in (0, 1, 2):
        mark(page, index, "bad")
    expect(page.locator(".hero-saved")).to_have_text("Offline, 3 marks not saved yet: retrying")
    assert round_.marks().rev == 0
    page.unroute("**/labels")
    expect(page.locator(".hero-saved")).to_have_text("Saved")
    until_marks(round_, {0: "bad", 1: "bad", 2: "bad"})


def test_marks_made_offline_survive_a_reload(page: Page, address: str, store: Store) -> None:
    round_ = draw_round(store)
    open_page(page, address)
    page.route("**/labels", lambda route: route.abort())
    mark(page, 2, "best")
    expect(page.locator(".hero-saved")).to_contain_text("1 mark not saved yet")
    page.unroute("**/labels")
    round_.put_marks(0, Feedback(16, {9: "bad"}))  # meanwhile, elsewhere
    page.reload()
    page.locator(".hero-tile").first.wait_for()
    until_marks(round_, {2: "good", 9: "bad"}, 2)
    assert states(page) == {2: "best", 9: "bad"}


def test_quick_clicks_are_sent_in_order_and_none_is_lost(page: Page, address: str, store: Store) -> None:
    round_ = draw_round(store, n=64)
    open_page(page, address)

    def slowly(route: Route) -> None:
        time.sleep(0.05)
        route.continue_()

    page.route("**/labels", slowly)
    for _ in range(40):
        page.keyboard.press("Shift+B")
    expect(page.locator(".hero-saved")).to_have_text("Saved")
    until_marks(round_, {i: "bad" for i in range(40)})
    assert round_.marks().rev < 40, "marks that wait travel together"


# -- rounds and sessions --------------------------------------------------------------------------------------------


def test_the_next_round_appears_by_itself_with_the_old_best_beside(page: Page, address: str, store: Store) -> None:
    first = draw_round(store)
    open_page(page, address)
    expect(page.locator(".hero-old")).to_be_hidden()
    mark(page, 6, "best")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".hero-submit")).to_have_text("Submitted")
    save_round(first, best=6)
    second = draw_round(store)
    expect(page.locator(".hero-heading")).to_have_text("blue_rose · round 2")
    expect(page.locator(".hero-old img")).to_be_visible()
    assert "/rounds/blue_rose.0002/pictures/best" in (page.locator(".hero-old img").get_attribute("src") or "")
    mark(page, 0, "good")
    expect(page.locator(".hero-why")).to_have_text("Pick the best of the good pictures, or keep the old best.")
    page.get_by_role("button", name="Keep the old best").click()
    expect(page.locator(".hero-submit")).to_be_enabled()
    until_marks(second, {0: "good"}, "keep")
    page.keyboard.press("k")
    until_marks(second, {0: "good"}, None)


def test_of_two_sessions_the_person_chooses(page: Page, address: str, store: Store) -> None:
    draw_round(store, "first")
    second = draw_round(store, "second")
    open_page(page, address)
    expect(page.locator(".hero-picker")).to_have_value("second.0001")
    page.select_option(".hero-picker", "first.0001")
    mark(page, 0, "bad")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".hero-submit")).to_have_text("Submitted")
    page.wait_for_timeout(2500)  # longer than the page takes to ask what waits
    expect(page.locator(".hero-heading")).to_have_text("first · round 1")
    assert store.round("first.0001").marks().submitted
    page.select_option(".hero-picker", "second.0001")
    mark(page, 1, "bad")
    until_marks(second, {1: "bad"}, None)


def test_without_a_round_the_page_waits_for_one(page: Page, address: str, store: Store) -> None:
    page.goto(address)
    expect(page.locator(".hero-empty strong")).to_have_text("No round waits for marks")
    draw_round(store)
    expect(page.locator(".hero-tile").first).to_be_visible()


COUNT_CHANGES = """() => {
    window.changes = 0;
    const count = (changes) => { window.changes += changes.length; };
    const all = {subtree: true, childList: true, attributes: true, characterData: true};
    new MutationObserver(count).observe(document.body, all);
}"""


def test_256_pictures_come_as_small_ones_when_they_are_seen(page: Page, address: str, store: Store) -> None:
    draw_round(store, n=256)
    asked: list[str] = []
    page.on("request", lambda request: "/pictures/" in request.url and asked.append(request.url))
    open_page(page, address)
    while len(asked) < 20:
        page.wait_for_timeout(50)
    page.wait_for_timeout(800)
    assert all("size=thumb" in url for url in asked)
    assert len(asked) < 256, "only what is near the window is loaded"
    page.evaluate(COUNT_CHANGES)
    for _ in range(50):
        page.keyboard.press("Shift+G")
    assert counts(page) == [50, 0, 206]
    assert page.evaluate("window.changes") < 50 * 100, "a mark changes its own picture and not the others"
    page.keyboard.press("End")
    expect(tile(page, 255)).to_be_in_viewport()
    expect(tile(page, 255).locator("img")).not_to_have_js_property("naturalWidth", 0)


def test_text_from_a_workflow_stays_text(page: Page, address: str, store: Store) -> None:
    hostile = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>\u202e'
    round_ = draw_round(store)
    data = json.loads((store.root / "blue_rose" / "session.json").read_text())
    data["description"]["prompt"] = hostile
    del data["checksum"]
    (store.root / "blue_rose" / "session.json").write_text(json.dumps(data))
    round_.session.store._sessions.clear()
    open_page(page, address)
    expect(page.locator(".hero-prompt")).to_have_text(hostile)
    assert page.evaluate("window.hit") is None


# -- the rules in the browser are those of hero_core ----------------------------------------------------------------


def test_the_page_and_the_core_agree_on_what_may_be_submitted(page: Page, address: str) -> None:
    page.goto(address)
    cases = [
        (labels, best, old)
        for labels in ({}, {"0": "good"}, {"0": "bad"}, {"0": "good", "2": "bad"})
        for best, old in itertools.product((None, 0, "keep"), (False, True))
        if not (best == 0 and labels.get("0") == "bad")
    ]
    said = page.evaluate(
        """async cases => {
            const rules = await import(new URL('static/rules.mjs', document.baseURI));
            const marks = (labels, best) => (best === 0 ? rules.withBest({labels}, 0) : {labels, best});
            return cases.map(([labels, best, old]) => rules.problems(marks(labels, best), old));
        }""",
        cases,
    )
    assert said == [
        problems(Feedback.from_json({"labels": labels, "best": best}, 3), old) for labels, best, old in cases
    ]
