# SPDX-License-Identifier: Apache-2.0
"""The methods that are compared: which noise, which reward and which update a round learns by."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..reward import UNLEARNED, RewardMode
from ..update.common import OptimizerSettings
from ..update.d3po import D3POSettings
from ..update.ddpo import DDPOSettings
from ..update.goods import GoodsSettings
from ..update.nft import NFTSettings
from ..update.score_action import ScoreActionSettings
from .traps import Trap


@dataclass(frozen=True)
class Method:
    """One method. ``noise``: rounds after the first are drawn from the mixture; ``update`` None changes no weight.

    ``all_steps``: every step of a trajectory is recorded, so that two pictures have steps in common.
    ``trap``: a slip made on purpose (:mod:`.traps`).
    """

    title: str
    reward: RewardMode = "best"
    noise: bool = True
    update: OptimizerSettings | None = field(default_factory=DDPOSettings)
    all_steps: bool = False
    trap: Trap | None = None

    @property
    def embedding(self) -> bool:
        """Whether E takes part in the reward."""
        return self.reward not in UNLEARNED


METHODS: dict[str, Method] = {
    "hero": Method("HERO, as published"),
    "ddpo": Method("DDPO: binary marks, fresh noise", "binary", noise=False),
    "d3po": Method("D3PO: pairs of marks, fresh noise", "binary", noise=False, update=D3POSettings(), all_steps=True),
    "goods": Method("finetuning on the goods, fresh noise", "binary", noise=False, update=GoodsSettings()),
    "nft": Method("DiffusionNFT, fresh noise", "binary", noise=False, update=NFTSettings()),
    "noise": Method("noise guidance alone, no update", "binary", update=None),
    "hero_fresh": Method("HERO without noise guidance", noise=False),
    "hero_latent": Method("HERO without E: cosine of raw latents", "latent"),
    "hero_goods": Method("HERO, similarity to all goods", "goods"),
    "hero_projected": Method("HERO, similarity after the projection head", "projected"),
    "goods_noise": Method("finetuning on the goods, with noise guidance", "binary", update=GoodsSettings()),
    "nft_noise": Method("DiffusionNFT, with noise guidance", "binary", update=NFTSettings()),
    "nft_embedding": Method(
        "DiffusionNFT on E's rewards, fresh noise", "projected", noise=False, update=NFTSettings(source="embedding")
    ),
    "nft_embedding_noise": Method("HERO with DiffusionNFT in place of DDPO", update=NFTSettings(source="embedding")),
    "score_action": Method("Scores as Actions, E and noise guidance", update=ScoreActionSettings()),
    "score_action_projected": Method(
        "Scores as Actions, reward after the projection head", "projected", update=ScoreActionSettings()
    ),
    "score_action_marks": Method(
        "Scores as Actions: binary marks, fresh noise", "binary", noise=False, update=ScoreActionSettings()
    ),
    "score_action_fresh": Method("Scores as Actions, fresh noise", noise=False, update=ScoreActionSettings()),
    "hero_batch_cosine": Method("HERO with its cosine over the batch axis", trap="batch_cosine"),
    "hero_wrong_best": Method("HERO with a place among the goods taken for the best picture", trap="wrong_best"),
}
"""The methods by name. All share the base model, the sampler, the pictures a round and the LoRA."""
