# SPDX-License-Identifier: Apache-2.0
"""What the LoRA's file says of itself: to readers of modelspec (version 1.0.0), of kohya's ``ss_*``, and of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone

COMFYUI = "https://github.com/comfyanonymous/ComfyUI"
BLOCKS_OF_DIFFUSERS = ("lora_unet_down_blocks_", "lora_unet_mid_block_", "lora_unet_up_blocks_", "transformer.")


@dataclass(frozen=True)
class Taught:
    """Of what a LoRA was made: marks of all its rounds, the session's ``description``, and of the ``model`` its
    ``architecture``, ``base`` (kohya's version), ``prediction`` and ``checkpoint_hash``, each where it is known."""

    session: str
    round: int
    seed: int
    marks: int
    good: int
    when: float
    description: Mapping[str, str] = field(default_factory=dict)
    model: Mapping[str, str] = field(default_factory=dict)
    tags: str = ""
    """The prompt and how many pictures were good for it, as kohya's readers take it: JSON."""

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return f"{self.session}_r{self.round:04d}"


def shared_metadata(taught: Taught, key: str) -> dict[str, str]:
    """The header's texts, but for what only the tensors tell; ``key`` is one of their names."""
    ours = {"session": taught.session, "round": taught.round, "marks": taught.marks, **taught.description}
    return {
        **{f"hero_{name}": str(value) for name, value in ours.items()},
        **{f"modelspec.{name}": value for name, value in _modelspec(taught, key).items() if value},
        **{f"ss_{name}": value for name, value in _kohya(taught).items() if value},
    }


def _modelspec(taught: Taught, key: str) -> dict[str, str | None]:
    model, known = taught.model, taught.description
    return {
        "sai_model_spec": "1.0.0",
        "architecture": f"{model.get('architecture', 'unknown')}/lora",
        "implementation": "diffusers" if key.startswith(BLOCKS_OF_DIFFUSERS) else COMFYUI,
        "title": f"{taught.session} round {taught.round}",
        "description": _description(taught),
        "date": datetime.fromtimestamp(int(taught.when), timezone.utc).isoformat(),
        "resolution": known.get("size", "").replace(" ", ""),
        "trigger_phrase": known.get("prompt"),
        "prediction_type": model.get("prediction"),
    }


def _kohya(taught: Taught) -> dict[str, str | None]:
    model, known = taught.model, taught.description
    base = model.get("base")
    return {
        "base_model_version": base,
        "v2": str(base.startswith("sd_v2")) if base else None,
        "sd_model_name": known.get("checkpoint"),
        "sd_model_hash": model.get("checkpoint_hash"),
        "output_name": taught.name,
        "resolution": f"({known['size'].replace(' x ', ', ')})" if "size" in known else None,
        "num_train_images": str(taught.marks),
        "tag_frequency": taught.tags,
        "seed": str(taught.seed),
        "epoch": str(taught.round),
        "training_comment": _description(taught),
        "training_finished_at": str(taught.when),
    }


def _description(taught: Taught) -> str:
    on = f" on {taught.description['checkpoint']}" if "checkpoint" in taught.description else ""
    return (
        f"Taught with HERO Feedback{on}: {taught.marks} marks on its own pictures, {taught.good} of them good, in "
        f"{taught.round} rounds."
    )
