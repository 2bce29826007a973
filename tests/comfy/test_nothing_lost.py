# SPDX-License-Identifier: Apache-2.0
"""A real ComfyUI that is killed at random moments, and two of them on one folder."""

from __future__ import annotations

import http.client
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.comfy.graphs import look, loop, marks_of, rate
from tests.comfy.host import Failed, Server

N = 8


@pytest.fixture
def name() -> str:
    """A session nobody else uses."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def second(own_server: Server) -> Iterator[Server]:
    """Another ComfyUI over the folder of ``own_server``."""
    server = Server(own_server.checkout, own_server.base)
    yield server
    server.kill()


@pytest.mark.usefixtures("newest")
def test_a_second_server_is_refused_until_the_first_is_killed(
    own_server: Server, second: Server, name: str, tally: Callable[[str, int], None]
) -> None:
    first = own_server.start()
    first.run(loop(name))
    half = {"rev": 0, "labels": {"0": "good", "1": "bad"}, "best": None}
    assert first.request("PUT", f"/hero/rounds/{name}.0001/labels", half)[0] == 200

    second.start()
    assert second.get(f"/hero/rounds/{name}.0001")["labels"] == half["labels"], "it may look"
    with pytest.raises(Failed, match=r"Another program has the sessions in .* open") as failed:
        second.run(loop(name))
    assert failed.value.node == "HERO_Session"
    status, answer = second.request("PUT", f"/hero/rounds/{name}.0001/labels", {**half, "rev": 1})
    assert (status, "Close the other one" in answer["error"]) == (400, True)

    first.kill()
    labels = second.base / "output/hero" / name / "rounds/0001/labels.json"
    labels.write_bytes(labels.read_bytes()[:40])
    kept = second.get(f"/hero/rounds/{name}.0001")
    assert (kept["labels"], kept["rev"]) == (half["labels"], 1), "the copy of the marks is used"
    rate(second, f"{name}.0001")
    assert "labels.json cannot be read" in second.log.read_text(), "what was damaged is mended, and the log says so"
    assert second.run(loop(name))["outputs"]["save"]["hero_saved"] == [f"{name}.0001"]
    tally("kills", 1)
    tally("damaged", 1)


def test_damage_that_cannot_be_mended_is_the_nodes_error(comfy: Server, name: str) -> None:
    graph = loop(name)
    folder = comfy.base / "output/hero" / name
    (folder / "state").mkdir(parents=True)
    (folder / "session.json").write_text("{")
    for _ in range(2):
        with pytest.raises(Failed, match=r"session\.json cannot be read.*from a backup") as failed:
            comfy.run(graph)
        assert failed.value.node == "HERO_Session"
    assert (folder / "session.json").read_text() == "{"


def live(server: Server, name: str, acknowledged: dict[int, tuple[int, dict[str, str]]]) -> None:
    """Queue, rate picture by picture, queue again, round after round, until the server is killed."""
    while True:
        shown = server.run(loop(name))["outputs"]
        if "save" in shown:
            continue
        (round_id,) = shown["grid"]["hero_round"]
        state = server.get(f"/hero/rounds/{round_id}")
        marks = marks_of(look(server, round_id))
        for picture in range(len(state["labels"]), N):
            labels = {str(p): marks["labels"][str(p)] for p in range(picture + 1)}
            best = marks["best"] if str(marks["best"]) in labels else None
            body = {"rev": state["rev"], "labels": labels, "best": best}
            status, state = server.request("PUT", f"/hero/rounds/{round_id}/labels", body)
            assert status == 200, state
            acknowledged[state["round"]] = (state["rev"], state["labels"])
        server.post(f"/hero/rounds/{round_id}/submit", {"rev": state["rev"]})


def killed(server: Server, name: str, seconds: float, acknowledged: dict[int, tuple[int, dict[str, str]]]) -> None:
    """One life of ``seconds``."""
    timer = threading.Timer(seconds, server.kill)
    timer.start()
    with pytest.raises((OSError, http.client.HTTPException, RuntimeError)):
        live(server, name, acknowledged)
    timer.join()
    assert server.process is not None
    assert server.process.poll() is not None


def saved(server: Server, name: str) -> int:
    found = [one for one in server.get("/hero/sessions")["sessions"] if one["name"] == name]
    return found[0]["saved_round"] if found else 0


def lora_of(server: Server, name: str, number: int) -> dict[str, Any]:
    return load_file(server.base / "models/loras/hero" / f"{name}_r{number:04d}.safetensors")


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_kills_at_random_moments_lose_no_mark_and_change_no_bit(
    comfy: Server, own_server: Server, name: str, tally: Callable[[str, int], None]
) -> None:
    kills = 15
    chance, acknowledged = random.Random(kills), dict[int, tuple[int, dict[str, str]]]()
    for _ in range(kills):
        own_server.start()
        for number, (rev, labels) in acknowledged.items():
            kept = own_server.get(f"/hero/rounds/{name}.{number:04d}")
            assert kept["rev"] >= rev
            assert labels.items() <= kept["labels"].items()
        killed(own_server, name, chance.uniform(0.2, 8.0), acknowledged)
    own_server.start()
    rounds = max(1, saved(own_server, name))
    for server in (own_server, comfy):
        while saved(server, name) < rounds:
            entry = server.run(loop(name))
            if "save" not in entry["outputs"]:
                rate(server, entry["outputs"]["grid"]["hero_round"][0])
    for number in range(1, rounds + 1):
        one, other = lora_of(own_server, name, number), lora_of(comfy, name, number)
        assert one.keys() == other.keys()
        assert all(bool((one[key] == other[key]).all()) for key in one)
    tally("kills", kills)
