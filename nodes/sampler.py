"""HERO Sampler: draw a round of pictures, and keep what the update needs."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..hero_core.loop import sample_round
from ..hero_core.rollout import SCORED_PARTS, SamplingSettings, ScoredPart
from .comfy_graph import queued
from .comfy_host import Notes, comfy_progress, finished_latent, normal_mode, refuse_content
from .comfy_policy import SCHEDULERS, ComfyPolicy, with_lora
from .graph import words
from .lora_update import refuse_what_updates_would
from .sockets import CATEGORY, Drawn, RolloutType, SessionType, found_by, number, one_of_each


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
                io.Int.Input("steps", default=50, min=1, max=1000, tooltip="50 in the paper; 20 for fast work."),
                number("cfg", default=5.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance: 5 in the paper."),
                number(
                    "eta", default=1.0, min=0.01, max=1.0, step=0.01,
                    tooltip="Noise added at each step. 1 is the stock euler_ancestral sampler, and the paper's choice.",
                ),
                io.Combo.Input("scheduler", options=SCHEDULERS, default="normal", tooltip="As in KSampler."),
                io.Int.Input(
                    "micro_batch", default=8, min=1, max=256,
                    tooltip="Pictures that go through the model at a time, also in the update. Less needs less VRAM.",
                ),
                io.Int.Input(
                    "scored_steps", default=5, min=1, max=100,
                    tooltip="Steps recorded for each picture (K: 5 in the paper). The update can use at most these.",
                ),
                io.Combo.Input(
                    "scored_part", options=list(SCORED_PARTS), default="all", optional=True,
                    tooltip=(
                        "Where in the sampling they lie: anywhere (all, as in the paper) or in one third of the steps. "
                        "The early ones decide what is in the picture, the late ones its details."
                    ),
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
        cls, model: Any, positive: list, negative: list, latent: dict, session: Any, steps: int, cfg: float,
        eta: float, scheduler: str, micro_batch: int, scored_steps: int = 5, scored_part: ScoredPart = "all",
    ) -> io.NodeOutput:  # fmt: skip
        settings = SamplingSettings(steps, cfg, eta, scheduler, micro_batch, scored_steps, scored_part)
        graph, node_id = queued(cls.hidden), str(cls.hidden.unique_id)
        refuse_what_updates_would(scored_steps, graph, node_id)
        refuse_content(latent)
        notes = Notes()
        with normal_mode():
            described = words(graph, node_id)
            policy = ComfyPolicy(model, positive, negative, cfg, latent, described)
            rollout = sample_round(session, policy, len(latent["samples"]), settings, comfy_progress(model), notes)
            learned = with_lora(policy.model, session.state().lora)
            finished = finished_latent(policy.model, rollout.z_0)
        return io.NodeOutput(finished, Drawn(session, policy, rollout), learned, ui=notes.ui or None)
