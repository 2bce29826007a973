"""Embedding Trainer: learn from the marks what the person likes, and reward every picture by it."""

from __future__ import annotations

from comfy_api.latest import io

from ..hero_core import report
from ..hero_core.embedding import EmbeddingSettings
from ..hero_core.loop import learn_reward
from ..hero_core.reward import REWARD_MODES
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
    number,
    same_round,
)


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
                io.Int.Input(
                    "steps", default=500, min=0, max=100000, tooltip="Training steps a round; 5000 in the paper's runs."
                ),
                number(
                    "lr", default=1e-5, min=1e-8, max=1.0, step=1e-6, round=False, tooltip="Learning rate: 1e-5."
                ),
                number(
                    "margin", default=0.5, min=0.0, max=1.0, step=0.01,
                    tooltip="How much farther from the best a bad picture shall lie than a good one: 0.5.",
                ),
                io.Combo.Input(
                    "reward_mode", options=list(REWARD_MODES), default="best",
                    tooltip=(
                        "best: similarity to the best (the paper). goods: to all goods. projected: to the best, in the "
                        "space that training pulls apart. binary: the marks themselves. latent: similarity to the best "
                        "without the network."
                    ),
                ),
            ],
            outputs=[
                RewardType.Output(display_name="reward", tooltip="For DDPO LoRA Update and Save Round."),
                io.Image.Output(display_name="map", tooltip="The embedding as a map, and the rewards."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, rollout: Drawn, feedback: Rated, steps: int, lr: float, margin: float, reward_mode: str
    ) -> io.NodeOutput:
        same_round(rollout, feedback.drawn, "feedback")
        settings = EmbeddingSettings(steps, lr, margin)
        with normal_mode(grad=True):
            result = learn_reward(
                rollout.session, rollout.rollout, feedback.feedback, settings, reward_mode,
                device=training_device(), progress=comfy_progress(),
            )  # fmt: skip
        return io.NodeOutput(Rewarded(rollout, result), report.to_batch(report.embedding_map(result)))
