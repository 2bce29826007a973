# SPDX-License-Identifier: Apache-2.0
"""Session Model: what a stock sampler needs to draw a session's next round."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..hero_core import seeding
from .comfy_host import normal_mode
from .comfy_policy import with_lora
from .latent_mixture import MixtureNoise
from .sockets import CATEGORY, SessionType, found_by


class HERO_SessionModel(io.ComfyNode):
    """The checkpoint with the session's LoRA as learned so far, and the round's seed and noise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HERO_SessionModel",
            display_name="Session Model",
            category=CATEGORY,
            **found_by("current lora", "lora so far", "human feedback"),
            description=(
                "For drawing rounds with stock samplers: the checkpoint with the LoRA as learned so far, and a seed "
                "that is new in every round."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The checkpoint to teach. It is never changed."),
                SessionType.Input("session", tooltip="Whose LoRA."),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The checkpoint with the LoRA so far: for KSampler."),
                io.Int.Output(display_name="seed", tooltip="The round's seed: for KSampler."),
                io.Noise.Output(
                    display_name="noise", tooltip="The round's noise, refined if Latent Mixture was saved: for "
                    "SamplerCustomAdvanced and for Rate Any Latents.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: Any, session: Any) -> io.NodeOutput:
        with normal_mode():
            state = session.state()
            learned = with_lora(model, state.lora)
        seed = seeding.seed_for(session.settings.seed, session.open_round, "KSampler") >> 10  # as the browser counts
        return io.NodeOutput(learned, seed, MixtureNoise(state.mixture, seed))
