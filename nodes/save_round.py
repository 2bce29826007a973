# SPDX-License-Identifier: Apache-2.0
"""Save Round: the one step that changes the session."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..hero_core import loop, report
from ..hero_core.errors import HeroError
from .comfy_host import Notes, normal_mode
from .server import announce, lora_name
from .sockets import (
    CATEGORY,
    LoRAType,
    Mixed,
    MixtureType,
    Rewarded,
    RewardType,
    SessionType,
    Updated,
    found_by,
    one_of_each,
)


class HERO_SaveRound(io.ComfyNode):
    """Write the round and begin the next."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HERO_SaveRound",
            display_name="Save Round",
            category=CATEGORY,
            **found_by("save lora", "human feedback"),
            description=(
                "Writes all that the round taught, and the LoRA to models/loras/hero, where the stock LoRA loader "
                "lists it, with the best picture beside it. Queue again for the next round."
            ),
            inputs=[
                SessionType.Input("session", tooltip="The session of the round."),
                RewardType.Input("reward", optional=True, tooltip="From Embedding Trainer."),
                LoRAType.Input("lora", optional=True, tooltip="From DDPO LoRA Update. Without: noise guidance only."),
                MixtureType.Input("mixture", optional=True, tooltip="From Latent Mixture. Without: fresh noise."),
            ],
            outputs=[
                io.String.Output(display_name="lora_name", tooltip="The LoRA's name as LoraLoader lists it."),
                io.Image.Output(display_name="report", tooltip="The session so far, as curves."),
            ],
            is_output_node=True,
            is_input_list=True,
        )

    @classmethod
    @one_of_each
    def execute(
        cls, session: Any, reward: Rewarded | None = None, lora: Updated | None = None, mixture: Mixed | None = None
    ) -> io.NodeOutput:
        _check(session, [part for part in (reward, lora, mixture) if part is not None])
        with normal_mode():
            saved = loop.save_round(
                session, reward and reward.result, lora and lora.result, mixture and mixture.mixture
            )
        announce(session.round(saved.round))
        notes = Notes()
        if sentence := _told(saved, lora is not None, mixture is not None and mixture.mixture is not None):
            notes(sentence)
        name = lora_name(saved.lora_path) if saved.lora_path else ""
        picture = report.to_batch(report.curves(session.name, session.history))
        return io.NodeOutput(name, picture, ui={"hero_saved": [session.round(saved.round).id], **notes.ui})


def _told(saved: loop.SavedRound, learned: bool, refined: bool) -> str | None:
    """What the round did not teach, and why; None where it taught all it can."""
    said = [
        saved.metrics["skip"],
        None if learned else "No LoRA update was wired in: the checkpoint's LoRA is as it was.",
        None if refined else "There is no mixture: the next round starts from fresh noise.",
    ]
    sentences = [sentence for sentence in said if sentence]
    return " ".join([f"Round {saved.round} is saved.", *sentences]) if sentences else None


def _check(session: Any, parts: list) -> None:
    if not parts:
        raise HeroError("Save Round has nothing to save: wire a reward, a lora or a mixture into it.")
    for part in parts:
        if part.drawn.key != (session.name, session.open_round):
            name, number = part.drawn.key
            raise HeroError(
                f"What is wired here belongs to round {number} of session {name!r}, and session {session.name!r} is at "
                f"round {session.open_round}. Queue again to draw that round."
            )
