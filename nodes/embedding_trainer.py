# SPDX-License-Identifier: Apache-2.0
"""Embedding Trainer: learn from the marks what the person likes, and reward every picture by it."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..hero_core import report
from ..hero_core.embedding import EmbeddingSettings
from ..hero_core.loop import learn_reward
from ..hero_core.reward import REWARD_MODE, RewardMode
from .comfy_host import comfy_progress, normal_mode, training_device
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


class HERO_EmbeddingTrainer(io.ComfyNode):
    """Train the embedding on one round's marks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HERO_EmbeddingTrainer",
            display_name="Embedding Trainer",
            category=CATEGORY,
            **found_by("reward model", "human feedback"),
            description=(
                "Trains a small network on the marks (best and goods close together, bads far away) and rewards every "
                "picture of the round by how near it lies to the best."
            ),
            inputs=[
                RolloutType.Input("rollout", tooltip="From HERO Sampler."),
                FeedbackType.Input("feedback", tooltip="From Feedback Grid."),
                widget("reward_mode", REWARD_MODE),
                *widgets(EmbeddingSettings, "steps", more=("lr", "margin")),
            ],
            outputs=[
                RewardType.Output(display_name="reward", tooltip="For DDPO LoRA Update and Save Round."),
                io.Image.Output(display_name="map", tooltip="The embedding as a map, and the rewards."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, rollout: Drawn, feedback: Rated, reward_mode: RewardMode, **chosen: Any) -> io.NodeOutput:
        same_round(rollout, feedback.drawn, "feedback")
        settings = EmbeddingSettings(**chosen)
        with normal_mode(grad=True):
            result = learn_reward(
                rollout.session, rollout.rollout, feedback.feedback, settings, reward_mode,
                device=training_device(), progress=comfy_progress(),
            )  # fmt: skip
        return io.NodeOutput(Rewarded(rollout, result), report.to_batch(report.embedding_map(result)))
