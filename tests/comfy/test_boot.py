"""The pack loads into a real ComfyUI and shows what it should."""

from __future__ import annotations

from tests.comfy.host import Server

SOCKETS = {
    "HERO_TinyModel": ([], ["MODEL", "CLIP", "VAE"]),
    "HERO_Session": (["name", "seed", "rank", "alpha"], ["HERO_SESSION"]),
    "HERO_Sampler": (
        ["model", "positive", "negative", "latent", "session", "steps", "cfg", "eta", "scheduler", "micro_batch",
         "scored_steps", "scored_part"],
        ["LATENT", "HERO_ROLLOUT", "MODEL"],
    ),
    "HERO_FeedbackGrid": (["images", "rollout", "mode", "labels"], ["HERO_FEEDBACK", "IMAGE", "IMAGE"]),
    "HERO_EmbeddingTrainer": (
        ["rollout", "feedback", "steps", "lr", "margin", "reward_mode"], ["HERO_REWARD", "IMAGE"]
    ),
    "HERO_DDPOUpdate": (
        ["rollout", "reward", "lr", "K", "batch", "accumulation", "clip", "weight_decay", "advantage_clip",
         "max_grad_norm", "epochs", "kl", "kl_target"],
        ["MODEL", "HERO_LORA"],
    ),
    "HERO_LatentMixture": (["rollout", "feedback", "beta", "eps0"], ["HERO_MIXTURE", "NOISE"]),
    "HERO_SaveRound": (["session", "reward", "lora", "mixture"], ["STRING", "IMAGE"]),
    "HERO_NFTUpdate": (
        ["rollout", "feedback", "rule", "lr", "steps", "batch", "beta", "source", "replay", "replay_weight", "pull",
         "average", "weight_decay", "max_grad_norm", "reward"],
        ["MODEL", "HERO_LORA"],
    ),
    "HERO_RateLatents": (
        ["model", "positive", "negative", "latent", "session", "micro_batch", "noise"], ["LATENT", "HERO_ROLLOUT"]
    ),
    "HERO_SessionModel": (["model", "session"], ["MODEL", "INT", "NOISE"]),
    "HERO_ScoreActionUpdate": (
        ["rollout", "reward", "lr", "K", "batch", "accumulation", "clip", "weight_decay", "advantage_clip",
         "max_grad_norm", "epochs", "kl", "kl_target", "advantage", "trace", "normalise", "kl_as", "min_r2",
         "critic_steps", "critic_lr", "critic_width", "replay"],
        ["MODEL", "HERO_LORA"],
    ),
}  # fmt: skip
"""Shared workflow files hold these names and this order: they are for ever. New inputs go last, with a default."""

SHOWN = {
    "HERO_TinyModel": "HERO Tiny Model", "HERO_Session": "HERO Session", "HERO_Sampler": "HERO Sampler",
    "HERO_FeedbackGrid": "Feedback Grid", "HERO_EmbeddingTrainer": "Embedding Trainer",
    "HERO_DDPOUpdate": "DDPO LoRA Update", "HERO_LatentMixture": "Latent Mixture", "HERO_SaveRound": "Save Round",
    "HERO_NFTUpdate": "Forward-Process LoRA Update", "HERO_RateLatents": "Rate Any Latents",
    "HERO_SessionModel": "Session Model", "HERO_ScoreActionUpdate": "Score-as-Action LoRA Update",
}  # fmt: skip


def _ours(comfy: Server) -> dict:
    return {name: info for name, info in comfy.get("/object_info").items() if name.startswith("HERO_")}


def test_the_nodes_have_their_ids_sockets_and_widget_order(comfy: Server) -> None:
    found = {}
    for name, info in _ours(comfy).items():
        order = [key for group in ("required", "optional") for key in info["input_order"].get(group, [])]
        found[name] = (order, info["output"])
    assert found == SOCKETS


def test_every_input_and_output_has_a_tooltip_and_every_node_a_description(comfy: Server) -> None:
    for name, info in _ours(comfy).items():
        assert info["description"], name
        assert info["display_name"] == SHOWN[name]
        assert info["category"] == "HERO"
        assert all(info["output_tooltips"]), name
        for group in ("required", "optional"):
            for key, spec in info["input"].get(group, {}).items():
                assert spec[1].get("tooltip"), (name, key)


def test_seeds_are_not_changed_by_the_browser_after_each_run(comfy: Server) -> None:
    seed = _ours(comfy)["HERO_Session"]["input"]["required"]["seed"][1]
    assert seed["control_after_generate"] is False


def test_the_pack_loads_without_a_complaint(comfy: Server) -> None:
    log = comfy.log.read_text()
    assert "IMPORT FAILED" not in log
    assert "Traceback" not in log.split("Starting server")[0]


def test_the_rating_routes_are_mounted(comfy: Server) -> None:
    assert "sessions" in comfy.get("/hero/sessions")
    assert b"<" in comfy.get("/hero/")
