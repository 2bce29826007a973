# SPDX-License-Identifier: Apache-2.0
"""Reading a queued workflow: words by sockets and types, and what cannot run after a round."""

from __future__ import annotations

from typing import Any

import pytest

from nodes.graph import Graph, Kind, between, cannot_run, left_out, words

NODES = {
    "Loader": Kind("Load Checkpoint", {"ckpt_name": "COMBO"}, (("MODEL", "MODEL"), ("CLIP", "CLIP"), ("VAE", "VAE"))),
    "HERO_TinyModel": Kind("HERO Tiny Model", {}, (("MODEL", "MODEL"), ("CLIP", "CLIP"))),
    "LoraLoader": Kind(
        "Load LoRA", {"model": "MODEL", "clip": "CLIP", "lora_name": "COMBO", "strength_model": "FLOAT"},
        (("MODEL", "MODEL"), ("CLIP", "CLIP")),
    ),
    "Stack": Kind("LoRA Stack", {"model": "MODEL", "lora_1": "COMBO", "lora_2": "COMBO"}, (("MODEL", "MODEL"),)),
    "Merge": Kind("ModelMergeSimple", {"model1": "MODEL", "model2": "MODEL", "ratio": "FLOAT"}, (("MODEL", "MODEL"),)),
    "FreeU": Kind("FreeU", {"model": "MODEL", "b1": "FLOAT"}, (("MODEL", "MODEL"),)),
    "Encode": Kind(
        "CLIP Text Encode", {"text": "STRING", "clip": "CLIP"}, (("CONDITIONING", "CONDITIONING"),),
        texts=frozenset({"text"}),
    ),
    "EncodeFlux": Kind(
        "CLIPTextEncodeFlux", {"clip": "CLIP", "clip_l": "STRING", "t5xxl": "STRING", "guidance": "FLOAT"},
        (("CONDITIONING", "CONDITIONING"),), texts=frozenset({"clip_l", "t5xxl"}),
    ),
    "ConditioningZeroOut": Kind("Zero", {"conditioning": "CONDITIONING"}, (("CONDITIONING", "CONDITIONING"),)),
    "Area": Kind("Area", {"conditioning": "CONDITIONING", "x": "INT"}, (("CONDITIONING", "CONDITIONING"),)),
    "Combine": Kind("Combine", {"one": "CONDITIONING", "two": "CONDITIONING"}, (("CONDITIONING", "CONDITIONING"),)),
    "Switch": Kind(
        "Switch", {"one": "CONDITIONING", "two": "CONDITIONING", "index": "INT"}, (("CONDITIONING", "CONDITIONING"),)
    ),
    "ControlNet": Kind(
        "Apply ControlNet", {"positive": "CONDITIONING", "negative": "CONDITIONING", "image": "IMAGE"},
        (("CONDITIONING", "positive"), ("CONDITIONING", "negative")),
    ),
    "HERO_Sampler": Kind("HERO Sampler", {"model": "MODEL"}, (("LATENT", "latent"),)),
    "HERO_FeedbackGrid": Kind("Feedback Grid", {}, (), frozenset({"images", "rollout", "mode"})),
    "HERO_EmbeddingTrainer": Kind("Embedding Trainer", {}, (), frozenset({"rollout", "feedback"})),
    "HERO_DDPOUpdate": Kind("DDPO LoRA Update", {}, (), frozenset({"rollout", "reward"})),
    "HERO_LatentMixture": Kind("Latent Mixture", {}, (), frozenset({"rollout", "feedback"})),
    "HERO_SaveRound": Kind("Save Round", {}, (), frozenset({"session"})),
}  # fmt: skip


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def base(**more: Any) -> dict[str, Any]:
    """A sampler over a checkpoint with one LoRA, a prompt and a negative, with other nodes put in."""
    return {
        "load": node("Loader", ckpt_name="v1-5.safetensors"),
        "lora": node(
            "LoraLoader", model=["load", 0], clip=["load", 1], lora_name="ink.safetensors", strength_model=0.8
        ),
        "good": node("Encode", text="a rose", clip=["lora", 1]),
        "bad": node("Encode", text="blurred", clip=["lora", 1]),
        "sampler": node("HERO_Sampler", model=["lora", 0], positive=["good", 0], negative=["bad", 0]),
        **more,
    }


def told(**more: Any) -> dict[str, str]:
    return words(Graph(base(**more), NODES.get), "sampler")


def sampler(**inputs: Any) -> dict[str, Any]:
    return node("HERO_Sampler", **{"model": ["lora", 0], "positive": ["good", 0], "negative": ["bad", 0], **inputs})


def test_a_lora_upstream_is_no_checkpoint() -> None:
    assert told() == {
        "checkpoint": "v1-5.safetensors", "loras": "ink.safetensors (0.8)", "prompt": "a rose", "negative": "blurred",
    }  # fmt: skip
    twice = node("LoraLoader", model=["lora", 0], lora_name="b.safetensors", strength_model=-1.0, clip=["lora", 1])
    assert told(two=twice, sampler=sampler(model=["two", 0]))["loras"] == "ink.safetensors (0.8), b.safetensors (-1)"
    assert told(sampler=sampler(model=["load", 0]))["loras"] == ""


def test_a_model_through_other_nodes_keeps_its_checkpoint() -> None:
    patched = told(free=node("FreeU", model=["lora", 0], b1=1.1), sampler=sampler(model=["free", 0]))
    assert (patched["checkpoint"], patched["loras"]) == ("v1-5.safetensors", "ink.safetensors (0.8)")
    tiny = told(load=node("HERO_TinyModel"))
    assert tiny["checkpoint"] == "HERO tiny model"
    assert told(load=node("HERO_TinyModel", kind="unet"))["checkpoint"] == "HERO tiny model"
    assert told(load=node("HERO_TinyModel", kind="flow"))["checkpoint"] == "HERO tiny model (flow)"
    assert "checkpoint" not in told(load=node("HERO_TinyModel", kind=["elsewhere", 0])), "a choice that is not known"


def test_what_a_model_goes_through_is_named() -> None:
    more = {"free": node("FreeU", model=["lora", 0], b1=1.1), "sampler": sampler(model=["free", 0])}
    assert between(Graph(base(**more), NODES.get), "sampler") == ["FreeU (node free)", "Load LoRA (node lora)"]


def test_a_merge_or_a_stack_of_loras_is_not_guessed() -> None:
    merged = node("Merge", model1=["load", 0], model2=["lora", 0], ratio=0.5)
    assert not {"checkpoint", "loras"} & told(merged=merged, sampler=sampler(model=["merged", 0])).keys()
    stack = node("Stack", model=["load", 0], lora_1="a.safetensors", lora_2="b.safetensors")
    stacked = told(stack=stack, sampler=sampler(model=["stack", 0]))
    assert stacked["checkpoint"] == "v1-5.safetensors"
    assert "loras" not in stacked
    assert "checkpoint" not in told(load=node("Unknown", ckpt_name="v1-5.safetensors"))


def test_a_zeroed_negative_has_no_text() -> None:
    zeroed = told(bad=node("ConditioningZeroOut", conditioning=["good", 0]))
    assert "negative" not in zeroed
    assert zeroed["prompt"] == "a rose"


def test_a_controlnet_keeps_the_two_sides_apart() -> None:
    control = node("ControlNet", positive=["good", 0], negative=["bad", 0], image=["x", 0])
    both = told(control=control, sampler=sampler(positive=["control", 0], negative=["control", 1]))
    assert (both["prompt"], both["negative"]) == ("a rose", "blurred")


@pytest.mark.parametrize(
    ("text", "known"),
    [
        (node("PrimitiveStringMultiline", value="a rose"), "a rose"),
        (node("StringConcatenate", string_a="a", string_b=["p", 0], delimiter=" "), "a lily"),
        (node("CustomCombo", choice="a rose", index=0, option1="a rose", option2="a lily"), "a rose"),
        (node("AskALanguageModel", instruction="a rose"), None),
        (node("HERO_TinyModel"), None),
    ],
    ids=["primitive", "joined", "menu", "unknown", "any node"],
)
def test_a_prompt_over_a_link_is_followed_or_left_out(text: dict, known: str | None) -> None:
    found = told(t=text, p=node("PrimitiveString", value="lily"), good=node("Encode", text=["t", 0], clip=["load", 1]))
    assert found.get("prompt") == known
    assert found["negative"] == "blurred"


def test_encoders_with_several_texts_give_each_of_them_once() -> None:
    flux = node("EncodeFlux", clip=["load", 1], clip_l="rose", t5xxl="a red rose", guidance=3.5)
    assert told(good=flux)["prompt"] == "rose\na red rose"
    assert told(good={**flux, "inputs": {**flux["inputs"], "clip_l": "a red rose"}})["prompt"] == "a red rose"


def test_combined_prompts_are_joined_and_chosen_ones_are_not_guessed() -> None:
    area = node("Area", conditioning=["good", 0], x=0)
    combined = told(area=area, c=node("Combine", one=["area", 0], two=["bad", 0]), sampler=sampler(positive=["c", 0]))
    assert combined["prompt"] == "a rose\nblurred"
    chosen = node("Switch", one=["good", 0], two=["bad", 0], index=1)
    assert "prompt" not in told(c=chosen, sampler=sampler(positive=["c", 0]))


# -- what comes after a round ------------------------------------------------------------------------------------------


def loop(**more: Any) -> dict[str, Any]:
    nodes = {
        "session": node("HERO_Session"),
        "12:0:5": node("HERO_Sampler", session=["session", 0]),
        "grid": node("HERO_FeedbackGrid", images=["12:0:5", 0], rollout=["12:0:5", 1], mode="wait"),
        "e": node("HERO_EmbeddingTrainer", rollout=["12:0:5", 1], feedback=["grid", 0]),
        "u": node("HERO_DDPOUpdate", rollout=["12:0:5", 1], reward=["e", 0]),
        "m": node("HERO_LatentMixture", rollout=["12:0:5", 1], feedback=["grid", 0]),
        "save": node("HERO_SaveRound", session=["session", 0], reward=["e", 0], lora=["u", 1], mixture=["m", 0]),
        **more,
    }
    return {name: entry for name, entry in nodes.items() if entry}


def graph(running: set[str] | None = None, **more: Any) -> Graph:
    return Graph(loop(**more), NODES.get, frozenset(running) if running is not None else None)


@pytest.mark.parametrize("begun", ["12:0:5", "grid"])
def test_an_update_without_its_reward_is_named_before_the_first_mark(begun: str) -> None:
    assert cannot_run(graph(), begun) is None
    muted = node("HERO_DDPOUpdate", rollout=["12:0:5", 1])
    save = node("HERO_SaveRound", session=["session", 0], lora=["u", 1], mixture=["m", 0])
    broken = cannot_run(graph(e=None, u=muted, save=save), begun) or ""
    assert broken.startswith("DDPO LoRA Update (node u) cannot run: nothing comes into its reward")
    beside = cannot_run(graph(u=muted, save=node("HERO_SaveRound", session=["session", 0], mixture=["m", 0])), begun)
    assert beside is None, "it leads to no Save Round"


def test_a_save_round_with_nothing_to_save_is_named() -> None:
    empty = cannot_run(graph(e=None, u=None, m=None, save=node("HERO_SaveRound", session=["session", 0])), "12:0:5")
    assert (empty or "").startswith("Save Round (node save) has nothing to save")
    other = node("HERO_SaveRound", session=["another", 0])
    assert cannot_run(graph(other=other), "12:0:5") is None, "of another session"


def test_what_the_marks_will_not_teach_is_said() -> None:
    assert left_out(graph({"grid", "save"}), "12:0:5") == []
    assert "No Save Round follows" in left_out(graph(save=None), "12:0:5")[0]
    assert "Save Round (node save) does not run this time" in left_out(graph({"grid"}), "12:0:5")[0]
    unlearned = node("HERO_SaveRound", session=["session", 0], mixture=["m", 0])
    assert "the checkpoint learns nothing" in left_out(graph(u=None, save=unlearned), "12:0:5")[0]
