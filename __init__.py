# SPDX-License-Identifier: Apache-2.0
"""HERO for ComfyUI: teach a checkpoint what you like by marking pictures."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .nodes import server
from .nodes.ddpo_update import HERO_DDPOUpdate
from .nodes.embedding_trainer import HERO_EmbeddingTrainer
from .nodes.feedback_grid import HERO_FeedbackGrid
from .nodes.forward_update import HERO_NFTUpdate
from .nodes.latent_mixture import HERO_LatentMixture
from .nodes.rate_latents import HERO_RateLatents
from .nodes.sampler import HERO_Sampler
from .nodes.save_round import HERO_SaveRound
from .nodes.score_action_update import HERO_ScoreActionUpdate
from .nodes.session import HERO_Session
from .nodes.session_model import HERO_SessionModel
from .nodes.tiny_model import HERO_TinyModel

WEB_DIRECTORY = "./web"
NODES = [
    HERO_TinyModel, HERO_Session, HERO_Sampler, HERO_FeedbackGrid,
    HERO_EmbeddingTrainer, HERO_DDPOUpdate, HERO_LatentMixture, HERO_SaveRound,
    HERO_NFTUpdate, HERO_RateLatents, HERO_SessionModel, HERO_ScoreActionUpdate,
]  # fmt: skip

# Not in on_load(), which some supported versions of ComfyUI do not call.
server.mount()


class HeroExtension(ComfyExtension):
    """The pack as ComfyUI's third node interface takes it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> HeroExtension:
    """What ComfyUI calls after the import."""
    return HeroExtension()
