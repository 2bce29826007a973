# SPDX-License-Identifier: Apache-2.0
"""Forward-Process LoRA Update: learn from the finished pictures and their marks alone."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..hero_core.preference import reward_of_marks
from ..hero_core.update.forward import RULE
from ..hero_core.update.goods import GoodsSettings
from ..hero_core.update.nft import NFTSettings
from .comfy_host import normal_mode
from .lora_update import check_source, learned, learned_outputs
from .sockets import (
    CATEGORY,
    Drawn,
    FeedbackType,
    Rated,
    Rewarded,
    RewardType,
    RolloutType,
    found_by,
    same_round,
)
from .widgets import widget, widgets


class HERO_NFTUpdate(io.ComfyNode):
    """Train the LoRA on one round without its steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HERO_NFTUpdate",
            display_name="Forward-Process LoRA Update",
            category=CATEGORY,
            **found_by("train lora", "DiffusionNFT", "finetune", "human feedback", "RLHF"),
            description=(
                "Trains the LoRA on the finished pictures: adds noise to them again, and moves the model towards the "
                "good ones and away from the bad ones. Needs no recorded steps, so the pictures may come from any "
                "sampler. A round that teaches nothing leaves the LoRA as it was and says so."
            ),
            inputs=[
                RolloutType.Input("rollout", tooltip="From HERO Sampler or Rate Any Latents."),
                FeedbackType.Input("feedback", tooltip="From Feedback Grid."),
                widget("rule", RULE),
                *widgets(
                    NFTSettings, "source", "lr", "steps", "ref_penalty",
                    more=("batch", "beta", "ema_decay", "weight_decay", "max_grad_norm", "micro_batch"),
                ),
                RewardType.Input(
                    "reward", optional=True, tooltip="From Embedding Trainer; for source embedding and both."
                ),
            ],
            outputs=learned_outputs(),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, rollout: Drawn, feedback: Rated, rule: str, beta: float, reward: Rewarded | None = None, **chosen: Any
    ) -> io.NodeOutput:
        same_round(rollout, feedback.drawn, "feedback")
        if reward is not None:
            same_round(rollout, reward.drawn, "reward")
        RULE.check("rule", rule)
        settings = NFTSettings(**chosen, beta=beta) if rule == "nft" else GoodsSettings(**chosen)
        check_source(settings.source, rewarded=reward is not None)
        with normal_mode():
            rewarded = reward.result if reward else reward_of_marks(rollout.rollout, feedback.feedback)
        return learned(rollout, rewarded, settings)
