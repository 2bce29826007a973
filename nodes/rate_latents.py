# SPDX-License-Identifier: Apache-2.0
"""Rate Any Latents: a round made of the pictures of any workflow."""

from __future__ import annotations

from functools import partial
from typing import Any

from comfy_api.latest import io

from ..hero_core.loop import rate_latents
from ..hero_core.rollout import DRAWN, SamplingSettings
from .comfy_graph import queued
from .comfy_host import Notes, finished_latent, latents_in, normal_mode, unframed
from .comfy_policy import ComfyPolicy
from .comfy_probe import refuse_what_does_not_repeat
from .graph import between, words
from .lora_update import refuse_what_updates_would
from .sockets import CATEGORY, Drawn, RolloutType, SessionType, found_by, one_of_each


class HERO_RateLatents(io.ComfyNode):
    """Take finished latents as the open round."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HERO_RateLatents",
            display_name="Rate Any Latents",
            category=CATEGORY,
            **found_by("rate", "human feedback", "KSampler"),
            description=(
                "Makes a round of the latents of any sampler, so that Forward-Process LoRA Update can learn from the "
                "marks on them. A round that has marks keeps its pictures until it is saved."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The checkpoint to teach, without the session's LoRA."),
                io.Conditioning.Input("positive", tooltip="The prompt that the LoRA is trained with."),
                io.Conditioning.Input("negative", tooltip="What you do not want. Fixed once the session has begun."),
                io.Latent.Input("latent", tooltip="Finished latents, one picture each."),
                SessionType.Input("session", tooltip="Where the rounds are kept."),
                io.Noise.Input(
                    "noise", optional=True,
                    tooltip="The NOISE that the sampler took, if you want Latent Mixture to refine it.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The round's pictures: wire into VAE Decode."),
                RolloutType.Output(display_name="rollout", tooltip="The round, for the other HERO nodes."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id, io.Hidden.dynprompt],
            is_input_list=True,
        )  # fmt: skip

    @classmethod
    @one_of_each
    def execute(
        cls, model: Any, positive: list, negative: list, latent: dict, session: Any, noise: Any = None
    ) -> io.NodeOutput:
        graph, node_id = queued(cls.hidden), str(cls.hidden.unique_id)
        refuse_what_updates_would(session, 0, graph, node_id)
        notes = Notes()
        with normal_mode():
            policy = ComfyPolicy(model, positive, negative, latent, words(graph, node_id))
            settings = SamplingSettings(steps=1, cfg=1.0, scored_steps=1)
            look = partial(refuse_what_does_not_repeat, policy, session, DRAWN, settings.cfg, between(graph, node_id))
            z_0 = latents_in(policy.model, latent)
            z_T = unframed(policy.model.model, noise.generate_noise(latent).float()) if noise is not None else None
            rollout = rate_latents(session, policy, z_0, settings, z_T, notes, look)
            finished = finished_latent(policy.model, rollout.z_0)
        return io.NodeOutput(finished, Drawn(session, policy, rollout), ui=notes.ui or None)
