"""DDPO LoRA Update: make rewarded pictures likelier."""

from __future__ import annotations

from comfy_api.latest import io

from ..hero_core.update.ddpo import DDPOSettings
from .lora_update import learned, learned_outputs
from .sockets import CATEGORY, Drawn, Rewarded, RewardType, RolloutType, found_by, number, same_round


class HERO_DDPOUpdate(io.ComfyNode):
    """Train the LoRA on one round."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HERO_DDPOUpdate",
            display_name="DDPO LoRA Update",
            category=CATEGORY,
            **found_by("train lora", "reinforcement learning", "RLHF", "policy gradient"),
            description=(
                "Trains the LoRA by policy gradient on the recorded steps of the round. A round that teaches nothing "
                "(no good picture, or marks that cannot be told apart) leaves the LoRA as it was and says so."
            ),
            inputs=[
                RolloutType.Input("rollout", tooltip="From HERO Sampler."),
                RewardType.Input("reward", tooltip="From Embedding Trainer."),
                number(
                    "lr", default=3e-4, min=1e-8, max=1.0, step=1e-5, round=False, tooltip="Learning rate: 3e-4."
                ),
                io.Int.Input(
                    "K", default=5, min=1, max=100,
                    tooltip="Steps used of each picture: 5. At most as many as HERO Sampler's scored_steps.",
                ),
                io.Int.Input("batch", default=2, min=1, max=256, tooltip="Pictures in a batch: 2."),
                io.Int.Input(
                    "accumulation", default=4, min=1, max=256,
                    tooltip="Batches in one optimiser step: 4. 64 pictures then give 8 optimiser steps a round.",
                ),
                number(
                    "clip", default=1e-4, min=1e-8, max=1.0, step=1e-5, round=False,
                    tooltip="How far the probability of a step may move (1e-4; averaged over the latent).",
                ),
                number(
                    "weight_decay", default=1e-4, min=0.0, max=1.0, step=1e-5, round=False, tooltip="AdamW: 1e-4."
                ),
                number(
                    "advantage_clip", default=5.0, min=0.1, max=100.0, step=0.1,
                    tooltip="Rewards farther than this many standard deviations from the mean count as this far: 5.",
                ),
                number(
                    "max_grad_norm", default=1.0, min=0.001, max=100.0, step=0.01, tooltip="Gradient clipping: 1."
                ),
                io.Int.Input("epochs", default=1, min=1, max=100, tooltip="Passes over the round: 1."),
            ],
            outputs=learned_outputs(),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, rollout: Drawn, reward: Rewarded, lr: float, K: int, batch: int, accumulation: int, clip: float,
        weight_decay: float, advantage_clip: float, max_grad_norm: float, epochs: int,
    ) -> io.NodeOutput:  # fmt: skip
        same_round(rollout, reward.drawn, "reward")
        settings = DDPOSettings(
            lr=lr, weight_decay=weight_decay, batch=batch, accumulation=accumulation, clip=clip,
            advantage_clip=advantage_clip, max_grad_norm=max_grad_norm, epochs=epochs, scored_steps=K,
        )  # fmt: skip
        return learned(rollout, reward.result, settings)
