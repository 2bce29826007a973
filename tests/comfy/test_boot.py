# SPDX-License-Identifier: Apache-2.0
"""The pack loads into a real ComfyUI and shows what it should."""

from __future__ import annotations

from tests.comfy.host import Server
from tests.widgets import FIRST, NODES

OUTPUTS = {
    "HERO_TinyModel": ["MODEL", "CLIP", "VAE"],
    "HERO_Session": ["HERO_SESSION"],
    "HERO_Sampler": ["LATENT", "HERO_ROLLOUT", "MODEL"],
    "HERO_FeedbackGrid": ["HERO_FEEDBACK", "IMAGE", "IMAGE"],
    "HERO_EmbeddingTrainer": ["HERO_REWARD", "IMAGE"],
    "HERO_DDPOUpdate": ["MODEL", "HERO_LORA"],
    "HERO_LatentMixture": ["HERO_MIXTURE", "NOISE"],
    "HERO_SaveRound": ["STRING", "IMAGE"],
    "HERO_NFTUpdate": ["MODEL", "HERO_LORA"],
    "HERO_RateLatents": ["LATENT", "HERO_ROLLOUT"],
    "HERO_SessionModel": ["MODEL", "INT", "NOISE"],
    "HERO_ScoreActionUpdate": ["MODEL", "HERO_LORA"],
}
"""What comes out of each node, in order; what goes in is in tests/widgets.py. Both are for ever."""

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
    assert found == {name: (node.inputs, OUTPUTS[name]) for name, node in NODES.items()}


def test_what_the_host_serves_is_what_the_settings_say(comfy: Server) -> None:
    """Default, range, step, choices and words of every widget stand once, beside the field of the settings class."""
    told = 0
    for name, info in _ours(comfy).items():
        for widget, setting in NODES[name].settings.items():
            kind, served = {**info["input"]["required"], **info["input"].get("optional", {})}[widget]
            choices = kind if isinstance(kind, list) else served.get("options")
            assert (served["default"], served["tooltip"]) == (setting.default, setting.help), (name, widget)
            if isinstance(setting.default, str):
                assert tuple(choices or ()) == setting.choices or widget == "scheduler", (name, widget)
            else:
                assert (served["min"], served["max"]) == setting.offers, (name, widget)
                assert served.get("step", 1) == (setting.step or 1), (name, widget)
            told += 1
    assert told > 45


def test_somebody_who_begins_sees_few_widgets(comfy: Server) -> None:
    """The rest is marked as advanced, where this ComfyUI has that."""
    knows = not comfy.checkout.oldest
    for name, info in _ours(comfy).items():
        inputs = {**info["input"]["required"], **info["input"].get("optional", {})}
        asked = {key for key, spec in inputs.items() if spec[1].get("advanced")}
        folded = {*NODES[name].advanced, *NODES[name].later, *(["labels"] if "labels" in inputs else [])}
        assert asked == (folded if knows else set()), name
        assert len(NODES[name].widgets) <= FIRST


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
