# SPDX-License-Identifier: Apache-2.0
"""Workflows in ComfyUI's API format, and a rater who reads pixels."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.comfy.host import Server

PROMPT = "photo of one blue rose in a vase"


def loop(
    session: str, *, n: int = 8, steps: int = 10, mode: str = "resume", labels: str = "", micro_batch: int = 4,
    embedding_steps: int = 20, prompt: str = PROMPT, negative: str = "", size: int = 128, cfg: float = 5.0,
    eta: float = 1.0, scored_steps: int = 2, save: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """The whole HERO loop on the tiny model, small enough for a test."""
    graph = {
        "tiny": _node("HERO_TinyModel"),
        "positive": _node("CLIPTextEncode", text=prompt, clip=["tiny", 1]),
        "negative": _node("CLIPTextEncode", text=negative, clip=["tiny", 1]),
        "latent": _node("EmptyLatentImage", width=size, height=size, batch_size=n),
        "session": _node("HERO_Session", name=session, seed=0, rank=4, alpha=4.0),
        "sampler": _node(
            "HERO_Sampler", model=["tiny", 0], positive=["positive", 0], negative=["negative", 0],
            latent=["latent", 0], session=["session", 0], steps=steps, cfg=cfg, eta=eta, scheduler="normal",
            micro_batch=micro_batch, scored_steps=scored_steps, scored_part="all",
        ),
        "decode": _node("VAEDecode", samples=["sampler", 0], vae=["tiny", 2]),
        "grid": _node("HERO_FeedbackGrid", images=["decode", 0], rollout=["sampler", 1], mode=mode, labels=labels),
        "embedding": _node(
            "HERO_EmbeddingTrainer", rollout=["sampler", 1], feedback=["grid", 0], steps=embedding_steps, lr=1e-5,
            margin=0.5, reward_mode="best",
        ),
        "update": _node(
            "HERO_DDPOUpdate", rollout=["sampler", 1], reward=["embedding", 0], lr=3e-4, batch=4, epochs=1, kl_coef=0.0,
            scored_steps=scored_steps, clip=1e-4, advantage_clip=5.0, kl_target=0.0, weight_decay=1e-4,
            max_grad_norm=1.0, micro_batch=0,
        ),
        "mixture": _node("HERO_LatentMixture", rollout=["sampler", 1], feedback=["grid", 0], beta=0.5, eps0=0.1),
    }  # fmt: skip
    if save:
        graph["save"] = _node(
            "HERO_SaveRound", session=["session", 0], reward=["embedding", 0], lora=["update", 1],
            mixture=["mixture", 0],
        )  # fmt: skip
    return graph


def forward(graph: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    """The same loop with Forward-Process LoRA Update, which learns from the marks alone."""
    graph = {k: v for k, v in copy.deepcopy(graph).items() if k not in ("embedding", "mixture")}
    rollout = graph["grid"]["inputs"]["rollout"]
    settings = {
        "rule": "nft", "source": "marks", "lr": 3e-3, "steps": 4, "ref_penalty": 0.0, "batch": 4, "beta": 1.0,
        "ema_decay": 0.0, "weight_decay": 1e-4, "max_grad_norm": 1.0, "micro_batch": 0,
    }  # fmt: skip
    graph["update"] = _node("HERO_NFTUpdate", rollout=rollout, feedback=["grid", 0], **{**settings, **inputs})
    graph["save"] = _node("HERO_SaveRound", session=["session", 0], lora=["update", 1])
    return graph


def critic(graph: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    """The loop with Scores as Actions for its update."""
    update = graph["update"]["inputs"]
    settings = {"min_r2": 0.1, "critic_steps": 5, "critic_lr": 2e-3}
    return {**graph, "update": _node("HERO_ScoreActionUpdate", **{**update, **settings, **inputs})}


def any_latents(session: str, *, n: int = 8, steps: int = 6) -> dict[str, Any]:
    """Rounds drawn by the stock KSampler, with DPM++ 2M."""
    graph = forward(loop(session, n=n))
    graph["learned"] = _node("HERO_SessionModel", model=["tiny", 0], session=["session", 0])
    graph["sampler"] = _node(
        "KSampler", model=["learned", 0], positive=["positive", 0], negative=["negative", 0],
        latent_image=["latent", 0], seed=["learned", 1], steps=steps, cfg=5.0, sampler_name="dpmpp_2m",
        scheduler="karras", denoise=1.0,
    )  # fmt: skip
    graph["rated"] = _node(
        "HERO_RateLatents", model=["tiny", 0], positive=["positive", 0], negative=["negative", 0],
        latent=["sampler", 0], session=["session", 0],
    )  # fmt: skip
    for node in ("grid", "update"):
        graph[node]["inputs"]["rollout"] = ["rated", 1]
    graph["decode"]["inputs"]["samples"] = ["rated", 0]
    return graph


def stock(
    *, n: int = 4, steps: int = 4, seed: int = 1, lora: str | None = None, strength: float = 1.0, prompt: str = PROMPT,
    sampler: str = "euler_ancestral", cfg: float = 5.0,
) -> dict[str, Any]:  # fmt: skip
    """Stock nodes only, over the tiny model, with or without a LoRA file."""
    graph = {
        "tiny": _node("HERO_TinyModel"),
        "positive": _node("CLIPTextEncode", text=prompt, clip=["tiny", 1]),
        "negative": _node("CLIPTextEncode", text="", clip=["tiny", 1]),
        "latent": _node("EmptyLatentImage", width=128, height=128, batch_size=n),
        "sampler": _node(
            "KSampler", model=["tiny", 0], positive=["positive", 0], negative=["negative", 0],
            latent_image=["latent", 0], seed=seed, steps=steps, cfg=cfg, sampler_name=sampler,
            scheduler="normal", denoise=1.0,
        ),
        "decode": _node("VAEDecode", samples=["sampler", 0], vae=["tiny", 2]),
        "preview": _node("PreviewImage", images=["decode", 0]),
    }  # fmt: skip
    if lora:
        graph["lora"] = _node(
            "LoraLoader", model=["tiny", 0], clip=["tiny", 1], lora_name=lora, strength_model=strength,
            strength_clip=strength,
        )  # fmt: skip
        graph["sampler"]["inputs"]["model"] = ["lora", 0]
    return graph


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def added(graph: dict, name: str, kind: str, **inputs: Any) -> dict:
    """A copy with one more node."""
    return {**copy.deepcopy(graph), name: _node(kind, **inputs)}


def changed(graph: dict, node: str, **inputs: Any) -> dict:
    """A copy with other inputs on one node."""
    graph = copy.deepcopy(graph)
    graph[node]["inputs"].update(inputs)
    return graph


Judge = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Pictures ``(n, H, W, 3)`` uint8 to good ``(n,)`` bool and quality ``(n,)`` float."""


def blueness(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A rater for plumbing tests, who needs no trained model: the bluer half of the round is good."""
    quality = pictures[..., 2].mean((1, 2)) - pictures[..., :2].mean((1, 2, 3))
    return quality > np.median(quality), quality


def marks_of(pictures: np.ndarray, judge: Judge = blueness) -> dict[str, Any]:
    """What a rater sends after looking at a round."""
    good, quality = judge(pictures)
    labels = {str(i): "good" if g else "bad" for i, g in enumerate(good)}
    best = int(np.where(good, quality, -np.inf).argmax()) if good.any() else None
    return {"labels": labels, "best": best}


def look(server: Server, round_id: str) -> np.ndarray:
    """The round's pictures over HTTP, as a rater's script gets them: ``(n, H, W, 3)`` uint8."""
    import io

    from PIL import Image

    n = server.get(f"/hero/rounds/{round_id}")["n"]
    files = [server.get(f"/hero/rounds/{round_id}/pictures/{i}?size=full") for i in range(n)]
    return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])


def rate(server: Server, round_id: str, judge: Judge = blueness) -> dict[str, Any]:
    """Mark and submit a round over HTTP; returns its JSON."""
    rev = server.get(f"/hero/rounds/{round_id}")["rev"]
    marks = {"rev": rev, **marks_of(look(server, round_id), judge)}
    status, marked = server.request("PUT", f"/hero/rounds/{round_id}/labels", marks)
    assert status == 200, marked
    return server.post(f"/hero/rounds/{round_id}/submit", {"rev": marked["rev"]})


def history(server: Server, name: str) -> list[dict[str, Any]]:
    return json.loads((server.base / "output/hero" / name / "session.json").read_text())["history"]
