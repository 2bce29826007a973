# SPDX-License-Identifier: Apache-2.0
"""The HTTP interface under attack, on live servers: against its description, by hand, slowly and by the crowd."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from rounds import sampled
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from hero_core.feedback import Feedback
from hero_core.rating import routes
from hero_core.rating.app import serving
from hero_core.store import State, Store
from tests import hostile
from tests.hostile import JSON, MARKS, ROUND, Answer, Attack, attacks, send, send_bytes
from tests.patience import PATIENCE

DESCRIPTION = Path(routes.__file__).with_name("openapi.json")
SERVER = """
import sys
from pathlib import Path
from hero_core.rating.app import serving
from hero_core.store import Store
with serving(Store(Path(sys.argv[1]), Path(sys.argv[2]))) as address:
    print(address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A round that waits, one that is submitted, and one that is saved."""
    store = Store(tmp_path / "hero", tmp_path / "loras")
    for name in ("rose", "submitted", "saved"):
        round_ = sampled(store, name)
        if name != "rose":
            round_.put_marks(0, Feedback(round_.n, {0: "good", 1: "bad"}, 0))
            round_.submit()
    store.session("saved").save(State(), {"best": {"round": 1, "picture": 0}}, None)
    sampled(store, "saved")
    return store


@pytest.fixture
def address(store: Store) -> Iterator[str]:
    with serving(store) as address:
        yield address


def on_disk(store: Store) -> dict[str, bytes]:
    """Every file of the store with its bytes."""
    return {str(path.relative_to(store.root)): path.read_bytes() for path in store.root.rglob("*") if path.is_file()}


def refused(answer: Answer, attack: Attack) -> None:
    """A 4xx with a sentence, or with the HTTP parser's words where nothing of it reached a handler."""
    assert 400 <= answer.status < 500, (attack, answer)
    assert (answer.status == 405) == ("Allow" in answer.headers), (attack, answer)
    if attack.heard:
        assert answer.kind == "application/json", (attack, answer)
        assert re.fullmatch(r"\S.{10,}[.]", answer.sentence, re.DOTALL), (attack, answer.sentence)
        assert len(answer.sentence) < 400, "a long name is not sent back whole"


# -- the description ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def described() -> dict:
    return json.loads(DESCRIPTION.read_text(encoding="utf-8"))


def test_the_description_has_every_route_and_no_other(described: dict, store: Store) -> None:
    table = [route for route in routes.RatingApi(lambda: store, print, routes.WEB_DIR, dict).table()]
    real = {(route.path, route.method.lower()) for route in table if isinstance(route, web.RouteDef)}
    written = {(path, method) for path, methods in described["paths"].items() for method in methods}
    assert {pair for pair in real if pair[1] != "*"} == written
    assert len(CHECKED) >= 9, "Schemathesis loads its checks on demand"


def test_the_description_has_the_statuses_that_the_code_answers_with(described: dict) -> None:
    code = Path(routes.__file__).read_text(encoding="utf-8")
    refusals = set(re.findall(r"Refusal\((\d{3})|error\)\}, (\d{3})\)|\"\}, (\d{3})\)", code))
    answered = {status for found in refusals for status in found if status}
    answers = {status for path in described["paths"].values() for op in path.values() for status in op["responses"]}
    assert answered == {"400", "403", "404", "405", "408", "409", "413", "415", "500"}
    assert answered <= answers
    assert str(routes.MAX_BODY) in described["components"]["responses"]["TooLarge"]["description"]
    assert f"{routes.BODY_SECONDS:.0f} seconds" in described["components"]["responses"]["TooSlow"]["description"]


def test_the_description_is_published(root: Path) -> None:
    ignored = (root / ".comfyignore").read_text(encoding="utf-8")
    assert "openapi" not in ignored
    assert "hero_core/rating/openapi.json" in (root / "README.md").read_text(encoding="utf-8")


LEFT_OUT = {
    "positive_data_acceptance": "numbers of rounds and pictures that do not exist have the form of those that do",
    "use_after_free": "nothing can be deleted",
    "ensure_resource_availability": "nothing can be made",
    "ignored_auth": "there is no log-in",
    "object_level_authorization": "there is no log-in",
}
"""Checks of Schemathesis that do not apply."""

load_all_checks()
CHECKED = [check for name, check in zip(CHECKS.get_all_names(), CHECKS.get_all(), strict=True) if name not in LEFT_OUT]


ROUNDS = ("rose.0001", "submitted.0001", "saved.0001", "saved.0002")


def aim(case: schemathesis.Case, store: Store, turn: int) -> None:
    """Let every other well-formed request name a round that is there, and the revision that it is at."""
    if turn % 2 and "id" in (case.path_parameters or {}):
        case.path_parameters["id"] = ROUNDS[turn // 2 % len(ROUNDS)]
        if "picture" in case.path_parameters:
            case.path_parameters["picture"] = ("0", "5", "best", "6")[turn // 8 % 4]
        if isinstance(case.body, dict) and turn // 2 % 3:
            case.body["rev"] = store.round(case.path_parameters["id"]).marks().rev
            if "labels" in case.body:
                case.body["labels"] = {str(int(key) % 6): label for key, label in case.body["labels"].items()}
                case.body["best"] = None


def hammer(address: str, description: dict, store: Store, mode: GenerationMode, examples: int) -> Counter:
    """Send generated requests of one kind for every operation, and hold each answer against the description.

    Counts the answers by operation and status.
    """
    schema = schemathesis.openapi.from_dict(description)
    base, answers = address.removesuffix("/hero/"), Counter()
    for found in schema.get_all_operations():
        cases = found.ok().as_strategy(mode)

        @settings(max_examples=examples, deadline=None, derandomize=True, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck), database=None)  # fmt: skip
        @given(case=cases)
        def hold(case: schemathesis.Case) -> None:
            if mode is GenerationMode.POSITIVE:
                aim(case, store, answers.total())
            answer = case.call_and_validate(base_url=base, checks=CHECKED, allow_redirects=False)
            answers[case.operation.label, answer.status_code] += 1

        with contextlib.suppress(Unsatisfiable):  # nothing can be wrong about a GET without parameters
            hold()
    return answers


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.name.lower())
def test_generated_requests_are_answered_as_described(
    mode: GenerationMode, address: str, described: dict, store: Store, tally: Callable, request: pytest.FixtureRequest
) -> None:
    examples = 1000 if request.config.getoption("--long") else 25
    answers = hammer(address, described, store, mode, examples)
    tally("requests", answers.total())
    assert answers.total() >= 4 * examples
    if mode is GenerationMode.POSITIVE:
        well = {label for label, status in answers if status in (200, 302)}
        assert {label for label, _ in answers} - well <= {"GET /hero/static/{name}"}, "no random name is a file's"
        assert {404, 409} <= {status for _, status in answers}
    assert store.round("rose.0001").n == 6, "the store can still be read"


# -- by hand --------------------------------------------------------------------------------------------------------


class Ordinary:
    """A person's tab that goes on asking while something else happens, and must be answered each time."""

    def __init__(self, address: str) -> None:
        self.address, self.asked, self.faults = address, 0, []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Ordinary:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        assert self.asked > 0
        assert self.faults == []

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                status = send(self.address, Attack("GET", ROUND)).status
            except OSError as error:
                status = str(error)
            if status != 200:
                self.faults.append(status)
            self.asked += 1
            self._stop.wait(0.02)


def test_every_attack_is_refused_with_a_sentence_and_changes_nothing(
    address: str, store: Store, tally: Callable
) -> None:
    before, sent = on_disk(store), 0
    with Ordinary(address):
        for attack in attacks():
            refused(send(address, attack), attack)
            sent += 1
    tally("requests", sent)
    assert sent > 1400
    assert on_disk(store) == before
    assert {path.name for path in store.root.parent.iterdir()} == {"hero"}, "nothing is written beside the store"


@pytest.mark.parametrize("data", hostile.MALFORMED, ids=range(len(hostile.MALFORMED)))
def test_what_is_no_http_is_refused_and_the_server_stays(data: bytes, address: str, tally: Callable) -> None:
    assert send_bytes(address, data).status == 400
    assert send(address, Attack("GET", ROUND)).status == 200
    tally("requests", 1)


@pytest.mark.parametrize("round_id", ["submitted.0001", "saved.0001"])
def test_closed_rounds_take_no_marks(round_id: str, address: str, store: Store, tally: Callable) -> None:
    before = on_disk(store)
    path, rev = f"/hero/rounds/{round_id}", store.round(round_id).marks().rev
    for other in ({"labels": {}}, {"labels": {"0": "bad"}}, {"labels": {"2": "good"}, "best": 2}):
        for tried in (rev, rev - 1, rev + 1, 0):
            body = json.dumps({"rev": tried, **other}).encode()
            answer = send(address, Attack("PUT", f"{path}/labels", JSON, body))
            assert answer.status == 409, answer
            assert json.loads(answer.body)["current"]["labels"] == {"0": "good", "1": "bad"}
    tally("requests", 12)
    assert on_disk(store) == before


def test_a_foreign_page_cannot_reach_the_page_in_a_frame_or_by_a_form(address: str, tally: Callable) -> None:
    policy = send(address, Attack("GET", "/hero/")).headers["Content-Security-Policy"]
    assert "frame-ancestors 'self'" in policy
    form = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    for attack in (
        Attack("POST", f"{ROUND}/submit", {**form, "Content-Type": "text/plain"}, b'{"rev": 0}'),
        Attack("POST", "/hero/", {**form, "Content-Type": "application/x-www-form-urlencoded"}, b"rev=0"),
        Attack("GET", "/hero/sessions", form),
    ):
        answer = send(address, attack)
        assert answer.status == 403, (attack, answer)
    tally("requests", 4)


# -- slowly, and by the crowd ---------------------------------------------------------------------------------------


def test_slow_clients_are_let_go_and_hold_up_nobody(
    address: str, store: Store, monkeypatch: pytest.MonkeyPatch, tally: Callable
) -> None:
    monkeypatch.setattr(routes, "BODY_SECONDS", 2.0)
    parts, clients = urlsplit(address), 50
    head = f"PUT {ROUND}/labels HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    with contextlib.ExitStack() as stack, Ordinary(address):
        for number in range(2 * clients):
            slow = stack.enter_context(socket.create_connection((parts.hostname, parts.port), PATIENCE))
            # half of them never end their headers, half never end their body
            slow.sendall((head + ("Content-Length: 40\r\n\r\n{" if number % 2 else "X-Slow: ")).encode())
            if number % 2:
                last = slow
        assert b" 408 " in last.recv(200).splitlines()[0]
        assert send(address, Attack("PUT", f"{ROUND}/labels", JSON, MARKS)).status == 200
    tally("requests", 2 * clients)


async def test_200_clients_at_once_get_one_answer_each_and_one_of_them_marks(
    address: str, store: Store, tally: Callable
) -> None:
    url = address.removesuffix("/hero/") + ROUND
    connector = aiohttp.TCPConnector(limit=0)

    async def one(number: int) -> tuple[str, int]:
        if number % 4 == 0:
            body = {"rev": 0, "labels": {str(number // 4 % 6): "bad"}}
            async with session.put(f"{url}/labels", json=body) as answer:
                return "mark", answer.status
        if number % 4 == 1:
            async with session.put(f"{url}/labels", data=b"[" * 60_000, headers=JSON) as answer:
                return "hostile", answer.status
        path = f"/pictures/{number % 6}?size=full" if number % 4 == 2 else ""
        async with session.get(url + path) as answer:
            await answer.read()
            return "look", answer.status

    async with aiohttp.ClientSession(connector=connector) as session:
        answers = await asyncio.wait_for(asyncio.gather(*(one(number) for number in range(200))), 60)
    tally("requests", 200)
    assert Counter(answers) == {("mark", 200): 1, ("mark", 409): 49, ("hostile", 400): 50, ("look", 200): 100}
    assert store.round("rose.0001").marks().rev == 1


# -- memory ---------------------------------------------------------------------------------------------------------


def memory_of(process: subprocess.Popen) -> float:
    """Resident megabytes."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.is_file():
        pytest.skip("this system does not say how much memory a process takes")
    return int(re.search(r"VmRSS:\s+(\d+) kB", status.read_text())[1]) / 1024


@pytest.mark.parametrize("times", [2, pytest.param(100, marks=pytest.mark.long)])
def test_attacks_leave_memory_flat(times: int, store: Store, tally: Callable) -> None:
    command = [sys.executable, "-c", SERVER, str(store.root), str(store.lora_dir)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        address = process.stdout.readline().decode().strip()
        every, taken = list(attacks()), []
        for turn in range(times + 2):
            for attack in every:
                assert 400 <= send(address, attack).status < 500, attack
            taken.append(memory_of(process))
            if turn == 1:  # by now every module is loaded and every buffer has its size
                settled = taken[-1]
        tally("requests", len(every) * len(taken))
        assert taken[-1] - settled < 8, taken
    finally:
        process.kill()
        process.wait()
