# SPDX-License-Identifier: Apache-2.0
"""Whole sessions on the models that people run, from the files they hold, in miniature and through stock loaders."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.comfy.examples import by_type, latent_of, marked
from tests.comfy.graphs import changed, forward, history, look, loop, marks_of, rate, stock
from tests.comfy.host import CACHE, GGUF, Checkout, Server, install, install_miniatures

N, ROUNDS = 4, 3


@dataclass(frozen=True)
class Held:
    """A file that people hold, and what is loaded beside it: ``text`` is the kind of text encoder and its files, empty
    where the file is a whole checkpoint. The oldest supported ComfyUI does not read what is ``newer``.
    """

    file: str
    text: tuple[str, ...] = ()
    vae: str = "ae"
    cfg: float = 1.0
    weight_dtype: str = "default"
    quantised: bool = False
    newer: bool = False


FLUX, Z_IMAGE = ("flux", "clip_l", "t5xxl_fp16"), ("lumina2", "qwen_3_4b")
QWEN = ("qwen_image", "qwen_2.5_vl_7b_fp8_scaled")
HELD = {
    "SDXL": Held("sd_xl_base_1.0", cfg=5.0),
    "SDXL fp8 scaled": Held("sd_xl_base_1.0_fp8_scaled", cfg=5.0, quantised=True),
    "Flux": Held("flux1-dev", FLUX),
    "Flux fp8 scaled": Held("flux1-dev_fp8_scaled", FLUX, quantised=True),
    "Flux GGUF": Held("flux1-dev-Q8_0.gguf", FLUX, quantised=True),
    "Z-Image": Held("z_image_turbo_bf16", Z_IMAGE, newer=True),
    "Z-Image int8": Held("z_image_turbo_int8_convrot", Z_IMAGE, quantised=True, newer=True),
    "Qwen-Image": Held("qwen_image_bf16", QWEN, "qwen_image_vae", 2.5),
    "Qwen-Image fp8": Held("qwen_image_fp8_e4m3fn", QWEN, "qwen_image_vae", 2.5, "fp8_e4m3fn", True),
    "Qwen-Image fp8 scaled": Held(
        "qwen_image_2512_fp8_scaled", QWEN, "qwen_image_vae", 2.5, quantised=True, newer=True
    ),
}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def is_gguf(held: Held) -> bool:
    return held.file.endswith(".gguf")


def loaded(held: Held, graph: dict[str, Any]) -> dict[str, Any]:
    """A workflow of the tiny model on another model's files."""
    if not held.text:
        return {**graph, "tiny": node("CheckpointLoaderSimple", ckpt_name=f"{held.file}.safetensors")}
    kind, *files = held.text
    unet = node("UNETLoader", unet_name=f"{held.file}.safetensors", weight_dtype=held.weight_dtype)
    loader, inputs = (
        ("CLIPLoader", ["clip_name"]) if len(files) == 1 else ("DualCLIPLoader", ["clip_name1", "clip_name2"])
    )
    names = {name: f"{file}.safetensors" for name, file in zip(inputs, files, strict=True)}
    elsewhere = {"clip": ["clip", 0], "vae": ["vae", 0]}
    moved = {
        name: {**one, "inputs": {**one["inputs"], **{key: elsewhere[key] for key in elsewhere if key in one["inputs"]}}}
        for name, one in graph.items()
    }
    return {
        **moved,
        "tiny": node("UnetLoaderGGUF", unet_name=held.file) if is_gguf(held) else unet,
        "clip": node(loader, type=kind, **names),
        "vae": node("VAELoader", vae_name=f"{held.vae}.safetensors"),
    }


def session_of(held: Held, name: str) -> dict[str, Any]:
    """Rounds of four pictures of 64 x 64 in six steps, which are learned from by the forward process."""
    graph = loop(name, n=N, steps=6, size=64, cfg=held.cfg)
    return loaded(held, forward(graph, steps=2, lr=1e-2))


def drawn(server: Server, held: Held, learned: dict[str, Any] | None = None, session: str = "") -> np.ndarray:
    """Two pictures of the stock sampler, by the model or by the node ``learned`` behind it."""
    graph = stock(n=2, steps=3, sampler="euler", cfg=held.cfg)
    graph = changed(graph, "latent", width=64, height=64)
    if learned:
        graph = {**changed(graph, "sampler", model=["learned", 0]), "learned": learned}
    if session:
        graph["session"] = loop(session)["session"]
    return server.pictures(server.run(loaded(held, graph)), "preview")


@pytest.fixture(scope="module")
def server(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A ComfyUI that has files of miniature models, and reads them."""
    base = tmp_path_factory.mktemp(f"sessions-{checkout.version}")
    install(base)
    install_miniatures(base)
    server = Server(checkout, base)
    try:
        yield server.start()
    finally:
        server.stop()


def half_marked_and_killed(server: Server, graph: dict[str, Any], round_id: str) -> None:
    """Draw a round and mark half of it; then the server is gone, and starts again."""
    server.run(graph)
    labels = dict(list(marks_of(look(server, round_id))["labels"].items())[: N // 2])
    status, state = server.request("PUT", f"/hero/rounds/{round_id}/labels", {"rev": 0, "labels": labels, "best": None})
    assert status == 200
    server.kill()
    server.start()
    kept = server.get(f"/hero/rounds/{round_id}")
    assert (kept["labels"], kept["rev"]) == (labels, state["rev"])


def one_round(server: Server, graph: dict[str, Any], round_id: str) -> None:
    entry = server.run(graph)
    assert entry["outputs"]["grid"]["hero_round"] == [round_id]
    rate(server, round_id)
    assert server.run(graph)["outputs"]["save"]["hero_saved"] == [round_id]


QUICK = ("Flux", "Z-Image int8")
EACH = [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.long) for kind in HELD]


@pytest.mark.parametrize("kind", EACH)
def test_three_rounds_are_learned_and_the_file_gives_what_was_learned(kind: str, server: Server) -> None:
    held, name = HELD[kind], f"s{uuid.uuid4().hex[:8]}"
    if held.newer and server.checkout.oldest:
        pytest.skip("this ComfyUI does not read it")
    if is_gguf(held) and not ((CACHE / GGUF).is_dir() and find_spec("gguf")):
        pytest.skip(f"{GGUF} is not in {CACHE}")
    graph = session_of(held, name)
    for number in range(1, ROUNDS + 1):
        if (kind, number) == ("Flux", 2):
            half_marked_and_killed(server, graph, f"{name}.{number:04d}")
        one_round(server, graph, f"{name}.{number:04d}")
    assert [one["marks"] for one in history(server, name)] == [N] * ROUNDS
    files = [f"hero/{name}_r{number:04d}.safetensors" for number in range(1, ROUNDS + 1)]
    loras = [load_file(server.base / "models/loras" / file) for file in files]
    ups = [key for key in loras[0] if key.endswith("lora_up.weight")]
    for before, after in pairwise(loras):
        moved = [key for key in ups if not bool((before[key] == after[key]).all())]
        assert len(moved) > 0.8 * len(ups) > 0, "every round moves what pictures depend on"
    the_file_gives_what_was_learned(server, held, name, files[-1])


def the_file_gives_what_was_learned(server: Server, held: Held, session: str, file: str) -> None:
    """Merged into plain weights by the stock loader, or beside quantised ones, the file is the session's MODEL."""
    told = server.log.stat().st_size
    learned = drawn(server, held, node("HERO_SessionModel", model=["tiny", 0], session=["session", 0]), session)

    def apart(model: dict[str, Any] | None = None) -> float:
        return float(np.abs(drawn(server, held, model) - learned.astype(float)).mean())

    lora = {"model": ["tiny", 0], "lora_name": file, "strength_model": 1.0}
    merged, effect = apart(node("LoraLoaderModelOnly", **lora)), apart()
    assert effect > 1, "in steps of 255"
    if is_gguf(held):
        assert merged < effect / 1000, "its loader merges in float, at each call"
    elif held.quantised:
        assert 0 < merged < effect / 4, "what the rounding of quantised weights takes"
    else:
        assert merged == 0
    if held.quantised and not server.checkout.oldest:
        assert apart(node("LoraLoaderBypassModelOnly", **lora)) == 0
    assert "not loaded" not in server.log.read_text()[told:], "every key of the file has its place"


WORKFLOWS = ("hero_z_image_turbo", "hero_sd15", "hero_flux", "hero_qwen_image", "hero_sdxl")


@pytest.mark.parametrize(
    "stem", [*WORKFLOWS[:2], *(pytest.param(one, marks=pytest.mark.long) for one in WORKFLOWS[2:])]
)
def test_the_workflows_for_real_files_run_on_miniatures_in_their_place(stem: str, server: Server) -> None:
    if stem == "hero_z_image_turbo" and server.checkout.oldest:
        pytest.skip("this ComfyUI does not know the model")
    name = f"w{uuid.uuid4().hex[:8]}"
    graph = marked(stem, name, N, server.get("/object_info"))
    graph = changed(graph, latent_of(graph), width=64, height=64)
    for key, one in graph.items():
        if one["inputs"].get("batch_size") == 4 and one["class_type"] == "RebatchLatents":
            graph = changed(graph, key, batch_size=3)  # so that a round of four comes in two parts
    if stem == "hero_sd15":
        graph = changed(graph, by_type(graph, "HERO_EmbeddingTrainer"), steps=10)
        graph = changed(graph, by_type(graph, "HERO_Sampler"), steps=10)
    assert server.run(graph)["outputs"][by_type(graph, "HERO_SaveRound")]["hero_saved"] == [f"{name}.0001"]
    pictures = look(server, f"{name}.0001")
    assert len({picture.tobytes() for picture in pictures}) == N, "no picture is drawn twice"
    assert server.get(f"/hero/rounds/{name}.0001")["prompt"], "the prompt is found, also behind a menu"
