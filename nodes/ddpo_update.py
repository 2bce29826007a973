# SPDX-License-Identifier: Apache-2.0
"""DDPO LoRA Update: make rewarded pictures likelier."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..hero_core.update.ddpo import DDPOSettings
from .lora_update import learned, learned_outputs, policy_gradient_inputs
from .sockets import CATEGORY, Drawn, Rewarded, found_by, same_round


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
            inputs=policy_gradient_inputs(DDPOSettings),
            outputs=learned_outputs(),
        )

    @classmethod
    def execute(cls, rollout: Drawn, reward: Rewarded, **chosen: Any) -> io.NodeOutput:
        same_round(rollout, reward.drawn, "reward")
        return learned(rollout, reward.result, DDPOSettings(**chosen))
