"""Score-as-Action LoRA Update: a critic tells each sampling step which way to go, or what it was worth."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..hero_core.update.score_action import ADVANTAGES, NORMALISE, ScoreActionSettings
from .lora_update import learned, learned_outputs, policy_gradient_inputs, policy_gradient_settings
from .sockets import CATEGORY, Drawn, Rewarded, found_by, number


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
            inputs=[
                *policy_gradient_inputs(ScoreActionSettings.lr),
                io.Combo.Input(
                    "advantage", options=list(ADVANTAGES), default=ScoreActionSettings.advantage,
                    tooltip=(
                        "gradient: each step moves up the slope of the value, as far as clip lets it; learns most. The "
                        "others reward a step for what it was worth. delta: how much the value rose on it. gae: and on "
                        "the steps after it, less and less. terminal: the picture's reward less the value before."
                    ),
                ),
                number(
                    "trace", default=0.9, min=0.0, max=1.0, step=0.01,
                    tooltip="gae alone: how much each later step counts. 0 is delta, 1 is terminal.",
                ),
                io.Combo.Input(
                    "normalise", options=list(NORMALISE), default="round",
                    tooltip="Divide advantages by their spread over the round, or over each step of the schedule.",
                ),
                io.Combo.Input(
                    "kl_as", options=["penalty", "reward"], default="penalty",
                    tooltip="kl as a penalty in the loss, or as a cost of each step that the critic learns too.",
                ),
                number(
                    "min_r2", default=0.1, min=-10.0, max=1.0, step=0.01,
                    tooltip=(
                        "The critic is used where it explains this share of the rewards of pictures that it has not "
                        "learned from: 0.1. Else the round learns as DDPO does."
                    ),
                ),
                io.Int.Input("critic_steps", default=60, min=1, max=100000, tooltip="Critic: training steps a round."),
                number(
                    "critic_lr", default=4e-3, min=1e-8, max=1.0, step=1e-5, round=False,
                    tooltip="Critic: learning rate.",
                ),
                io.Int.Input("critic_width", default=16, min=1, max=512, tooltip="Critic: channels."),
                io.Int.Input(
                    "replay", default=0, min=0, max=1000,
                    tooltip="Critic: how many earlier rounds to go on learning from. Each is kept with the session.",
                ),
            ],
            outputs=learned_outputs(),
        )  # fmt: skip

    @classmethod
    def execute(cls, rollout: Drawn, reward: Rewarded, **widgets: Any) -> io.NodeOutput:
        settings = ScoreActionSettings(**policy_gradient_settings(rollout, reward, widgets))
        return learned(rollout, reward.result, settings)
