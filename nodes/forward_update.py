"""Forward-Process LoRA Update: learn from the finished pictures and their marks alone."""

from __future__ import annotations

from comfy_api.latest import io

from ..hero_core.errors import HeroError
from ..hero_core.preference import reward_of_marks
from ..hero_core.update.common import OptimizerSettings
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
    number,
    same_round,
)


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
                io.Combo.Input(
                    "rule", options=["nft", "goods"], default="nft",
                    tooltip=(
                        "nft: towards the goods and away from the bads (DiffusionNFT). goods: finetuning on the goods "
                        "alone, simpler, for a few rounds: then the pictures fade."
                    ),
                ),
                number(
                    "lr", default=3e-3, min=1e-8, max=1.0, step=1e-5, round=False, tooltip="Learning rate: 3e-3."
                ),
                io.Int.Input("steps", default=80, min=1, max=100000, tooltip="Optimiser steps a round: 80."),
                io.Int.Input("batch", default=8, min=1, max=4096, tooltip="Noised pictures in one optimiser step: 8."),
                number(
                    "beta", default=1.0, min=0.01, max=10.0, step=0.01,
                    tooltip="nft alone: how far from the model that drew the pictures the two sides are compared: 1.",
                ),
                io.Combo.Input(
                    "source", options=["marks", "embedding", "both"], default="marks",
                    tooltip=(
                        "What says how good a picture is: the marks, the reward of Embedding Trainer, or the marks "
                        "where there are any and the reward elsewhere."
                    ),
                ),
                io.Int.Input(
                    "replay", default=0, min=0, max=1000, tooltip="How many earlier rounds to learn from as well: 0."
                ),
                number(
                    "replay_weight", default=1.0, min=0.0, max=10.0, step=0.01,
                    tooltip="How much a picture of an earlier round counts beside one of this round.",
                ),
                number(
                    "pull", default=0.0, min=0.0, max=1000.0, step=0.01,
                    tooltip=(
                        "Weight of staying near the checkpoint: 0. More keeps its look and its variety and learns "
                        "less; try 0.3."
                    ),
                ),
                number(
                    "average", default=0.0, min=0.0, max=0.999, step=0.01,
                    tooltip=(
                        "Keep a slow average of the LoRA, this share of the old one each round: 0 is off. 0.5 learns a "
                        "little slower and keeps more variety in rounds of 16 pictures."
                    ),
                ),
                number(
                    "weight_decay", default=1e-4, min=0.0, max=1.0, step=1e-5, round=False, tooltip="AdamW: 1e-4."
                ),
                number(
                    "max_grad_norm", default=1.0, min=0.001, max=100.0, step=0.01, tooltip="Gradient clipping: 1."
                ),
                RewardType.Input(
                    "reward", optional=True, tooltip="From Embedding Trainer; for source embedding and both."
                ),
            ],
            outputs=learned_outputs(),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, rollout: Drawn, feedback: Rated, rule: str, lr: float, steps: int, batch: int, beta: float, source: str,
        replay: int, replay_weight: float, pull: float, average: float, weight_decay: float, max_grad_norm: float,
        reward: Rewarded | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        same_round(rollout, feedback.drawn, "feedback")
        if reward is not None:
            same_round(rollout, reward.drawn, "reward")
        check_source(source, rewarded=reward is not None)
        shared = {
            "lr": lr, "steps": steps, "batch": batch, "source": source, "replay": replay, "pull": pull,
            "replay_weight": replay_weight, "average": average, "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm,
        }  # fmt: skip
        if rule not in ("nft", "goods"):
            raise HeroError(f"rule is {rule!r}; it is 'nft' or 'goods'.")
        settings: OptimizerSettings = NFTSettings(**shared, beta=beta) if rule == "nft" else GoodsSettings(**shared)
        with normal_mode():
            rewarded = reward.result if reward else reward_of_marks(rollout.rollout, feedback.feedback)
        return learned(rollout, rewarded, settings)
