# SPDX-License-Identifier: Apache-2.0
"""Update rules, one file each, one signature:

``update(policy, lora, rollout, reward, settings, *, seed, progress) -> (LoRAState, metrics)``.
"""

from __future__ import annotations

from typing import Any

from . import d3po, ddpo, goods, nft, score_action
from .common import OptimizerSettings

RULES: dict[type[OptimizerSettings], Any] = {
    ddpo.DDPOSettings: ddpo.update,
    d3po.D3POSettings: d3po.update,
    goods.GoodsSettings: goods.update,
    nft.NFTSettings: nft.update,
    score_action.ScoreActionSettings: score_action.update,
}
"""Update rules by the type of their settings."""
