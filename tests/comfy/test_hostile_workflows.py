# SPDX-License-Identifier: Apache-2.0
"""Workflows that nobody means well with, queued in a real ComfyUI: a sentence on the right node, before any work."""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.comfy.graphs import added, any_latents, changed, critic, forward, loop
from tests.comfy.host import Checkout, Failed, Server
from tests.comfy.oddities import IMAGES, LATENTS, NUMBERS
from tests.hostile import JSON, MARKS, NAMES, Attack, attacks, send

ONE_GOOD = json.dumps({"labels": {"0": "good", "1": "bad"}, "best": 0})
SMALL: dict[str, Any] = {"n": 2, "steps": 10, "embedding_steps": 2, "scored_steps": 1}
OURS = re.compile(r"HeroError|NotFound|StaleRevision")


LONG = pytest.mark.long
EVERYWHERE = ("widget", "choice")
"""What may differ between versions of ComfyUI: the rest runs on the oldest one with --long only."""


@pytest.fixture(autouse=True)
def _elsewhere(checkout: Checkout, request: pytest.FixtureRequest) -> None:
    differs = any(word in request.node.name for word in EVERYWHERE)
    if checkout.oldest and not differs and not request.config.getoption("--long"):
        pytest.skip("as on the newest ComfyUI: runs with --long")


@pytest.fixture
def name() -> str:
    """A session nobody else uses."""
    return f"h{uuid.uuid4().hex[:12]}"


def on_disk(server: Server, *names: str) -> dict[str, bytes]:
    """The files of these sessions, of the LoRA folder, and the names of all others."""
    root = server.base / "output/hero"
    files = [path for name in names for path in (root / name).rglob("*") if path.is_file()]
    listed = {str(path): b"" for path in [*root.glob("*"), *(server.base / "models/loras").rglob("*")]}
    return {**listed, **{str(path): path.read_bytes() for path in files}}


def refused(server: Server, graph: dict, node: str | None = None) -> Failed:
    """The sentence of a prompt that must fail; on ``node`` where that is given."""
    with pytest.raises(Failed) as failed:
        server.run(graph)
    error = failed.value
    if node is not None:
        assert error.node == graph[node]["class_type"], error
        assert OURS.search(error.kind), error
        assert error.message.rstrip().endswith("."), error.message
    return error


# -- every widget ---------------------------------------------------------------------------------------------------

NUMBERS_IN_WIDGETS: list[Any] = [
    math.nan, math.inf, -math.inf, 1e308, -1e308, 2**63, -(2**63), 10**400, -1, "nan", "-inf", "1e999", "", " ",
    "abc", "0x10", "1,5", "9" * 5000, None, [], [1], [1, 2, 3], {}, {"__value__": []}, {"__value__": math.nan},
    {"a": 1},
]  # fmt: skip
CHOICES: list[Any] = ["", "nothing", " wait", "WAIT", None, 0, -1, True, [], ["a"], {}, {"__value__": ["wait"]},
                      "../x", "a" * 10_000, "\0"]  # fmt: skip
SENT_LABELS: list[Any] = [
    "{", "[]", "null", "0", '"good"', "NaN", "[" * 100_000, '{"a":' * 5000, '{"labels": []}',
    '{"labels": {"0": "best"}}', '{"labels": {"-1": "bad"}}', '{"labels": {"x": "bad"}}',
    '{"labels": {"0": "bad"}, "best": 0}', '{"best": true}', '{"labels": {"0": "good"}, "bset": 0}',
    '{"labels": {"9999999": "bad"}}', "../../labels.json", "/etc/passwd", {"labels": {}}, 5, True, [1, 2, 3],
    '{"labels": {"0": "\\ud800"}}', "\0", "<script>alert(1)</script>",
]  # fmt: skip
BROKEN_LINKS: list[Any] = [["nobody", 0], ["tiny", 99], ["tiny", -99], ["tiny", "x"], ["tiny", 0.5], [[], 0]]


def widgets(server: Server, graph: dict) -> Iterator[tuple[str, str, Any, dict]]:
    """Every widget of our nodes in a workflow: node, name, kind and what ComfyUI says of it."""
    for node, entry in graph.items():
        if entry["class_type"].startswith("HERO_"):
            described = server.get(f"/object_info/{entry['class_type']}")[entry["class_type"]]["input"]
            for name, (kind, *more) in {**described.get("required", {}), **described.get("optional", {})}.items():
                if isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "COMBO", "BOOLEAN"):
                    yield node, name, kind, more[0] if more else {}


def is_legal(value: Any, kind: Any, options: dict) -> bool:
    """Whether ComfyUI turns a value into one that the widget takes."""
    if isinstance(value, dict) and "__value__" in value:
        value = value["__value__"]
    if kind in ("INT", "FLOAT"):
        try:
            number = int(value) if kind == "INT" else float(value)
        except (TypeError, ValueError, OverflowError):
            return False
        return options["min"] <= number <= options["max"]
    return kind == "COMBO" and value in options["options"]


def bad_values(name: str, kind: Any) -> list[Any]:
    if kind in ("INT", "FLOAT"):
        return [*NUMBERS_IN_WIDGETS, *BROKEN_LINKS]
    if name == "name":
        legal = re.compile(r"(?!(?i:con|prn|aux|nul|com\d|lpt\d)$)[A-Za-z0-9_-]{1,64}")
        return [*(bad for bad in NAMES if not legal.fullmatch(bad)), "", " ", {}, [1, 2, 3], 0.5, *BROKEN_LINKS]
    if name == "pattern":
        return ["(", "[a-", "*", *BROKEN_LINKS]
    return [*(SENT_LABELS if name == "labels" else CHOICES), *BROKEN_LINKS]


def queue_refused(server: Server, graph: dict, node: str, name: str) -> None:
    """Queue a workflow; ComfyUI must refuse it with an error on this widget of this node, and run nothing."""
    body = {"prompt": graph, "client_id": "hostile", "partial_execution_targets": ["save"]}
    status, answer = server.request("POST", "/prompt", body)
    value = repr(graph[node]["inputs"][name])[:100]
    if status == 200:
        server.request("POST", "/queue", {"clear": True})
        server.interrupt()
    assert status == 400, f"{node}.{name} = {value} was accepted"
    if isinstance(graph[node]["inputs"][name], list) and len(graph[node]["inputs"][name]) == 2:
        return  # a broken link: ComfyUI's own words
    errors = answer["node_errors"][node]["errors"]
    assert name in {error["extra_info"].get("input_name") for error in errors}, (node, name, value, answer)
    assert all("exception" not in error["type"] for error in errors), (node, name, value, answer)


@pytest.mark.parametrize("share", [4, pytest.param(1, marks=LONG)])
def test_no_widget_takes_what_it_should_not(comfy: Server, name: str, share: int, tally: Callable) -> None:
    turn, seen = 0, set()
    unchecked = comfy.checkout.oldest  # does not look at the choices of nodes of our kind
    before = on_disk(comfy, name)
    for graph in (loop(name), critic(loop(name)), forward(any_latents(name))):
        for node, widget, kind, options in widgets(comfy, graph):
            seen.add(graph[node]["class_type"])
            for value in bad_values(widget, "COMBO" if isinstance(kind, list) else kind):
                known = {**options, "options": kind} if isinstance(kind, list) else options
                if is_legal(value, "COMBO" if isinstance(kind, list) else kind, known):
                    continue
                if kind == "COMBO" and unchecked:
                    continue  # the node looks at it when it runs
                turn += 1
                if turn % share == 0:
                    queue_refused(comfy, changed(graph, node, **{widget: value}), node, widget)
    tally("prompts", turn // share)
    assert turn > 1000
    assert seen == {f"HERO_{kind}" for kind in (
        "TinyModel", "Session", "Sampler", "FeedbackGrid", "EmbeddingTrainer", "DDPOUpdate", "LatentMixture",
        "NFTUpdate", "ScoreActionUpdate",
    )}  # fmt: skip
    assert comfy.running() == 0
    assert on_disk(comfy, name) == before, "nothing was begun"


def test_a_choice_that_does_not_exist_gets_a_sentence_on_its_node(comfy: Server, name: str, tally: Callable) -> None:
    if not comfy.checkout.oldest:
        pytest.skip("this version looks at choices when a workflow is queued")
    graph = loop(name, labels=ONE_GOOD, **SMALL)
    late = [(graph, "sampler", "scheduler"), (graph, "grid", "mode"), (graph, "embedding", "reward_mode"),
            (forward(graph), "update", "rule"), (forward(graph), "update", "source")]  # fmt: skip
    for workflow, node, widget in late:
        assert "'../nothing'" in refused(comfy, changed(workflow, node, **{widget: "../nothing"}), node).message
    tally("prompts", len(late))


@pytest.mark.parametrize("share", [12, pytest.param(1, marks=LONG)])
def test_numbers_that_come_over_links_are_looked_at_by_the_nodes(
    comfy: Server, name: str, share: int, tally: Callable
) -> None:
    graphs = {f"{name}a": loop(f"{name}a", labels=ONE_GOOD, **SMALL)}
    graphs[f"{name}b"] = forward(loop(f"{name}b", labels=ONE_GOOD, **SMALL))
    sent = turn = 0
    for session, graph in graphs.items():
        comfy.run({key: node for key, node in graph.items() if key not in ("embedding", "update", "mixture", "save")})
        before = on_disk(comfy, session)
        for node, widget, kind, _ in list(widgets(comfy, graph)):
            for value, slot in [(value, 0) for value in NUMBERS if kind == "FLOAT"] + [("-1", 1)] * (kind == "INT"):
                turn += 1
                if turn % share == 0:
                    odd = changed(added(graph, "odd", "Odd_Number", value=value), node, **{widget: ["odd", slot]})
                    assert value in refused(comfy, odd, node).message
                    assert on_disk(comfy, session) == before, (node, widget, value)
                    sent += 1
    tally("prompts", sent)
    assert turn > 60


# -- wrong wires ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [3, pytest.param(1, marks=LONG)])
def test_two_sessions_are_never_mixed(comfy: Server, name: str, share: int, tally: Callable) -> None:
    """Every socket gets the other session's part once."""
    both: dict[str, Any] = {}
    for prefix in "ab":
        for key, node in loop(f"{name}{prefix}", labels=ONE_GOOD, **SMALL).items():
            inputs = {k: [f"{prefix}{v[0]}", v[1]] if isinstance(v, list) else v for k, v in node["inputs"].items()}
            both[f"{prefix}{key}"] = {**node, "inputs": inputs}
        for key, node in forward(loop(name, **SMALL)).items():
            if key == "update":
                inputs = {k: [f"{prefix}{v[0]}", v[1]] if isinstance(v, list) else v for k, v in node["inputs"].items()}
                both[f"{prefix}nft"] = {**node, "inputs": inputs}
    kept = {key: node for key, node in both.items() if not key.endswith(("save", "nft"))}
    kept["seen"] = both["asave"] | {"class_type": "PreviewImage", "inputs": {"images": ["aembedding", 1]}}
    comfy.run(kept)  # draws both rounds: from here on they come from the cache
    before = on_disk(comfy, f"{name}a", f"{name}b")
    crossed = [
        ("aembedding", "feedback", ["bgrid", 0]), ("aembedding", "rollout", ["bsampler", 1]),
        ("aupdate", "reward", ["bembedding", 0]), ("aupdate", "rollout", ["bsampler", 1]),
        ("amixture", "feedback", ["bgrid", 0]), ("amixture", "rollout", ["bsampler", 1]),
        ("anft", "feedback", ["bgrid", 0]), ("anft", "reward", ["bembedding", 0]), ("anft", "rollout", ["bsampler", 1]),
        ("asave", "session", ["bsession", 0]), ("asave", "lora", ["bupdate", 1]), ("asave", "mixture", ["bmixture", 0]),
        ("asave", "reward", ["bembedding", 0]),
    ]  # fmt: skip
    for node, socket, link in crossed[::share]:
        graph = changed({key: one for key, one in both.items() if key != "bsave"}, node, **{socket: link})
        if node == "anft":
            graph = changed(graph, "asave", lora=["anft", 1])
        error = refused(comfy, graph, node)
        assert f"{name}a" in error.message, error
        assert f"{name}b" in error.message, error
        assert on_disk(comfy, f"{name}a", f"{name}b") == before, (node, socket)
    tally("prompts", len(crossed[::share]))


def test_two_saves_of_one_round_save_it_once(comfy: Server, name: str, tally: Callable) -> None:
    graph = loop(name, labels=ONE_GOOD, **SMALL)
    graph = added(graph, "again", "HERO_SaveRound", session=["session", 0], lora=["update", 1])
    assert "Queue again" in refused(comfy, graph, "again").message
    tally("prompts", 1)
    saved = next(one for one in comfy.get("/hero/sessions")["sessions"] if one["name"] == name)
    assert saved["saved_round"] == 1


@pytest.mark.parametrize("kind", LATENTS)
def test_latents_that_are_no_pictures_get_a_sentence(comfy: Server, name: str, kind: str, tally: Callable) -> None:
    """The sampler draws from an empty latent's shape alone; Rate Any Latents reads what is in it."""
    first = added(loop(name, **SMALL), "odd", "Odd_Latent", odd=kind)
    if kind in ("no pictures", "video"):
        assert "LATENT" in refused(comfy, changed(first, "sampler", latent=["odd", 0]), "sampler").message
    rated = added(any_latents(name), "odd", "Odd_Latent", odd=kind)
    refused(comfy, changed(rated, "rated", latent=["odd", 0]), "rated")
    tally("prompts", 2)
    session = json.loads((comfy.base / "output/hero" / name / "session.json").read_text())
    assert (session["fingerprint"], session["description"]) == (None, {}), "the session is still free"
    assert not (comfy.base / "output/hero" / name / "rounds").exists()


def test_images_that_are_not_the_rounds_get_a_sentence(comfy: Server, name: str, tally: Callable) -> None:
    kinds = [kind for kind in IMAGES if kind != "RGBA"]
    for kind in kinds:
        graph = changed(added(loop(name, **SMALL), "odd", "Odd_Image", odd=kind), "grid", images=["odd", 0])
        assert "VAE Decode" in refused(comfy, graph, "grid").message
        assert comfy.get(f"/hero/rounds/{name}.0001")["width"] is None, "no picture is written"
    tally("prompts", len(kinds))
    assert comfy.run(loop(name, **SMALL))["outputs"]["grid"]["hero_round"] == [f"{name}.0001"], "wired well, it goes on"


def test_an_update_that_asks_for_what_it_will_not_get_is_told_before_the_round_is_drawn(
    comfy: Server, name: str, tally: Callable
) -> None:
    for graph in (loop(name, **SMALL), critic(loop(name, **SMALL))):
        error = refused(comfy, changed(graph, "update", scored_steps=9), "sampler")
        assert "asks for 9 scored_steps of each picture and the round records 1" in error.message
    unrewarded = changed(forward(loop(name, **SMALL)), "update", source="embedding")
    assert "takes a reward: wire Embedding Trainer" in refused(comfy, unrewarded, "sampler").message
    finished = any_latents(name)
    unrewarded = changed(finished, "update", source="both")
    assert "takes a reward: wire Embedding Trainer" in refused(comfy, unrewarded, "rated").message
    needs_steps = {**finished, **{node: loop(name)[node] for node in ("embedding", "update")}}
    for node in ("embedding", "update"):
        needs_steps = changed(needs_steps, node, rollout=["rated", 1])
    assert "wire Forward-Process LoRA Update" in refused(comfy, needs_steps, "rated").message
    for graph in (loop(name, **SMALL), critic(loop(name, **SMALL))):
        error = refused(comfy, changed(graph, "sampler", steps=3, cfg=1.0), "sampler")
        assert "None of the 3 steps can be scored" in error.message
        assert "Put Forward-Process LoRA Update in its place" in error.message
    few = changed(forward(loop(f"{name}f", **SMALL)), "sampler", steps=3, cfg=1.0)
    assert comfy.run(few)["outputs"]["grid"]["hero_round"] == [f"{name}f.0001"], "it needs none"
    assert not (comfy.base / f"output/hero/{name}/rounds").exists()
    left_over = {**finished, "unused": needs_steps["update"], "embedding": needs_steps["embedding"]}
    left_over = changed(left_over, "tiny", curve=[[0, 0], [1, 1]])  # a list that is no wire
    assert comfy.run(left_over)["outputs"]["grid"]["hero_round"] == [f"{name}.0001"], "it would not run"
    tally("prompts", 9)


def test_images_with_transparency_are_shown_without_it(comfy: Server, name: str) -> None:
    graph = changed(added(loop(name, **SMALL), "odd", "Odd_Image", odd="RGBA"), "grid", images=["odd", 0])
    comfy.run(graph)
    assert comfy.get(f"/hero/rounds/{name}.0001")["width"] == 128


def test_a_round_of_one_picture_is_rated_and_saved(comfy: Server, name: str, tally: Callable) -> None:
    for number, label in enumerate(("good", "bad"), 1):
        best = 0 if label == "good" else None
        labels = json.dumps({"labels": {"0": label}, "best": best})
        graph = loop(name, labels=labels, **{**SMALL, "n": 1})
        assert comfy.run(graph)["outputs"]["save"]["hero_saved"] == [f"{name}.{number:04d}"]
    tally("prompts", 2)


# -- wrong checkpoints ----------------------------------------------------------------------------------------------

SAYS = {"fp8": "is float8_e4m3fn", "no attention": "LoRA targets", "NaN": "NaN or infinity"}


@pytest.mark.parametrize("kind", ["no attention", *(pytest.param(one, marks=LONG) for one in ("NaN", "fp8"))])
def test_a_checkpoint_that_cannot_learn_leaves_no_trace(comfy: Server, name: str, kind: str, tally: Callable) -> None:
    graph = loop(name, **SMALL)
    odd = changed(added(graph, "odd", "Odd_Model", odd=kind), "sampler", model=["odd", 0])
    assert SAYS[kind] in refused(comfy, odd, "sampler").message
    tally("prompts", 1)
    session = json.loads((comfy.base / "output/hero" / name / "session.json").read_text())
    assert session["fingerprint"] is None, "not tied to a checkpoint that drew nothing"
    assert comfy.run(graph)["outputs"]["grid"]["hero_round"] == [f"{name}.0001"], "with the right one it begins"


@pytest.mark.parametrize("kind", ["fp8", *(pytest.param(one, marks=LONG) for one in ("finetuned", "NaN"))])
def test_another_checkpoint_in_the_middle_is_refused_before_any_work(
    comfy: Server, name: str, kind: str, tally: Callable
) -> None:
    graph = loop(name, labels=ONE_GOOD, **SMALL)
    comfy.run(graph)
    before = on_disk(comfy, name)
    odd = changed(added(graph, "odd", "Odd_Model", odd=kind), "sampler", model=["odd", 0])
    error = refused(comfy, odd, "sampler")
    assert "is float8_e4m3fn" in error.message if kind == "fp8" else "belongs to another set-up" in error.message
    assert on_disk(comfy, name) == before
    rated = added(any_latents(name), "odd", "Odd_Model", odd=kind)
    refused(comfy, changed(rated, "rated", model=["odd", 0]), "rated")
    assert on_disk(comfy, name) == before
    tally("prompts", 2)
    assert comfy.run(graph)["outputs"]["save"]["hero_saved"] == [f"{name}.0002"], "put back, it goes on"


# -- words and marks ------------------------------------------------------------------------------------------------

WORDS = [
    "", " " * 1000, "\ud800", "a\0b", "\u202eevil", "<script>alert(1)</script>", "\r\n" * 50, "(((((", "))((:1.5)",
    "\\", "🌹" * 300, "embedding:../../x", "%s{0}", "x" * 100_000, '"\'`${x}',
]  # fmt: skip


@pytest.mark.parametrize("several", [False, pytest.param(True, marks=LONG)])
def test_any_prompt_can_be_drawn_and_learned(comfy: Server, name: str, several: bool, tally: Callable) -> None:
    texts = [*(WORDS if several else []), "".join(WORDS)]
    for number, words in enumerate(texts):
        session = f"{name}_{number}"
        comfy.run(loop(session, labels=ONE_GOOD, prompt=words, negative=words, **SMALL))
        told = comfy.get(f"/hero/rounds/{session}.0001")
        assert told["prompt"] == words.replace("\ud800", "?"), "text comes back as it was, but for half characters"
        assert told["status"] == "saved", "the file's metadata take it too"
    tally("prompts", len(texts))


def test_marks_that_cannot_be_submitted_do_not_overwrite_a_persons(comfy: Server, name: str, tally: Callable) -> None:
    graph = loop(name, **SMALL)
    comfy.run(graph)
    mine = {"rev": 0, "labels": {"1": "good"}, "best": None}
    assert comfy.request("PUT", f"/hero/rounds/{name}.0001/labels", mine)[0] == 200
    for labels, says in (
        ('{"labels": {"0": "good"}}', "Pick the best"), ('{"labels": {}}', "Nothing is rated"),
        ('{"labels": {"0": "bad"}, "best": "keep"}', "no old best"), ('{"labels": {"2": "bad"}}', "no picture 2"),
    ):  # fmt: skip
        assert says in refused(comfy, changed(graph, "grid", labels=labels), "grid").message
    tally("prompts", 4)
    kept = comfy.get(f"/hero/rounds/{name}.0001")
    assert (kept["rev"], kept["labels"], kept["submitted"]) == (1, {"1": "good"}, False)


# -- HTTP, as ComfyUI mounts it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "share"), [("", 8), pytest.param("", 1, marks=LONG), pytest.param("/api", 1, marks=LONG)]
)
def test_comfyui_refuses_the_same_requests(
    comfy: Server, name: str, prefix: str, share: int, tally: Callable
) -> None:
    comfy.run(loop(name, **{**SMALL, "n": 6}))
    path, sent = f"/hero/rounds/{name}.0001", 0
    before = on_disk(comfy, name)
    for attack in list(attacks(path))[::share]:
        if attack.headers.get("Origin") == "http://[" or attack.method == "OPTIONS":
            continue  # ComfyUI's own middleware answers these, by 500 and by an empty 200
        answer = send(comfy.url, attack._replace(path=prefix + attack.path))
        assert 400 <= answer.status < 500, (attack, answer)
        if attack.heard and answer.kind == "application/json":
            assert answer.sentence.endswith("."), (attack, answer)
        sent += 1
    tally("requests", sent)
    assert on_disk(comfy, name) == before
    assert send(comfy.url, Attack("PUT", f"{prefix}{path}/labels", JSON, MARKS)).status == 200
