# SPDX-License-Identifier: Apache-2.0
"""What the LoRA's file says of itself, as other programs read it, and the picture beside it."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path

import pytest
from rounds import begin, finish, play
from safetensors import safe_open
from toy import ToyPolicy

from hero_core.metadata import Taught, shared_metadata
from hero_core.store import Session

TAUGHT = Taught(
    "rose", 7, seed=3, marks=112, good=60, when=1_700_000_000.5,
    description={"checkpoint": "some.safetensors", "prompt": "a blue rose, é", "size": "1024 x 768"},
    model={"architecture": "stable-diffusion-xl-v1-base", "base": "sdxl_base_v1-0", "prediction": "epsilon",
           "checkpoint_hash": "0123abcd"}, tags='{"rose": {"a blue rose, é": 60}}',
)  # fmt: skip
REQUIRED = ("sai_model_spec", "architecture", "implementation", "title")
"""What modelspec says must be there."""


def header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_modelspec_has_all_that_it_must_and_what_readers_show() -> None:
    found = shared_metadata(TAUGHT, "lora_unet_down_blocks_0_x.alpha")
    modelspec = {key[10:]: value for key, value in found.items() if key.startswith("modelspec.")}
    assert modelspec == {
        "sai_model_spec": "1.0.0",
        "architecture": "stable-diffusion-xl-v1-base/lora",
        "implementation": "diffusers",
        "title": "rose round 7",
        "description": "Taught with HERO Feedback on some.safetensors: 112 marks on its own pictures, 60 of them good, "
                       "in 7 rounds.",
        "date": "2023-11-14T22:13:20+00:00",
        "resolution": "1024x768",
        "trigger_phrase": "a blue rose, é",
        "prediction_type": "epsilon",
    }  # fmt: skip
    assert all(modelspec[key] for key in REQUIRED)


def test_kohyas_readers_find_base_prompt_and_network() -> None:
    found = shared_metadata(TAUGHT, "lora_unet_x.alpha")
    assert {key: found[f"ss_{key}"] for key in ("base_model_version", "v2", "sd_model_name", "sd_model_hash")} == {
        "base_model_version": "sdxl_base_v1-0", "v2": "False", "sd_model_name": "some.safetensors",
        "sd_model_hash": "0123abcd",
    }  # fmt: skip
    assert (found["ss_output_name"], found["ss_resolution"], found["ss_seed"]) == ("rose_r0007", "(1024, 768)", "3")
    assert (found["ss_num_train_images"], found["ss_epoch"]) == ("112", "7")
    assert json.loads(found["ss_tag_frequency"]) == {"rose": {"a blue rose, é": 60}}
    assert found["hero_prompt"] == "a blue rose, é"
    assert found["modelspec.implementation"].startswith("https://"), "the names are those of the model's own modules"


def test_what_is_not_known_is_left_out_and_not_made_up() -> None:
    found = shared_metadata(Taught("x", 1, seed=0, marks=2, good=1, when=0.0), "a")
    assert {key for key in found if key.startswith("modelspec.")} == {
        f"modelspec.{key}" for key in (*REQUIRED, "description", "date")
    }  # fmt: skip
    assert found["modelspec.architecture"] == "unknown/lora"
    assert not {"ss_v2", "ss_base_model_version", "ss_sd_model_name", "ss_tag_frequency"} & found.keys()
    assert all(isinstance(value, str) for value in found.values()), "the format knows texts alone"


@pytest.mark.parametrize(("base", "v2"), [("sd_v2", "True"), ("sd_v2_v", "True"), ("sd_v1", "False")])
def test_a_reader_that_asks_for_v2_is_told(base: str, v2: str) -> None:
    assert shared_metadata(Taught("x", 1, 0, 2, 1, 0.0, model={"base": base}), "a")["ss_v2"] == v2


def test_a_saved_rounds_file_tells_of_all_marks_and_its_hash_is_that_of_its_tensors(
    session: Session, policy: ToyPolicy
) -> None:
    play(session, policy)
    path = finish(session, policy, begin(session, policy)).lora_path
    assert path is not None
    found, content = header(path), path.read_bytes()
    tensors = content[8 + int.from_bytes(content[:8], "little") :]
    assert found["modelspec.hash_sha256"] == "0x" + hashlib.sha256(tensors).hexdigest()
    assert found["sshs_model_hash"] == hashlib.sha256(tensors).hexdigest()
    assert found["modelspec.architecture"] == "toy/lora"
    assert found["modelspec.trigger_phrase"] == "a toy"
    assert (found["hero_round"], found["hero_marks"], found["ss_num_train_images"]) == ("2", "16", "16")
    assert "16 marks on its own pictures, 8 of them good, in 2 rounds" in found["modelspec.description"]
    saved = datetime.fromtimestamp(session.history[-1]["saved"], timezone.utc)
    assert datetime.fromisoformat(found["modelspec.date"]) == saved.replace(microsecond=0)
    assert json.loads(found["ss_tag_frequency"]) == {"toy": {"a toy": 8}}
    assert (found["ss_network_module"], found["ss_network_dim"], found["ss_network_alpha"]) == (
        "networks.lora", "4", "4.0"
    )  # fmt: skip


# -- the picture -----------------------------------------------------------------------------------------------------


def preview(path: Path) -> Path:
    return path.with_name(path.name.replace(".safetensors", ".preview.png"))


def test_the_best_picture_lies_beside_the_file_also_where_it_is_of_an_earlier_round(
    session: Session, policy: ToyPolicy
) -> None:
    first = finish(session, policy, begin(session, policy)).lora_path
    kept = finish(session, policy, begin(session, policy, best="keep")).lora_path
    third = finish(session, policy, begin(session, policy)).lora_path
    assert first and kept and third  # noqa: PT018 - for the type checker
    best = [entry["best"] for entry in session.history]
    assert [one["round"] for one in best] == [1, 1, 3]
    for path, one in zip((first, kept, third), best, strict=True):
        assert preview(path).read_bytes() == session.round(one["round"]).picture(one["picture"]).read_bytes()
    assert preview(first).read_bytes() != preview(third).read_bytes()


def test_where_the_best_cannot_be_shown_an_older_picture_goes_and_the_round_is_saved(
    session: Session, policy: ToyPolicy
) -> None:
    rollout = begin(session, policy)
    stale = session.store.lora_dir / "toy_r0001.preview.png"
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.write_bytes(b"of a round that was learned again")
    for picture in (session.round(1).folder / "pictures").glob("*.png"):
        picture.write_bytes(b"damaged")
    path = finish(session, policy, rollout).lora_path
    assert path is not None
    assert path.is_file()
    assert not stale.exists()
    assert session.saved_round == 1
