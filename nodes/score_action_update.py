# SPDX-License-Identifier: Apache-2.0
"""Score-as-Action LoRA Update: a critic tells each sampling step which way to go, or what it was worth."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..hero_core.update.score_action import ScoreActionSettings
from .lora_update import learned, learned_outputs, policy_gradient_inputs
from .sockets import CATEGORY, Drawn, Rewarded, found_by, same_round


class HERO_ScoreActionUpdate(io.ComfyNode):
    """Train the LoRA on one round, step by step."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HERO_ScoreActionUpdate",
            display_name="Score-as-Action LoRA Update",
            category=CATEGORY,
            **found_by("train lora", "reinforcement learning", "RLHF", "critic", "value function", "Scores as Actions"),
            description=(
                "Trains the LoRA as DDPO LoRA Update does, but a small critic learns the worth of unfinished pictures "
                "and tells each sampling step which way it rises, where DDPO gives all steps the worth of the finished "
                "picture. A critic that explains nothing is not used, and the round's report says so."
            ),
            inputs=policy_gradient_inputs(ScoreActionSettings, "min_r2", "critic_steps", "critic_lr"),
            outputs=learned_outputs(),
        )

    @classmethod
    def execute(cls, rollout: Drawn, reward: Rewarded, **chosen: Any) -> io.NodeOutput:
        same_round(rollout, reward.drawn, "reward")
        return learned(rollout, reward.result, ScoreActionSettings(**chosen))
