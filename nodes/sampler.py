# SPDX-License-Identifier: Apache-2.0
"""HERO Sampler: draw a round of pictures, and keep what the update needs."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..hero_core.loop import sample_round
from ..hero_core.rollout import SamplingSettings
from .comfy_graph import queued
from .comfy_host import Notes, comfy_progress, finished_latent, normal_mode, refuse_content
from .comfy_memory import rows_to_draw
from .comfy_policy import SCHEDULERS, ComfyPolicy, with_lora
from .comfy_probe import refuse_what_does_not_repeat
from .graph import between, words
from .lora_update import learns_from_steps, refuse_what_updates_would
from .sockets import CATEGORY, Drawn, RolloutType, SessionType, found_by, one_of_each
from .widgets import widgets


class HERO_Sampler(io.ComfyNode):
    """Draw the open round, or bring it back from the disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HERO_Sampler",
            display_name="HERO Sampler",
            category=CATEGORY,
            **found_by("RLHF sampler", "human feedback sampler", "euler ancestral"),
            description=(
                "Draws the round's pictures with the current LoRA from the refined noise (an ancestral Euler sampler), "
                "and records the few steps that the update learns from. A round that was drawn before comes back from "
                "disk. Batch size of the latent = pictures a round."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The checkpoint to teach. It is never changed."),
                io.Conditioning.Input("positive", tooltip="What you want to see. Fixed once the session has begun."),
                io.Conditioning.Input("negative", tooltip="What you do not want. Fixed once the session has begun."),
                io.Latent.Input(
                    "latent", tooltip="An Empty Latent Image: its size, and its batch as the number of pictures."
                ),
                SessionType.Input("session", tooltip="Where the rounds are kept."),
                *widgets(
                    SamplingSettings, "steps", "cfg", "scheduler", "micro_batch",
                    more=("eta", "scored_steps", "scored_part"), scheduler=SCHEDULERS,
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The finished pictures: wire into VAE Decode."),
                RolloutType.Output(display_name="rollout", tooltip="The recorded round, for the other HERO nodes."),
                io.Model.Output(display_name="model", tooltip="The checkpoint with the LoRA as learned so far."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id, io.Hidden.dynprompt],
            is_input_list=True,
        )  # fmt: skip

    @classmethod
    @one_of_each
    def execute(
        cls, model: Any, positive: list, negative: list, latent: dict, session: Any, **chosen: Any
    ) -> io.NodeOutput:
        settings, graph, node_id = SamplingSettings(**chosen), queued(cls.hidden), str(cls.hidden.unique_id)
        refuse_what_updates_would(session, settings.scored_steps, graph, node_id)
        refuse_content(latent)
        notes = Notes()
        with normal_mode():
            policy = ComfyPolicy(model, positive, negative, latent, words(graph, node_id))
            n, progress = len(latent["samples"]), comfy_progress(model)

            def look() -> int:
                rows = rows_to_draw(policy, session, n, settings, notes)
                refuse_what_does_not_repeat(policy, session, rows, settings.cfg, between(graph, node_id))
                return rows

            scored = learns_from_steps(graph, node_id)
            rollout = sample_round(session, policy, n, settings, progress, notes, look, scored)
            learned = with_lora(policy.model, session.state().lora)
            finished = finished_latent(policy.model, rollout.z_0)
        return io.NodeOutput(finished, Drawn(session, policy, rollout), learned, ui=notes.ui or None)
