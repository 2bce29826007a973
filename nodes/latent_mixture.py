# SPDX-License-Identifier: Apache-2.0
"""Latent Mixture: noise near that of the pictures the person liked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..hero_core import seeding
from ..hero_core.loop import next_mixture
from ..hero_core.mixture import Mixture, MixtureSettings
from .comfy_host import normal_mode
from .sockets import CATEGORY, Drawn, FeedbackType, Mixed, MixtureType, Rated, RolloutType, found_by, same_round
from .widgets import widgets


class MixtureNoise:
    """ComfyUI's NOISE over a mixture: works in SamplerCustomAdvanced and everything else that takes NOISE."""

    def __init__(self, mixture: Mixture | None, seed: int) -> None:
        self.mixture, self.seed = mixture, seed

    def generate_noise(self, input_latent: Mapping[str, Any]) -> Tensor:
        """Unit noise for a LATENT: from the mixture where its size fits, else fresh noise."""
        samples = input_latent["samples"]
        generators = seeding.picture_generators(len(samples), self.seed, "NOISE")
        shape = tuple(samples.shape[1:])
        if self.mixture is None or shape != tuple(self.mixture.best.shape):
            return seeding.randn(shape, generators)
        return self.mixture.sample(generators, seeding.generator(self.seed, "NOISE order"))[0]


class HERO_LatentMixture(io.ComfyNode):
    """Make the next round's noise from this round's marks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HERO_LatentMixture",
            display_name="Latent Mixture",
            category=CATEGORY,
            **found_by("noise", "good noise", "refined noise"),
            description=(
                "The next round starts from noise near that of the best and the good pictures. Leave it out to draw "
                "fresh noise every round. The NOISE output works in any stock custom sampler."
            ),
            inputs=[
                RolloutType.Input("rollout", tooltip="From HERO Sampler."),
                FeedbackType.Input("feedback", tooltip="From Feedback Grid."),
                *widgets(MixtureSettings, "beta", "eps0"),
            ],
            outputs=[
                MixtureType.Output(display_name="mixture", tooltip="For Save Round."),
                io.Noise.Output(display_name="noise", tooltip="For SamplerCustomAdvanced and the like."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, rollout: Drawn, feedback: Rated, beta: float, eps0: float) -> io.NodeOutput:
        same_round(rollout, feedback.drawn, "feedback")
        session, drawn = rollout.session, rollout.rollout
        with normal_mode():
            mixture = next_mixture(session, drawn, feedback.feedback, MixtureSettings(beta, eps0))
        seed = seeding.seed_for(session.settings.seed, drawn.round, "NOISE")
        return io.NodeOutput(Mixed(rollout, mixture), MixtureNoise(mixture, seed))
