# SPDX-License-Identifier: Apache-2.0
"""The HTTP interface over a real store: what it answers, what it refuses, and that nothing blocks or leaks."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image
from rounds import sampled

from hero_core.errors import HeroError
from hero_core.feedback import Feedback
from hero_core.rating import routes
from hero_core.rating.app import make_app, serving
from hero_core.store import Round, State, Store

N = 6
ROUND = "/hero/rounds/rose.0001"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "hero", tmp_path / "loras")
    sampled(store)
    return store


@pytest.fixture
def told() -> list[tuple[str, dict]]:
    """What the routes told the browser tabs."""
    return []


@pytest.fixture
async def client(store: Store, told: list) -> AsyncIterator[TestClient]:
    """A client of the routes as ComfyUI mounts them: on a route table, also under /api."""
    table, app = web.RouteTableDef(), web.Application()
    routes.add_routes(table, lambda: store, lambda event, data: told.append((event, data)))
    doubled = web.RouteTableDef()
    for route in table:
        doubled.route(route.method, "/api" + route.path, **route.kwargs)(route.handler)
    app.add_routes(doubled)
    app.add_routes(table)
    async with TestClient(TestServer(app)) as client:
        yield client


async def put(client: TestClient, rev: object, labels: object, best: object = None, path: str = ROUND):
    return await client.put(f"{path}/labels", json={"rev": rev, "labels": labels, "best": best})


async def sentence(response) -> str:
    body = await response.json()
    assert body["error"].endswith("."), body
    return body["error"]


# -- what it answers ------------------------------------------------------------------------------------------------


async def test_a_round_tells_everything_a_rater_needs(client: TestClient) -> None:
    body = await (await client.get(ROUND)).json()
    stamp = body.pop("stamp")
    assert int(stamp, 16) > 0
    assert body == {
        "id": "rose.0001", "session": "rose", "round": 1, "status": "sampled", "mode": "resume", "n": N, "width": 10,
        "height": 20, "rev": 0, "labels": {}, "best": None, "submitted": False, "has_old_best": False, "prompt": "",
        "problems": ["Nothing is rated yet: mark at least one picture good or bad."], "running": False, "notes": [],
    }  # fmt: skip


async def test_a_round_tells_what_only_the_host_knows(store: Store) -> None:
    """Submit tells of the run that waited for it, which may be done with the marks a moment later."""
    runs = iter([True, True, False])
    app = web.Application()
    routes.add_routes(app, lambda: store, about=lambda id: {"running": next(runs), "notes": [f"{id} is told."]})
    async with TestClient(TestServer(app)) as client:
        marked = await (await put(client, 0, {"0": "bad"})).json()
        submitted = await (await client.post(f"{ROUND}/submit", json={"rev": 1})).json()
        later = await (await client.get(ROUND)).json()
    assert [body["running"] for body in (marked, submitted, later)] == [True, True, False]
    assert all(body["notes"] == ["rose.0001 is told."] for body in (marked, submitted, later))


async def test_the_same_routes_answer_under_api(client: TestClient) -> None:
    assert await (await client.get("/api" + ROUND)).json() == await (await client.get(ROUND)).json()


async def test_sessions_list_their_rounds(client: TestClient) -> None:
    body = await (await client.get("/hero/sessions")).json()
    rounds = [{"id": "rose.0001", "round": 1, "status": "sampled", "n": N}]
    assert body == {"sessions": [{"name": "rose", "saved_round": 0, "open_round": 1, "rounds": rounds}]}


async def test_a_submitted_round_is_no_longer_pending(client: TestClient, store: Store) -> None:
    sampled(store, "second")

    async def pending() -> list[str]:
        return [r["id"] for r in (await (await client.get("/hero/rounds?status=pending")).json())["rounds"]]

    assert await pending() == ["rose.0001", "second.0001"]
    await put(client, 0, {"0": "bad"})
    await client.post(f"{ROUND}/submit", json={"rev": 1})
    assert await pending() == ["second.0001"]


async def test_marks_are_on_disk_when_they_are_acknowledged(client: TestClient, store: Store) -> None:
    body = await (await put(client, 0, {"0": "good", "5": "bad"}, 1)).json()
    assert (body["rev"], body["labels"], body["best"]) == (1, {"0": "good", "1": "good", "5": "bad"}, 1)
    again = Store(store.root, store.lora_dir).round("rose.0001").marks()
    assert again.feedback.labels == {0: "good", 1: "good", 5: "bad"}


async def test_every_change_is_told_to_all_tabs_and_no_get_is(client: TestClient, told: list) -> None:
    await client.get(ROUND)
    await put(client, 0, {"0": "bad"})
    await client.post(f"{ROUND}/submit", json={"rev": 1})
    assert [(event, data["rev"], data["submitted"]) for event, data in told] == [
        ("hero.round", 1, False),
        ("hero.round", 2, True),
    ]


async def test_submitting_twice_is_submitting_once(client: TestClient) -> None:
    await put(client, 0, {"0": "bad"})
    first = await client.post(f"{ROUND}/submit", json={"rev": 1})
    second = await client.post(f"{ROUND}/submit", json={"rev": 1})
    assert (first.status, second.status) == (200, 200)
    assert await first.json() == await second.json()


async def test_pictures_are_the_rounds_own(client: TestClient, tmp_path: Path) -> None:
    for index in (0, 5):
        raw = await (await client.get(f"{ROUND}/pictures/{index}?size=full")).read()
        (tmp_path / "one.png").write_bytes(raw)
        assert Image.open(tmp_path / "one.png").getpixel((3, 3)) == (round(255 * index / N),) * 3
    thumb = await client.get(f"{ROUND}/pictures/0?size=thumb")
    assert (thumb.status, thumb.content_type) == (200, "image/jpeg")


async def test_a_picture_is_cached_for_good_only_under_its_stamp(client: TestClient) -> None:
    stamp = (await (await client.get(ROUND)).json())["stamp"]
    fresh = await client.get(f"{ROUND}/pictures/0?size=thumb&v={stamp}")
    other = await client.get(f"{ROUND}/pictures/0?size=thumb&v=1")
    assert "immutable" in fresh.headers["Cache-Control"]
    assert other.headers["Cache-Control"] == "private, no-cache"
    same = await client.get(f"{ROUND}/pictures/0?size=thumb", headers={"If-None-Match": other.headers["ETag"]})
    assert same.status == 304


async def test_the_old_best_is_there_from_the_second_round_on(client: TestClient, store: Store) -> None:
    assert (await client.get(f"{ROUND}/pictures/best")).status == 404
    first = store.round("rose.0001")
    first.session.save(State(), {"best": {"round": 1, "picture": 4}}, None)
    sampled(store)
    kept = await (await client.get("/hero/rounds/rose.0002/pictures/best?size=full")).read()
    assert kept == first.picture(4).read_bytes()
    assert (await put(client, 0, {"0": "good"}, "keep", "/hero/rounds/rose.0002")).status == 200


# -- what it refuses ------------------------------------------------------------------------------------------------


async def test_a_stale_revision_gets_the_state_as_it_is(client: TestClient, store: Store) -> None:
    await put(client, 0, {"0": "good"}, 0)
    late = await put(client, 0, {"1": "bad"})
    assert late.status == 409
    body = await late.json()
    assert (body["current"]["rev"], body["current"]["labels"]) == (1, {"0": "good"})
    assert "revision 0" in body["error"]
    assert store.round("rose.0001").marks().feedback.labels == {0: "good"}


async def test_a_revision_that_is_yet_to_come_is_refused(client: TestClient, store: Store) -> None:
    """A tab that was open while the store was put back to an older copy."""
    await put(client, 0, {"0": "good"}, 0)
    early = await put(client, 2, {"1": "bad"})
    submitted = await client.post(f"{ROUND}/submit", json={"rev": 2})
    assert [early.status, submitted.status] == [409, 409]
    assert (await early.json())["current"]["rev"] == 1
    marks = store.round("rose.0001").marks()
    assert (marks.feedback.labels, marks.submitted) == ({0: "good"}, False)


async def test_two_tabs_at_once_one_wins_and_one_is_told(client: TestClient) -> None:
    answers = await asyncio.gather(*(put(client, 0, {str(i): "bad"}) for i in range(N)))
    assert sorted(answer.status for answer in answers) == [200] + [409] * (N - 1)


async def test_a_stale_submit_is_refused(client: TestClient) -> None:
    await put(client, 0, {"0": "bad"})
    late = await client.post(f"{ROUND}/submit", json={"rev": 0})
    assert late.status == 409
    assert (await late.json())["current"]["submitted"] is False


async def test_marks_after_submit_are_refused_unless_they_say_the_same(client: TestClient) -> None:
    await put(client, 0, {"0": "bad"})
    await client.post(f"{ROUND}/submit", json={"rev": 1})
    assert (await put(client, 2, {"0": "bad"})).status == 200
    other = await put(client, 2, {"0": "good"}, 0)
    assert other.status == 409
    assert (await other.json())["current"]["labels"] == {"0": "bad"}


async def test_submit_says_what_is_missing(client: TestClient) -> None:
    empty = await client.post(f"{ROUND}/submit", json={"rev": 0})
    assert empty.status == 400
    assert "Nothing is rated yet" in await sentence(empty)
    await put(client, 0, {"0": "good"})
    assert "Pick the best" in await sentence(await client.post(f"{ROUND}/submit", json={"rev": 1}))


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://[", "Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", [ROUND, f"{ROUND}/pictures/0", "/hero/sessions", "/hero/"])
async def test_other_web_pages_get_nothing_but_modules(client: TestClient, headers: dict, path: str) -> None:
    answer = await client.get(path, headers=headers)
    assert answer.status == 403
    assert "refused" in await sentence(answer)
    assert (await client.get("/hero/static/rating.mjs", headers=headers)).status == 200


LAN = "192.168.1.20:8188"


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ({"Host": "comfy.lan", "Origin": "http://comfy.lan"}, True),
        ({"Host": "comfy.lan:80", "Origin": "http://comfy.lan"}, True),
        ({"Host": "comfy.lan:443", "Origin": "https://comfy.lan"}, True),
        ({"Host": LAN, "Origin": "http://comfy.lan"}, True),  # a proxy's own name for this server, no https
        ({"Host": "backend", "Origin": "http://comfy.lan:8080"}, True),
        ({"Host": "127.0.0.1:8188", "Origin": "http://comfy.lan", "X-Forwarded-Host": "comfy.lan"}, True),
        ({"Host": LAN, "Origin": "https://comfy.lan", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Host": LAN, "Origin": "https://other.lan", "Sec-Fetch-Site": "same-site"}, False),
        ({"Host": LAN, "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Host": LAN, "Origin": "null"}, False),
        ({"Host": LAN, "Origin": "file://"}, False),
        ({"Host": LAN, "Origin": "http://["}, False),
        ({"Host": "127.0.0.1:8188", "Origin": "http://comfy.lan"}, False),
        ({"Host": "localhost:8188", "Origin": "http://localhost"}, False),
        ({"Host": "a.localhost.", "Origin": "http://evil.example"}, False),
        ({"Host": "[::ffff:127.0.0.1]:8188", "Origin": "http://evil.example"}, False),
        ({"Host": "0.0.0.0:8188", "Origin": "http://evil.example"}, False),
        ({"Host": "", "Origin": "http://evil.example"}, False),
        ({"Host": "[", "Origin": "http://evil.example"}, False),
    ],
)  # fmt: skip
async def test_marks_come_through_a_proxy_that_names_this_server_itself(
    client: TestClient, store: Store, headers: dict, taken: bool
) -> None:
    body = json.dumps({"rev": 0, "labels": {"0": "bad"}})
    answer = await client.put(f"{ROUND}/labels", data=body, headers={**headers, "Content-Type": "application/json"})
    assert answer.status == (200 if taken else 403), await answer.text()
    assert store.round("rose.0001").marks().rev == taken
    if not taken and headers.get("Sec-Fetch-Site") != "cross-site":
        assert "nginx: proxy_set_header Host $http_host;" in await sentence(answer)


async def test_no_other_site_is_given_leave_to_send_json(client: TestClient) -> None:
    """Where a foreign page looks like a proxy's, the browser's question before it is what keeps it out."""
    asks = {"Origin": "http://evil.example", "Host": LAN, "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": "content-type"}  # fmt: skip
    for method, path in (("OPTIONS", f"{ROUND}/labels"), ("OPTIONS", f"{ROUND}/submit"), ("GET", ROUND)):
        answer = await client.request(method, path, headers=asks)
        assert not [name for name in answer.headers if name.startswith("Access-Control-")]
        assert method == "GET" or answer.status == 405


async def test_other_web_pages_change_nothing(client: TestClient, store: Store) -> None:
    headers = {"Origin": "https://evil.example", "Content-Type": "application/json"}
    body = json.dumps({"rev": 0, "labels": {"0": "bad"}, "best": None})
    assert (await client.put(f"{ROUND}/labels", data=body, headers=headers)).status == 403
    assert store.round("rose.0001").marks().rev == 0


async def test_the_page_itself_and_its_link_from_elsewhere_are_let_through(client: TestClient) -> None:
    own = {"Origin": f"http://{client.host}:{client.port}"}
    assert (await client.get(ROUND, headers=own)).status == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}
    assert (await client.get("/hero/", headers=link)).status == 200
    assert (await client.get("/hero/", headers={**link, "Sec-Fetch-Dest": "iframe"})).status == 403


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
async def test_only_json_is_read(client: TestClient, kind: str | None) -> None:
    answer = await client.put(f"{ROUND}/labels", data=b'{"rev": 0, "labels": {}}', headers={"Content-Type": kind or ""})
    assert answer.status == 415
    assert "application/json" in await sentence(answer)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"rev": 0}', b'{"rev": 0, "labels": {}, "more": 1}',
        b'{"rev": true, "labels": {}}', b'{"rev": -1, "labels": {}}', b'{"rev": 0.5, "labels": {}}',
        b'{"rev": "0", "labels": {}}', b'{"rev": NaN, "labels": {}}', b'{"rev": 0, "labels": []}',
        b'{"rev": 0, "labels": {"0": "good", "0": "bad"}}', b'{"rev": 0, "labels": {"6": "bad"}}',
        b'{"rev": 0, "labels": {"-1": "bad"}}', b'{"rev": 0, "labels": {"x": "bad"}}',
        b'{"rev": 0, "labels": {"0": "best"}}', b'{"rev": 0, "labels": {"0": null}}',
        b'{"rev": 0, "labels": {"0": ["good"]}}', b'{"rev": 0, "labels": {}, "best": 6}',
        b'{"rev": 0, "labels": {}, "best": true}', b'{"rev": 0, "labels": {}, "best": 1.0}',
        b'{"rev": 0, "labels": {}, "best": {}}', b'{"rev": 0, "labels": {}, "best": "worst"}',
        b'{"rev": 0, "labels": {"0": "bad"}, "best": 0}', b'{"rev":' + b"9" * 5000 + b', "labels": {}}',
        b'{"rev": 0, "labels": ' + b"[" * 20000 + b"}",
    ],
)  # fmt: skip
async def test_a_body_that_is_not_exactly_right_is_refused(client: TestClient, store: Store, body: bytes) -> None:
    answer = await client.put(f"{ROUND}/labels", data=body, headers={"Content-Type": "application/json"})
    assert answer.status == 400, await answer.text()
    await sentence(answer)
    assert store.round("rose.0001").marks().rev == 0


async def test_a_large_body_is_not_read(client: TestClient) -> None:
    async def drip():
        for _ in range(40):
            yield b" " * 4096

    for data in (b" " * (routes.MAX_BODY + 1), drip()):
        answer = await client.put(f"{ROUND}/labels", data=data, headers={"Content-Type": "application/json"})
        assert answer.status == 413


async def test_a_packed_body_that_unpacks_large_is_not_read(client: TestClient) -> None:
    import gzip

    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    bomb = await client.put(f"{ROUND}/labels", data=gzip.compress(b" " * 50_000_000), headers=headers)
    assert bomb.status == 413
    broken = await client.put(f"{ROUND}/labels", data=b"no gzip", headers=headers)
    assert broken.status == 400


async def test_a_client_that_dribbles_is_let_go(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "BODY_SECONDS", 0.1)

    async def never_ends():
        yield b"{"
        await asyncio.sleep(1)
        yield b"}"

    answer = await client.put(f"{ROUND}/labels", data=never_ends(), headers={"Content-Type": "application/json"})
    assert answer.status == 408


@pytest.mark.parametrize(
    "path",
    [
        "/hero/rounds/rose", "/hero/rounds/rose.0002", "/hero/rounds/rose.1", "/hero/rounds/none.0001",
        "/hero/rounds/..%2f..%2fetc.0001", "/hero/rounds/" + "a" * 5000 + ".0001", "/hero/rounds/rose%00.0001",
        "/hero/rounds/rose.%D9%A0%D9%A0%D9%A0%D9%A1", f"{ROUND}/pictures/6", f"{ROUND}/pictures/-1",
        f"{ROUND}/pictures/0000", f"{ROUND}/pictures/..%2f..%2fsession.json", f"{ROUND}/pictures/%D9%A1",
        "/hero/static/hero.js", "/hero/static/..%2fpyproject.toml", "/hero/static/docs", "/hero/nothing",
        "/hero/rounds/",
    ],
)  # fmt: skip
async def test_what_does_not_exist_is_404_with_a_sentence(client: TestClient, path: str) -> None:
    from yarl import URL

    answer = await client.get(URL(path, encoded=True))
    assert answer.status == 404
    await sentence(answer)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", ROUND), ("DELETE", ROUND), ("GET", f"{ROUND}/labels"), ("GET", f"{ROUND}/submit"), ("PUT", "/hero/"),
     ("POST", f"{ROUND}/labels"), ("PATCH", "/hero/sessions")],
)  # fmt: skip
async def test_a_wrong_method_is_405_with_the_right_one(client: TestClient, method: str, path: str) -> None:
    answer = await client.request(method, path)
    assert answer.status == 405
    assert "use " in await sentence(answer)


@pytest.mark.parametrize("query", ["/hero/rounds?status=open", f"{ROUND}/pictures/0?size=huge"])
async def test_unknown_choices_are_named(client: TestClient, query: str) -> None:
    answer = await client.get(query)
    assert answer.status == 400
    assert "must be" in await sentence(answer)


async def test_a_full_disk_is_said_and_loses_nothing(
    client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(client, 0, {"0": "bad"})
    refusing = OSError(28, "No space left on device")
    monkeypatch.setattr("hero_core.store.files.os.replace", lambda *_: (_ for _ in ()).throw(refusing))
    answer = await put(client, 1, {"0": "bad", "1": "bad"})
    assert (answer.status, "No space left on device" in await sentence(answer)) == (500, True)
    monkeypatch.undo()
    assert (await put(client, 1, {"0": "bad", "1": "bad"})).status == 200


# -- reading --------------------------------------------------------------------------------------------------------


FILES = ("session.json", *(f"rounds/0001/{name}" for name in (
    "rollout.safetensors", "labels.json", "labels.copy.json", "round.json", "mode.json", "pictures/info.json",
    "pictures/0003.png", "pictures/0003.jpg",
)))  # fmt: skip
HARM: dict[str, Callable[[Path], object]] = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "emptied": lambda path: path.write_bytes(b""),
    "removed": lambda path: path.unlink(),
    "flipped": lambda path: path.write_bytes(path.read_bytes()[:-9] + b"#" + path.read_bytes()[-8:]),
}
READS = (
    "/hero/", "/hero/sessions", "/hero/rounds", "/hero/rounds?status=pending", ROUND, f"{ROUND}/pictures/0",
    f"{ROUND}/pictures/3?size=thumb", f"{ROUND}/pictures/3?size=full", f"{ROUND}/pictures/best",
)  # fmt: skip


def on_disk(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
async def test_get_changes_nothing_whatever_is_damaged(store: Store, harm: Callable[[Path], object]) -> None:
    store.round("rose.0001").put_marks(0, Feedback(N, {0: "good", 5: "bad"}, 0))
    for name in FILES:
        copy = store.root.parent / f"copy of {name.replace('/', ' ')}"
        shutil.copytree(store.root, copy)
        harm(copy / "rose" / name)
        before, looked = on_disk(copy), Store(copy, store.lora_dir)
        async with TestClient(TestServer(make_app(looked))) as client:
            answers = {path: await client.get(path) for path in READS}
            assert all(answer.status < 500 for answer in answers.values()), (name, answers)
            if "labels" in name:
                assert (await answers[ROUND].json())["labels"] == {"0": "good", "5": "bad"}, "read from the copy"
            assert on_disk(copy) == before, f"{name}: GET wrote into the folder"


# -- how it runs ----------------------------------------------------------------------------------------------------


async def test_a_slow_disk_does_not_stop_other_requests(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    held, release = threading.Event(), threading.Event()
    real = Round.put_marks

    def slow(self: Round, *values):
        held.set()
        release.wait(5)
        return real(self, *values)

    monkeypatch.setattr(Round, "put_marks", slow)
    marking = asyncio.create_task(put(client, 0, {"0": "bad"}))
    await asyncio.to_thread(held.wait, 5)
    assert (await asyncio.wait_for(client.get("/hero/"), 2)).status == 200
    assert not marking.done()
    release.set()
    assert (await marking).status == 200


async def test_the_page_allows_no_script_but_its_own(client: TestClient) -> None:
    page = await client.get("/hero/")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'self'" in policy
    html = await page.text()
    assert '<script type="module" src="static/rating.mjs"></script>' in html
    assert " style=" not in html


async def test_the_address_without_slash_leads_to_the_page(client: TestClient) -> None:
    for prefix in ("", "/api"):
        answer = await client.get(f"{prefix}/hero", allow_redirects=False)
        assert (answer.status, answer.headers["Location"]) == (302, "hero/")


async def test_every_module_the_page_imports_is_served_with_its_type(client: TestClient, root: Path) -> None:
    modules = sorted(path.name for path in (root / "web").glob("*.mjs"))
    assert {"rating.mjs", "grid.mjs", "store_client.mjs"} <= set(modules)
    for name in modules:
        answer = await client.get(f"/hero/static/{name}")
        assert (answer.status, answer.content_type) == (200, "text/javascript"), name
        assert answer.headers["Cache-Control"] == "private, no-cache"


async def test_standalone_answers_only_under_this_machines_names(store: Store) -> None:
    async with TestClient(TestServer(make_app(store))) as client:
        assert (await client.get("/hero/sessions", headers={"Host": "localhost:8189"})).status == 200
        assert (await client.get("/hero/static/rating.mjs", headers={"Host": "rebound.example:8189"})).status == 403
        assert (await client.get("/hero/sessions", headers={"Host": "[::1]:8189"})).status == 200
        assert (await client.get("/hero/sessions", headers={"Host": "rebound.example:8189"})).status == 403
        assert (await client.get("/", allow_redirects=False)).headers["Location"] == "/hero/"


def test_a_port_in_use_is_said_with_the_remedy(store: Store) -> None:
    with serving(store) as address:
        port = int(address.split(":")[2].split("/")[0])
        with pytest.raises(HeroError, match="another port"), serving(store, port=port):
            pass
